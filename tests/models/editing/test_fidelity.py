"""No edit loses anything that it is not about: one row for each feature of ONNX and each edit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.models.editing.probe import FEATURES, UNKNOWN, features, probe

import tensorkeep as tk
from tensorkeep.errors import LossError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.editing import (
    attach,
    batch,
    cast,
    convert_opset,
    cut,
    expose,
    merge,
    rename,
    strip,
)
from tensorkeep.models.opening import graph_of
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

BIG = {"big": np.zeros((4, 128), "f4")}


def state_of(data: bytes) -> State:
    return State.of_graph(Graph(Message.parse(MODEL, data)))


def _merged(state: State) -> State:
    weights = State({"big": Tensor.of(BIG["big"])})
    return merge(state, weights, partial=True)


EDITS: dict[str, Callable[[State], State]] = {
    "rename": lambda s: rename(s, {"z": "last", "node:end": "finish"}),
    "cut": lambda s: cut(s, outputs=["y"]),
    "batch": lambda s: batch(s, "N", partial=True),
    "expose": lambda s: expose(s, ["m", "f"]),
    "opset up": lambda s: convert_opset(s, 13),
    "opset down": lambda s: convert_opset(s, 11),
    "cast": lambda s: cast(s, "float16"),
    "cast and back": lambda s: cast(cast(s, "float16"), "float32"),
    "compute": lambda s: cast(s, "float16", compute=True),
    "merge": _merged,
    "strip": lambda s: strip(s),
    "strip and attach": lambda s: attach(strip(s), s),
}
# What an edit is about: the types in graphs, and what they are given to work on.
ABOUT = {
    "batch": {"attribute graph", "attribute graphs"},
    "opset up": {"functions"},
    "opset down": {"functions"},
    "compute": {"attribute graph", "attribute graphs", "then_branch", "else_branch", "overload"},
}


@cache
def original(edit: str) -> bytes:
    return probe(training=edit != "compute")


@cache
def before(edit: str) -> dict[str, Any]:
    return features(original(edit))


@cache
def after(edit: str) -> dict[str, Any]:
    state = state_of(original(edit))
    result = EDITS[edit](state)
    assert graph_of(state).model.encode() == original(edit)  # what is given stays as it was
    return features(graph_of(result).model.encode())


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("feature", FEATURES)
def test_feature_survives(feature: str, edit: str) -> None:
    assert feature in after(edit)
    if feature not in ABOUT.get(edit, ()):
        assert after(edit)[feature] == before(edit)[feature]


def test_open_and_save_gives_the_same_bytes(tmp_path: Path) -> None:
    data = probe()
    (tmp_path / "a.onnx").write_bytes(data)
    with tk.open(tmp_path / "a.onnx") as state:
        tk.save(state, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == data


@pytest.mark.parametrize("ending", [".pbtxt", ".onnx.json"])
def test_text_keeps_all_but_unknown_fields(tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"m{ending}"
    state = state_of(probe())
    with pytest.raises(LossError, match="fields that ONNX does not have"):
        tk.save(state, target)
    known = onnx.load_from_string(probe())
    known.DiscardUnknownFields()
    data = known.SerializeToString()
    assert UNKNOWN not in data
    tk.save(state_of(data), target)
    with tk.open(target) as again:
        found, wanted = features(graph_of(again).model.encode()), features(data)
    assert {k: v for k, v in found.items() if v != wanted[k]} == {}
