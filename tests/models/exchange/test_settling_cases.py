"""ONNX's own cases, settled: what is made of them gives the same, of the shapes that were told."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tests.models.exchange.rebuilding import plain, rebuild
from tests.models.exchange.settling_here import settling_here
from tests.onnx_cases import node_cases

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settling import settle
from tensorkeep.models.ops.history import operators_of
from tensorkeep.state import State

ALL = frozenset(operators_of(""))


def _state(model: onnx.ModelProto) -> State:
    return State.of_graph(Graph(Message.parse(MODEL, model.SerializeToString())))


# Cases whose results are random, and those whose nodes ONNX Runtime computes otherwise than ONNX
# defines them.
_NOT_COMPARED = ("random", "bernoulli", "dropout", "qk_matmul")


def _check(case: Any, keeps: frozenset[str]) -> str:
    model, (inputs, _) = case.model, case.data_sets[0]
    given = {row.name: plain(v) for row, v in zip(model.graph.input, inputs, strict=False)}
    shapes = {
        row.name: given[row.name].shape
        for row in model.graph.input
        if any(axis.dim_param for axis in row.type.tensor_type.shape.dim)
    }
    try:
        with settling_here():
            settled = settle(_state(model), Report("onnx", "nnef"), shapes=shapes, keeps=keeps)
    except (ArgumentError, UnsupportedError) as error:
        return f"refused: {error}"
    rebuilt = rebuild(settled, model.opset_import[0].version or 28)
    if rebuilt is None:
        return "of several opsets"
    try:
        before = tk.run(_state(model), given)
    except tk.errors.TensorKeepError:
        return "not run"
    after = tk.run(_state(rebuilt), {name: given[name] for name in settled.inputs})
    for name, value in before.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            np.testing.assert_allclose(
                after[name].astype("complex128"), value.astype("complex128"), 2e-3, 1e-3
            )
    arrays = {name: value for name, value in after.items() if isinstance(value, np.ndarray)}
    for name, value in arrays.items():
        assert settled.shapes.get(name, value.shape) == value.shape, (case.name, name)
    return "equal"


def _cases() -> list[Any]:
    named = sorted(node_cases(), key=lambda case: str(case.name))
    apart = ("sequence", "optional", "identity_opt", "loop1", "ai_onnx_ml", "string", "if_opt")
    return [case for case in named if not any(w in case.name for w in (*_NOT_COMPARED, *apart))]


@pytest.mark.parametrize("keeps", [ALL, frozenset[str]()])
def test_a_sample_of_onnx_cases_gives_the_same(keeps: frozenset[str]) -> None:
    found = [_check(case, keeps) for case in _cases()[::45]]
    assert found.count("equal") > 25


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [ALL, frozenset[str]()])
def test_all_onnx_cases_give_the_same(keeps: frozenset[str]) -> None:
    found = [_check(case, keeps) for case in _cases()]
    assert found.count("equal") > 1200
    assert sum(each.startswith("refused") for each in found) < 20, found
