"""Small models to spoil, and what checks find in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tensorkeep.models.checking import check
from tensorkeep.models.checks.findings import Finding

FIVE_FAULTS = Path(__file__).parent.parent / "data/onnx/five_faults.pbtxt"


def sound(ir_version: int = 8, opset: int = 17) -> onnx.ModelProto:
    """Give a convolution, a sum and a branch, with which nothing is wrong."""
    value = helper.make_tensor_value_info
    then = helper.make_graph([helper.make_node("Relu", ["b"], ["t"])], "then", [], [_open("t")])
    other = helper.make_graph([helper.make_node("Neg", ["b"], ["e"])], "else", [], [_open("e")])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "bias"], ["b"], "add"),
        helper.make_node("If", ["flag"], ["y"], "if", then_branch=then, else_branch=other),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [value("x", TensorProto.FLOAT, ["N", 1, 8, 8]), value("flag", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [
            numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w"),
            numpy_helper.from_array(np.zeros((2, 1, 1), np.float32), "bias"),
        ],
        value_info=[value("a", TensorProto.FLOAT, ["N", 2, 8, 8])],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, ir_version=ir_version, opset_imports=opsets)


def _open(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 8, 8])


def found(model: onnx.ModelProto, folder: Path, *, official: bool = True) -> list[Finding]:
    """Save a model and check it."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return check(path, official=official)


def told(findings: list[Finding]) -> set[tuple[str, str]]:
    """Give code and place of the findings."""
    return {(finding.code, finding.where) for finding in findings}


def only(findings: list[Finding]) -> Finding:
    """Give the one finding that there is."""
    assert len(findings) == 1, list(map(str, findings))
    return findings[0]
