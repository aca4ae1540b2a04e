"""Faults of tensors, and of the files beside a model: each told though none can be opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tests.models.faulty import found, sound, told

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError
from tensorkeep.models.checking import check

W = "graph.initializer[0] 'w'"

CASES: list[tuple[str, Callable[[onnx.TensorProto], object], str]] = [
    ("element-type", lambda t: setattr(t, "data_type", 99), "has element type 99"),
    ("element-type", lambda t: t.ClearField("data_type"), "has no element type"),
    ("impossible-shape", lambda t: t.dims.__setitem__(0, -2), "[-2, 1, 3, 3]"),
    ("absurd-size", lambda t: t.dims.__setitem__(0, 2**60), "bytes"),
    ("data-length", lambda t: t.dims.__setitem__(0, 3), "72 bytes, where float32 of shape"),
    ("data-length", lambda t: _listed(t, 17), "float_data has 17 values"),
    ("several-data-fields", lambda t: t.float_data.append(1), "float_data, raw_data"),
    ("no-data", lambda t: t.ClearField("raw_data"), "takes 72 bytes"),
    ("wrong-data-field", lambda t: _moved(t), "float32 stands in int64_data"),
    ("data-range", lambda t: _wide(t), "holds 300, which is no uint8"),
    ("segmented-tensor", lambda t: t.segment.__setattr__("begin", 1), "one segment"),
]


def _listed(tensor: onnx.TensorProto, count: int) -> None:
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * count)


def _moved(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.int64_data.extend([0] * 18)


def _wide(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_type = TensorProto.UINT8
    tensor.int32_data.extend([0] * 17 + [300])


@pytest.mark.parametrize(("code", "spoil", "text"), CASES)
def test_tensor(
    code: str, spoil: Callable[[onnx.TensorProto], object], text: str, tmp_path: Path
) -> None:
    model = sound()
    spoil(model.graph.initializer[0])
    findings = found(model, tmp_path, official=False)
    [finding] = [each for each in findings if each.code == code]
    assert (finding.where, finding.severity) == (W, "error")
    assert text in finding.problem


def test_tensors_in_all_places_are_looked_at(tmp_path: Path) -> None:
    model = sound()
    branch = model.graph.node[2].attribute[0].g
    constant = branch.node.add(op_type="Constant", output=["c"])
    attribute = constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    for tensor in (model.graph.initializer[1], attribute.t):
        tensor.data_type, tensor.raw_data = TensorProto.FLOAT, b"123"
    findings = found(model, tmp_path, official=False)
    branch_name = model.graph.node[2].attribute[0].name
    assert {where for code, where in told(findings) if code == "data-length"} == {
        "graph.initializer[1] 'bias'",
        f"graph.node[2] If 'if'.{branch_name}.node[1] Constant.value",
    }


def external(folder: Path, **changes: str) -> Path:
    """Save a model whose first weight lies in a file, and say other things of that."""
    model = sound()
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    (folder / "w.bin").write_bytes(data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": "w.bin", "offset": "0", "length": "72"} | changes
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


EXTERNAL = [
    ({"location": "gone.bin"}, "missing-file", "'gone.bin', which is not there"),
    ({"location": "../w.bin"}, "unsafe-file", "not inside its own folder"),
    ({"location": "/etc/passwd"}, "unsafe-file", "not inside its own folder"),
    ({"location": ""}, "external-data", "does not say in which"),
    ({"length": "71"}, "external-data", "takes 72 bytes, but is said to take 71"),
    ({"offset": "8"}, "external-data", "bytes 8 to 80 of 'w.bin', which has 72"),
    ({"offset": "-8"}, "external-data", "its offset in another file is '-8'"),
    ({"checksum": "0" * 40}, "file-checksum", "and the model says 000"),
    ({"colour": "red"}, "external-key", "'colour' of its file, which ONNX does not know"),
]


@pytest.mark.parametrize(("changes", "code", "text"), EXTERNAL)
def test_file_beside_the_model(
    changes: dict[str, str], code: str, text: str, tmp_path: Path
) -> None:
    path = external(tmp_path, **changes)
    [finding] = check(path, official=False)
    assert (finding.code, finding.where) == (code, W)
    assert text in finding.problem


def test_right_files_have_no_findings(tmp_path: Path) -> None:
    path = external(tmp_path)
    sha1 = hashlib.sha1((tmp_path / "w.bin").read_bytes()).hexdigest()
    assert check(external(tmp_path, checksum=sha1)) == []
    assert check(path) == []


def test_links_are_told(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "real.bin")
    (tmp_path / "w.bin").symlink_to(tmp_path / "real.bin")
    [finding] = check(path, official=False)
    assert finding.code == "unsafe-file"
    (tmp_path / "w.bin").unlink()
    os.link(tmp_path / "real.bin", tmp_path / "w.bin")
    [finding] = check(path, official=False)
    assert (finding.code, "names of a file" in finding.problem) == ("unsafe-file", True)


def test_a_damaged_weight_is_told_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").write_bytes(sound().SerializeToString())
    path = tmp_path / "model.onnx"
    with tk.open(tmp_path / "plain.onnx") as state:
        tk.save(state, path, checksums=True)
    assert check(path, official=False) == []
    data = bytearray(path.read_bytes())
    with tk.open(path) as state:
        data[state["w"].offset] ^= 1
    path.write_bytes(data)
    [finding] = check(path, official=False)
    assert (finding.code, finding.where) == ("wrong-digest", "tensor 'w'")
    assert check(path, official=False, contents=False) == []


def test_data_held_twice_is_told(tmp_path: Path) -> None:
    model = sound()
    for name in ("one", "two"):
        value = np.arange(600, dtype=np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        model.graph.node.append(onnx.helper.make_node("Neg", [name], [f"n{name}"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info(f"n{name}", 1, [600]))
    [finding] = found(model, tmp_path)
    assert (finding.code, finding.severity) == ("repeated-data", "warning")
    assert "'one' and 'two' hold the same 2,400 bytes" in finding.problem


def test_a_model_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    path = external(tmp_path, length="71")
    with pytest.raises(TensorKeepError):
        tk.open(path)
    assert [finding.code for finding in check(path)] == ["external-data", "official-not-asked"]
