"""The table of what operators take, against onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx.defs
import pytest

from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.checks.opsets import choose_opset, newest_for
from tensorkeep.models.checks.scopes import roots
from tensorkeep.models.checks.signatures import newest_opset, signature_at, versions_of

ROOT = Path(__file__).parent.parent.parent


def test_table_is_that_of_onnx() -> None:
    script = ROOT / "scripts/signatures_table.py"
    ran = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("opset", [1, 7, 9, 13, 17, 22, onnx.defs.onnx_opset_version()])
def test_every_operator_at_an_opset(opset: int) -> None:
    for name in {schema.name for schema in onnx.defs.get_all_schemas()}:
        found = signature_at("", name, opset)
        try:
            schema = onnx.defs.get_schema(name, opset)
        except onnx.defs.SchemaError:
            assert found is None
            continue
        assert found is not None
        assert (found.version, found.deprecated) == (schema.since_version, schema.deprecated)
        assert found.least_inputs == schema.min_input
        assert set(found.attributes) == set(schema.attributes)


def test_newest_opsets_of_ir_versions() -> None:
    table = onnx.helper.VERSION_TABLE
    for version in {row[1] for row in table}:
        rows = [row for row in table if row[1] == version]
        assert newest_for("", version) == max(row[2] for row in rows)
        assert newest_for("ai.onnx.ml", version) == max(row[3] for row in rows)
    assert newest_opset("") == onnx.defs.onnx_opset_version()
    assert versions_of("com.example", "Conv") == ()


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


def test_json_is_small() -> None:
    path = ROOT / "src/tensorkeep/models/checks/signatures.json"
    assert path.stat().st_size < 100_000
    assert json.loads(path.read_text())["versions"]
