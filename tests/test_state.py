from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.state import State, name_problem
from tensorkeep.tensor import Tensor


def make(*names: str, **options: Any) -> State:
    return State({name: Tensor.of(np.zeros(2, np.float32)) for name in names}, **options)


def test_is_a_mapping_in_order() -> None:
    state = make("b", "a", "c", metadata={"x": 1})
    assert list(state) == ["b", "a", "c"]
    assert (len(state), "a" in state, "d" in state, state.nbytes) == (3, True, False, 24)
    assert dict(state)["a"].shape == (2,)
    assert repr(state) == "State(3 tensors, 24 bytes)"
    assert repr(make("a", format="npz")) == "State(1 tensor, 8 bytes, npz)"
    assert state == state
    assert state != make("b", "a", "c")
    assert len({state, state}) == 1


def test_a_misspelt_name_is_answered() -> None:
    state = make("encoder.weight", "encoder.bias", where="m.safetensors")
    with pytest.raises(errors.MissingError, match=r"m\.safetensors.*Did you mean encoder\.weight"):
        state["encoder.wieght"]
    with pytest.raises(KeyError, match="no tensors"):
        make()["a"]
    assert state.get("missing") is None
    with pytest.raises(errors.MissingError, match="and 5 more"):
        make(*"abcdefghij")["?"]


@pytest.mark.parametrize("key", [3, None, ("a",), b"a", ["a"], {}, slice(None)])
def test_names_are_text(key: Any) -> None:
    with pytest.raises((errors.MissingError, errors.ArgumentError)):
        make("a")[key]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("*", ["b.w", "a.w", "a.b", "x[0]"]),
        ("a.*", ["a.w", "a.b"]),
        ("*.w", ["b.w", "a.w"]),
        ("?.b", ["a.b"]),
        (["a.b", "b.w"], ["b.w", "a.b"]),
        (["a.*", "*.b"], ["a.w", "a.b"]),
        ("x[0]", ["x[0]"]),
        ("[ab].w", ["b.w", "a.w"]),
        ([], []),
        (("a.w",), ["a.w"]),
        ({"a.w": 1}, ["a.w"]),
    ],
)
def test_globs(names: Any, expected: list[str]) -> None:
    assert make("b.w", "a.w", "a.b", "x[0]").match(names) == expected


def test_globs_mind_case() -> None:
    with pytest.raises(errors.MissingError):
        make("W").match("w*")
    assert make("W", "w").match("W*") == ["W"]


@pytest.mark.parametrize("names", ["nothing*", ["a", "nothing"], ""])
def test_globs_that_match_nothing(names: Any) -> None:
    with pytest.raises(errors.MissingError):
        make("a").match(names)


@pytest.mark.parametrize("names", [3, [3], b"a", [None], None, object()])
def test_globs_that_are_no_text(names: Any) -> None:
    with pytest.raises(errors.ArgumentError):
        make("a").match(names)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("encoder/layer.0:0", ""),
        ("", ""),
        ("a..b", ""),
        ("...", ""),
        ("x" * 4096, ""),
        ("ü" * 2048, ""),
        ("..", "has .. as a folder"),
        ("a/..", "has .. as a folder"),
        ("a\\..\\b", "has .. as a folder"),
        ("a\0", "holds a NUL"),
        ("x" * 4097, "is longer than 4096 bytes"),
        ("ü" * 2049, "is longer than 4096 bytes"),
    ],
)
def test_names_that_are_refused(name: str, problem: str) -> None:
    assert name_problem(name) == problem
    if problem:
        with pytest.raises(errors.UnsafeError, match="tensor name"):
            make("good", name, where="m")
        with pytest.raises(errors.UnsafeError):
            make(name)
    else:
        assert list(make("good", name)) == ["good", name]


def test_closing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tk.save({"w": np.ones(3)}, path)
    with tk.open(path) as state:
        kept = state["w"].numpy()
        tensor = state["w"]
    assert kept.tolist() == [1, 1, 1]
    for read in (tensor.numpy, tensor.read, lambda: tensor[0], lambda: tk.save(state, path)):
        with pytest.raises(errors.ClosedError):
            read()
    assert state["w"].shape == (3,)
    state.close()
    assert tk.load(path)["w"].tolist() == [1, 1, 1]
    assert make("a").__enter__() is not None


def test_a_tensor_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tk.save({"w": np.ones(3)}, path)
    tensor = tk.open(path)["w"]
    assert tensor.numpy().tolist() == [1, 1, 1]
