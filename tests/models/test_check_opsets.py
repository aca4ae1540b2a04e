"""The opset that is chosen where a model imports none, and those that IR versions came with."""

from __future__ import annotations

import onnx.helper
import pytest

from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.checks.opsets import choose_opset, newest_for
from tensorkeep.models.checks.scopes import roots


def test_newest_opsets_of_ir_versions() -> None:
    table = onnx.helper.VERSION_TABLE
    for version in {row[1] for row in table}:
        rows = [row for row in table if row[1] == version]
        assert newest_for("", version) == max(row[2] for row in rows)
        assert newest_for("ai.onnx.ml", version) == max(row[3] for row in rows)


@pytest.mark.parametrize(
    ("node", "ir_version", "opset"),
    [
        ('op_type: "Relu" input: "x" output: "y"', 8, 18),
        ('op_type: "Relu" input: "x" output: "y"', 4, 9),
        ('op_type: "Squeeze" input: "x" output: "y" attribute { name: "axes" }', 8, 12),
        ('op_type: "Gelu" input: "x" output: "y"', 8, 20),
        ('op_type: "Upsample" input: "x" input: "s" output: "y"', 8, 9),
    ],
)
def test_opset_that_fits(node: str, ir_version: int, opset: int) -> None:
    model = Message.from_text(MODEL, f"graph {{ node {{ {node} }} }}")
    assert choose_opset("", roots(model), ir_version) == opset
