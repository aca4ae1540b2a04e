from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.metadata_models import entries_of, plain, trained, with_entries

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.describing import metadata, replaced_entries, set_metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return with_entries(tmp_path / "m.onnx")


def change(path: Path, **facts: Any) -> dict[str, Any]:
    """Set facts of a file in place, and read them again."""
    with tk.open(path) as state:
        tk.save(set_metadata(state, {k.replace("__", "."): v for k, v in facts.items()}), path)
    onnx.load(path)
    return metadata(path)


def in_memory() -> tk.State:
    return tk.State.of_graph(Graph(Message.parse(MODEL, plain().SerializeToString())))


def test_a_model_without_any(path: Path) -> None:
    assert metadata(path) == {"name": "scaling", "ir_version": 8, "opset": {"ai.onnx": 17}}


def test_fields_are_those_of_onnx(path: Path) -> None:
    facts = {
        "name": "scaler",
        "version": 12,
        "domain": "com.example",
        "producer": "maker",
        "producer_version": "1.0",
        "doc": "It scales.\nÖ",
    }
    found = change(path, **facts)
    assert {key: found[key] for key in facts} == facts
    read = onnx.load(path)
    onnx.checker.check_model(read)
    assert (read.graph.name, read.graph.doc_string) == ("scaler", "It scales.\nÖ")
    assert (read.model_version, read.domain) == (12, "com.example")
    assert (read.producer_name, read.producer_version) == ("maker", "1.0")
    assert "version" not in change(path, version=None)
    assert not onnx.load(path).HasField("model_version")
    assert "doc" not in change(path, doc=None, domain=None)


def test_training_facts_are_entries_under_their_own_keys(path: Path) -> None:
    facts = {
        "author": "Ada",
        "license": "MIT",
        "training__optimizer": "adam",
        "training__learning_rate": 0.001,
        "training__batch_size": 64,
        "training__epochs": 90,
        "training__dataset": "digits",
        "training__loss": "cross-entropy",
        "training__metrics": {"accuracy": 0.98, "confusion": [[9, 1], [0, 10]]},
    }
    found = change(path, **facts)
    for key, value in facts.items():
        fact = found[key.replace("__", ".")]
        assert (fact, type(fact)) == (value, type(value))
    assert entries_of(path)[:4] == [
        ("model_author", "Ada"),
        ("model_license", "MIT"),
        ("training.optimizer", "adam"),
        ("training.learning_rate", "0.001"),
    ]


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAVES | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(VALUES.filter(lambda value: value is not None))
def test_every_value_reads_back(value: Any) -> None:
    state = in_memory()
    found = metadata(set_metadata(state, {"training.thing": value}))["training.thing"]
    assert found == value
    assert type(found) is type(value)
    assert "training.thing" not in metadata(state)


@pytest.mark.parametrize("text", ["3", "0.5", "true", "null", "[1]", '"', "-", "1e5", "1.00", "{"])
def test_text_stays_text(text: str) -> None:
    changed = set_metadata(in_memory(), {"note": text, "author": text})
    assert metadata(changed)["note"] == text
    assert metadata(changed)["author"] == text
    assert changed.metadata["model_author"] == text


@pytest.mark.parametrize("text", ["[" * 60_000, "9" * 5000, "NaN", "-Infinity", '{"a": ' * 9000])
def test_text_that_is_nearly_json(tmp_path: Path, text: str) -> None:
    assert metadata(with_entries(tmp_path / "m.onnx", ("a", text)))["a"] == text


def test_numbers_that_are_not_finite_and_those_of_numpy() -> None:
    found = metadata(set_metadata(in_memory(), {"a": np.float64(0.5), "b": np.int8(3)}))  # type: ignore[dict-item]
    assert (found["a"], found["b"]) == (0.5, 3)
    assert metadata(set_metadata(in_memory(), {"a": math.inf}))["a"] == "inf"


def test_what_other_tools_write_is_read(tmp_path: Path) -> None:
    path = with_entries(
        tmp_path / "m.onnx",
        ("author", "Someone"),
        ("license", "AGPL-3.0"),
        ("version", "8.3.0"),
        ("stride", "32"),
        ("names", "{0: 'person'}"),
        ("imgsz", "[640, 640]"),
        ("optimizer", "SGD"),
        ("lr0", "0.01"),
    )
    found = metadata(path)
    assert (found["author"], found["license"]) == ("Someone", "AGPL-3.0")
    assert (found["stride"], found["imgsz"]) == (32, [640, 640])
    assert found["names"] == "{0: 'person'}"
    assert (found["training.optimizer"], found["training.learning_rate"]) == ("SGD", 0.01)
    # An entry that has the name of a field of ONNX is told apart from it.
    assert "version" not in found
    assert found["metadata_props.version"] == "8.3.0"
    found = change(path, **{"metadata_props.version": "9", "version": 4})
    assert (found["metadata_props.version"], found["version"]) == ("9", 4)
    assert ("version", '"9"') in entries_of(path)


