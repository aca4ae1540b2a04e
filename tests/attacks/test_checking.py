"""Models made to hang, exhaust or crash what checks them: findings or errors of ours, at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.models.faulty import found, sound

from tensorkeep.errors import TensorKeepError
from tensorkeep.message.schema import encode_varint
from tensorkeep.models.checking import check
from tensorkeep.models.checks.findings import MOST, Finding
from tensorkeep.models.shapes import infer_shapes

LIMIT = 20.0  # seconds on a busy machine; each takes one or two alone


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < LIMIT


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def field(number: int, data: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(data)) + data


def with_functions(calls: dict[str, list[str]]) -> onnx.ModelProto:
    model = sound()
    model.opset_import.append(helper.make_opsetid("f", 1))
    for name, called in calls.items():
        nodes = [helper.make_node(each, ["x"], ["y"], domain="f") for each in called]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        model.functions.append(helper.make_function("f", name, ["x"], ["y"], nodes, imports))
    model.graph.node.append(helper.make_node(next(iter(calls)), ["y"], ["last"], domain="f"))
    return model


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    model = with_functions({"F": ["G"], "G": ["H"], "H": ["G"], "I": ["I"]})
    findings = found(model, tmp_path)
    assert {"recursive-function", "official-not-asked"} <= codes(findings)
    [finding] = [each for each in findings if each.code == "recursive-function"]
    assert "'f::G', functions[2] 'f::H', functions[3] 'f::I'" in finding.problem
    with pytest.raises(TensorKeepError, match="recursive-function"):
        infer_shapes(tmp_path / "model.onnx")


def test_functions_that_double_at_each_level(tmp_path: Path) -> None:
    calls = {f"F{i}": [f"F{i + 1}"] * 2 for i in range(60)}
    findings = found(with_functions(calls | {"F60": []}), tmp_path)
    assert {"exploding-functions", "official-not-asked"} <= codes(findings)


def test_thousands_of_functions_in_a_row(tmp_path: Path) -> None:
    calls = {f"F{i}": [f"F{i + 1}"] for i in range(2_000)}
    findings = found(with_functions(calls | {"F2000": []}), tmp_path)
    assert "official-not-asked" in codes(findings)


@pytest.mark.parametrize("depth", [20, 32, 40, 1000])
def test_subgraphs_within_subgraphs(depth: int, tmp_path: Path) -> None:
    graph = field(2, b"g")
    for _ in range(depth):
        attribute = field(1, b"body") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(2, b"g") + field(1, field(4, b"If") + field(5, attribute))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08" + field(7, graph))
    findings = check(tmp_path / "model.onnx")
    assert ("damaged" in codes(findings)) == (depth >= 32)
    if depth >= 32:
        assert "levels deep" in findings[0].problem


def test_thousands_of_subgraphs_beside_one_another(tmp_path: Path) -> None:
    model = sound()
    for index in range(1_500):
        node = model.graph.node.add()
        node.CopyFrom(model.graph.node[2])
        node.name, node.output[0] = f"if{index}", f"y{index}"
    findings = found(model, tmp_path, official=False)
    assert codes(findings) == {"unreachable-node"}


@pytest.mark.parametrize("size", [2**62, 2**63 - 1, -1, -(2**63)])
def test_absurd_sizes(size: int, tmp_path: Path) -> None:
    model = sound()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = size
    model.graph.initializer[0].dims[2] = size
    findings = found(model, tmp_path)
    expected = {"official-not-asked", "impossible-shape" if size < 0 else "absurd-size"}
    assert expected <= codes(findings)


def test_more_faults_than_anyone_reads(tmp_path: Path) -> None:
    model = sound()
    for index in range(5_000):
        op_type, taken = f"Foo{index}", f"unknown{index}"
        model.graph.node.append(helper.make_node(op_type, [taken], [f"out{index}"]))
    findings = found(model, tmp_path, official=False)
    assert len(findings) == MOST + 1
    assert "more findings are not listed" in findings[-1].problem


def test_a_crash_of_onnx_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import os\nprint('[\"check model\", null]', flush=True)\nos.abort()\n")
    monkeypatch.setattr("tensorkeep.models.apart.onnx_process.__file__", str(script))
    findings = found(sound(), tmp_path)
    assert codes(findings) == {"official-crashed"}
    assert "signal 6" in findings[0].problem


def test_names_cannot_steer_a_terminal_or_leave_the_folder(tmp_path: Path) -> None:
    model = sound()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    findings = found(model, tmp_path)
    assert {"unsafe-file", "official-not-asked"} <= codes(findings)


@given(data=st.data())
def test_bit_flips_and_truncations(data: st.DataObject) -> None:
    raw = bytearray(sound().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 8 * len(raw) - 1))
        raw[at // 8] ^= 1 << at % 8
    stop = data.draw(st.integers(len(raw) - 20, len(raw)))
    path = PATHS / "flipped.onnx"
    path.write_bytes(raw[:stop])
    try:
        findings = check(path, official=False)
    except TensorKeepError:
        return
    assert all(isinstance(finding, Finding) for finding in findings)


PATHS = Path()


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global PATHS
    PATHS = tmp_path_factory.mktemp("flips")
