from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from tests.cli.running import ESCAPE, Run, is_safe
from tests.models.metadata_models import entries_of, trained, with_entries


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return with_entries(
        tmp_path / "m.onnx", ("author", "Ada"), ("training.epochs", "3"), ("a", "1"), ("a", "2")
    )


def test_get_all(run: Run, model: Path) -> None:
    ran = run("meta", "get", model)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "name             scaling",
        "author           Ada",
        "training.epochs  3",
        "a                2",
        "ir_version       8",
        'opset            {"ai.onnx": 17}',
    ]
    assert run("meta", "get", model, "--json").json == {
        "name": "scaling",
        "author": "Ada",
        "training.epochs": 3,
        "a": 2,
        "ir_version": 8,
        "opset": {"ai.onnx": 17},
    }


def test_get_one(run: Run, model: Path) -> None:
    assert run("meta", "get", model, "author").out == "Ada\n"
    assert run("meta", "get", model, "training.epochs", "--json").json == 3
    ran = run("meta", "get", model, "training.epoch")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"{model} has no 'training.epoch'; there is training.epochs\n"
    assert run("meta", "get", model, "nothing", "--json").json is None


def test_get_of_a_model_with_graphs_for_training(run: Run, tmp_path: Path) -> None:
    onnx.save(trained(), tmp_path / "t.onnx")
    found = run("meta", "get", tmp_path / "t.onnx", "training_info", "--json").json
    assert found[0]["optimizers"][0]["op"] == "ai.onnx.preview.training.Adam"


def test_get_of_other_files(run: Run, file: Path) -> None:
    assert run("meta", "get", file, "--json").json == {"epoch": 5, "by": "us"}
    ran = run("meta", "set", file, "epoch=6")
    assert ran.code == 2
    assert "is safetensors, whose metadata is written with it alone" in ran.err


def test_set_in_place(run: Run, model: Path) -> None:
    ran = run("meta", "set", model, "version=4", "license=MIT", "training.learning_rate=0.01")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    found = run("meta", "get", model, "--json").json
    assert (found["version"], found["license"], found["training.learning_rate"]) == (4, "MIT", 0.01)
    assert onnx.load(model).model_version == 4
    assert entries_of(model)[-2:] == [("model_license", "MIT"), ("training.learning_rate", "0.01")]
    assert sorted(model.parent.iterdir()) == [model]


def test_set_tells_what_it_replaces(run: Run, model: Path) -> None:
    ran = run("meta", "set", model, "a=x=y", "author=Eve")
    assert ran.out.splitlines() == [
        "a: one entry now, in the place of a, a",
        "author: one entry now, in the place of author",
    ]
    assert entries_of(model) == [("model_author", "Eve"), ("training.epochs", "3"), ("a", "x=y")]


def test_set_elsewhere(run: Run, model: Path) -> None:
    before, other = model.read_bytes(), model.with_name("other.onnx")
    ran = run("meta", "set", model, "author=Eve", "--unset", "a", "--output", other, "--json")
    assert ran.json == {
        "path": str(other),
        "facts": {"author": "Eve"},
        "unset": ["a"],
        "replaced": {"author": ["author"]},
    }
    assert model.read_bytes() == before
    assert entries_of(other) == [("model_author", "Eve"), ("training.epochs", "3")]


def test_what_makes_no_sense(run: Run, model: Path) -> None:
    before = model.read_bytes()
    for arguments, problem in [
        (("show", model), "meta cannot 'show'"),
        (("get", model, "a", "b"), "meta get takes one KEY"),
        (("get", model, "--unset", "a"), "meta get takes no --unset"),
        (("set", model), "there is nothing to set"),
        (("set", model, "author"), "'author' is not KEY=VALUE"),
        (("set", model, "=x"), "'=x' is not KEY=VALUE"),
        (("set", model, "version=one"), "version is a whole number, not 'one'"),
        (("set", model, "opset=20"), "opset says what the model is, and cannot be set"),
        (("set", model, "--unset", "nothing"), "has no 'nothing' to remove"),
        (("set", model, "a=1", "a=2"), "'a' is given twice"),
        (("set", model, "a=1", "--unset", "a"), "'a' cannot be set and removed at once"),
        (("get", model.with_name("none.onnx")), "none.onnx"),
    ]:
        ran = run("meta", *arguments)
        assert ran.code == 2
        assert problem in ran.err
    assert model.read_bytes() == before


def test_what_a_model_says_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    path = with_entries(tmp_path / "m.onnx", (f"k{ESCAPE}", f"v{ESCAPE}\nmore"))
    ran = run("meta", "get", path)
    assert ran.code == 0
    assert is_safe(ran.out)
    assert run("meta", "get", path, "--json").json[f"k{ESCAPE}"] == f"v{ESCAPE}\nmore"
    assert is_safe(run("meta", "get", path, f"k{ESCAPE}").out)
    assert is_safe(run("meta", "get", path, f"x{ESCAPE}").err)