def test_setting_writes_the_documented_key_in_the_place_of_others(tmp_path: Path) -> None:
    path = with_entries(
        tmp_path / "m.onnx", ("author", "A"), ("x", "1"), ("model_author", "B"), ("author", "C")
    )
    with tk.open(path) as state:
        assert metadata(state)["author"] == "B"
        assert replaced_entries(state, "author") == ["author", "model_author", "author"]
        assert replaced_entries(state, "x") == replaced_entries(state, "name") == []
    assert change(path, author="D")["author"] == "D"
    assert entries_of(path) == [("model_author", "D"), ("x", "1")]
    change(path, author=None)
    assert entries_of(path) == [("x", "1")]


def test_keys_that_are_there_twice_stay_until_they_are_set(tmp_path: Path) -> None:
    twice = [("a", "1"), ("b", "2"), ("a", "3")]
    path = with_entries(tmp_path / "m.onnx", *twice)
    assert metadata(path)["a"] == 3
    change(path, c="new")
    assert entries_of(path) == [*twice, ("c", "new")]
    change(path, a=4)
    assert entries_of(path) == [("a", "4"), ("b", "2"), ("c", "new")]


def test_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = plain()
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    unknown = bytes.fromhex("c2 3e 03 61 62 63")  # field 1000, which ONNX does not have
    path.write_bytes(path.read_bytes() + unknown)
    before, weights = path.read_bytes(), (tmp_path / "w.bin").stat()
    with tk.open(path) as state:
        tk.save(set_metadata(state, {"name": "scaling"}), path)
    assert path.read_bytes() == before
    change(path, author="Ada", version=3)
    after = onnx.load(path, load_external_data=False)
    assert unknown in path.read_bytes()
    found = (tmp_path / "w.bin").stat()
    assert (found.st_ino, found.st_mtime_ns) == (weights.st_ino, weights.st_mtime_ns)
    del after.metadata_props[:]
    after.ClearField("model_version")
    assert after.SerializeToString() == before
    change(path, author=None, version=None)
    assert path.read_bytes() == before


def test_a_model_with_checksums_stays_sound(path: Path) -> None:
    with tk.open(path) as state:
        tk.save(state, path, checksums=True, metadata={"epoch": 3, "who": "me"})
    assert metadata(path)["epoch"] == 3
    found = change(path, author="Ada", epoch=4)
    assert (found["author"], found["epoch"], found["who"]) == ("Ada", 4, "me")
    assert tk.verify(path).ok
    assert not tk.verify(path).unchecked
    assert "epoch" not in change(path, epoch=None)


@pytest.mark.parametrize("ending", ["pbtxt", "onnx.json"])
def test_models_as_text(path: Path, ending: str) -> None:
    text = path.with_name(f"m.{ending}")
    tk.convert(path, text)
    with tk.open(text) as state:
        tk.save(set_metadata(state, {"author": "Ada"}), text)
    assert metadata(text)["author"] == "Ada"


def test_what_cannot_be_set(path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"opset": 20}, "opset says what the model is, and cannot be set"),
        ({"ir_version": 9}, "ir_version says what the model is"),
        ({"training_info": []}, "training_info says what the model is"),
        ({"tensorkeep": "x"}, "where tensorkeep keeps notes of its own"),
        ({"version": "3"}, "version is a whole number, not '3'"),
        ({"version": True}, "version is a whole number, not True"),
        ({"version": 2**64}, "model_version cannot be"),
        ({"name": ""}, "a graph cannot be without a name"),
        ({"doc": 3}, "doc is text, not 3"),
        ({"author": 3}, "author is text, not 3"),
        ({"": 3}, "a key, which cannot be ''"),
        ({3: 3}, "a key, which cannot be 3"),  # type: ignore[dict-item]
        ([1], "facts are a dict of values by their keys"),  # type: ignore[list-item]
        ({"a": object()}, "a cannot be <object"),
        ({"a": [math.nan]}, "a cannot be .nan"),
        ({"a": "\ud800"}, "half a surrogate pair"),
    ]
    for facts, problem in cases:
        with pytest.raises(ArgumentError, match=problem), tk.open(path) as state:
            set_metadata(state, facts)


def test_other_files_are_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"w": np.ones(2)}, path, metadata={"epoch": 5, "by": "us"})
    assert metadata(path) == {"epoch": 5, "by": "us"}
    with pytest.raises(ArgumentError, match=r"is safetensors, .* Save it anew"):
        set_metadata(path, {"epoch": 6})
    with pytest.raises(MissingError):
        metadata(tmp_path / "none.onnx")


def test_graphs_for_training(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(trained(), path)
    found = metadata(path)
    assert found["opset"] == {"ai.onnx": 17, "ai.onnx.preview.training": 1}
    assert found["training_info"] == [
        {
            "initialization": {"nodes": 1, "bindings": {"w": "w_start"}},
            "algorithm": {
                "nodes": 2,
                "inputs": ["target"],
                "outputs": ["w_new"],
                "bindings": {"w": "w_new", "first": "first_new"},
            },
            "optimizers": [
                {
                    "op": "ai.onnx.preview.training.Adam",
                    "attributes": {
                        "alpha": pytest.approx(0.9),
                        "beta": pytest.approx(0.999),
                        "epsilon": pytest.approx(1e-8),
                        "norm_coefficient": 0.0,
                    },
                    "rate": pytest.approx(0.01),
                    "step": 7,
                }
            ],
        }
    ]
