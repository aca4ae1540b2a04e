"""Shape inference that keeps all of a model, at any size."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper, shape_inference
from tests.models.faulty import sound

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, MissingDependencyError
from tensorkeep.models.shapes import infer_shapes


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_shapes_are_those_of_onnx(tmp_path: Path) -> None:
    model = sound()
    del model.graph.value_info[:]
    model.graph.output[0].ClearField("type")
    with infer_shapes(_saved(model, tmp_path)) as state:
        tk.save(state, tmp_path / "n.onnx")
    found = onnx.load(tmp_path / "n.onnx")
    expected = shape_inference.infer_shapes(model, data_prop=True)
    rows = {row.name: row for row in (*expected.graph.value_info, *expected.graph.output)}
    rows |= {row.name: row for row in expected.graph.value_info}
    assert {row.name for row in found.graph.value_info} == {"a", "b"}
    for row in (*found.graph.value_info, *found.graph.output):
        assert row == rows[row.name]


def test_all_else_stays(tmp_path: Path) -> None:
    model = sound()
    model.graph.value_info[0].doc_string = "kept"
    model.graph.value_info[0].type.denotation = "IMAGE"
    model.metadata_props.add(key="by", value="us")
    model.training_info.add().algorithm.name = "t"
    with infer_shapes(_saved(model, tmp_path)) as state:
        tk.save(state, tmp_path / "n.onnx")
    found = onnx.load(tmp_path / "n.onnx")
    assert found.graph.value_info.pop(1).name == "b"
    assert found == model


def test_a_model_of_three_gigabytes(tmp_path: Path) -> None:
    model = sound()
    tensor = model.graph.initializer.add(name="big", data_type=1, dims=[3, 1 << 28])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="big.bin")
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(3 << 30)
    model.graph.input.append(helper.make_tensor_value_info("v", 1, [1 << 28, 2]))
    model.graph.node.append(helper.make_node("MatMul", ["big", "v"], ["product"]))
    model.graph.output.append(helper.make_tensor_value_info("product", 1, None))
    with infer_shapes(_saved(model, tmp_path)) as state:
        assert state.graph is not None
        assert str(state.graph.outputs[1]) == "product: float32[3, 2]"


def test_what_onnx_refuses_is_told(tmp_path: Path) -> None:
    model = sound()
    model.ClearField("opset_import")
    with pytest.raises(ArgumentError, match=r"onnx says: .*No opset import"):
        infer_shapes(_saved(model, tmp_path))


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(sound(), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tensorkeep\[onnx\]'"):
        infer_shapes(path)
