"""The table of all versions of operators is that of the onnx package, and small."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import onnx.defs
import pytest

from tensorkeep.models.ops import Attribute, Parameter
from tensorkeep.models.ops.history import (
    domains,
    newest_opset,
    operators_of,
    version_at,
    versions_of,
)

ROOT = Path(__file__).parents[3]
SCHEMAS = onnx.defs.get_all_schemas_with_history()
WITH_ONNX = pytest.mark.skipif(onnx.__version__ != "1.23.2", reason="made with another onnx")


def test_table_is_what_the_script_makes() -> None:
    script = ROOT / "scripts" / "ops_table.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr or "not compared with" in done.stderr


def test_table_is_small() -> None:
    assert (ROOT / "src/tensorkeep/models/ops/history.json").stat().st_size < 130_000


@WITH_ONNX
def test_operators_are_those_of_onnx() -> None:
    for domain in {schema.domain for schema in SCHEMAS}:
        names = sorted({schema.name for schema in SCHEMAS if schema.domain == domain})
        assert operators_of(domain) == names
        newest = max(schema.since_version for schema in SCHEMAS if schema.domain == domain)
        assert newest_opset(domain) == (newest if domain else onnx.defs.onnx_opset_version())
    assert set(domains()) == {schema.domain for schema in SCHEMAS}


@WITH_ONNX
def test_every_version_is_that_of_onnx() -> None:
    for schema in SCHEMAS:
        found = version_at(schema.domain, schema.name, schema.since_version)
        assert found is not None
        assert found.since == schema.since_version
        assert found.deprecated == schema.deprecated
        has_function = schema.has_function or schema.has_context_dependent_function
        assert found.has_function == has_function
        for what, theirs in (("input", schema.inputs), ("output", schema.outputs)):
            mine = getattr(found, f"{what}s")
            least, most = getattr(schema, f"min_{what}"), getattr(schema, f"max_{what}")
            assert getattr(found, f"least_{what}s") == least
            assert getattr(found, f"most_{what}s") == (most if most < 2**31 - 1 else None)
            assert len(mine) == len(theirs)
            for parameter, formal in zip(mine, theirs, strict=True):
                compare_parameter(parameter, formal)
        assert len(found.types) == len(schema.type_constraints)
        for constraint in schema.type_constraints:
            wanted = set(constraint.allowed_type_strs)
            assert set(map(whole, found.types[constraint.type_param_str])) == wanted
        assert list(found.attributes) == sorted(schema.attributes)
        for attribute in found.attributes.values():
            compare_attribute(attribute, schema.attributes[attribute.name])
        required = {name for name, each in schema.attributes.items() if each.required}
        assert set(found.required) == required
    count = sum(len(versions_of(d, name)) for d in domains() for name in operators_of(d))
    assert count == len(SCHEMAS)


def compare_parameter(parameter: Parameter, formal: Any) -> None:
    assert parameter.name == formal.name
    assert parameter.kind == formal.option.name.lower()
    assert parameter.uniform == (formal.is_homogeneous or parameter.kind != "variadic")
    assert formal.type_str in (parameter.type, whole(parameter.type))


def whole(kind: str) -> str:
    """Give a type as onnx spells it, which is a tensor's unless it says otherwise."""
    return kind if "(" in kind else f"tensor({kind})"


def compare_attribute(attribute: Attribute, theirs: Any) -> None:
    assert attribute.type == theirs.type.name.lower()
    assert attribute.required == theirs.required
    given = theirs.default_value
    default: Any = onnx.helper.get_attribute_value(given) if given.type else None
    match attribute.default:
        case None:
            assert given.type in (onnx.AttributeProto.UNDEFINED, onnx.AttributeProto.TENSOR)
        case str():
            assert attribute.default.encode() == default
        case float():
            assert attribute.default == pytest.approx(default)
        case tuple():
            texts = [item.decode() if isinstance(item, bytes) else item for item in default]
            assert [*attribute.default] == texts
        case _:
            assert attribute.default == default


@pytest.mark.parametrize("opset", [0, 1, 7, 9, 13, 17, 22, onnx.defs.onnx_opset_version()])
def test_version_at_an_opset(opset: int) -> None:
    for name in {schema.name for schema in SCHEMAS if not schema.domain}:
        found = version_at("", name, opset)
        try:
            since = onnx.defs.get_schema(name, opset).since_version if opset else None
        except onnx.defs.SchemaError:
            since = None
        assert (found.since if found else None) == since
        holding = [version for version in versions_of("", name) if version.has(opset)]
        assert holding == ([found] if found else [])


def test_versions_follow_one_another() -> None:
    for domain in domains():
        for name in operators_of(domain):
            versions = versions_of(domain, name)
            assert all(a.until == b.since - 1 for a, b in pairwise(versions))
            assert versions[-1].until is None


def test_what_is_not_there() -> None:
    assert versions_of("com.example", "Conv") == ()
    assert version_at("", "Cnov", 20) is None
    assert operators_of("com.example") == []
    assert newest_opset("com.example") is None
