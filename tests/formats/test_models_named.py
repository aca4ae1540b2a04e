"""Models of other libraries are called what they are, and nothing else is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError, UnknownFormatError, UnsupportedError
from tensorkeep.formats.protobuf.header import sized
from tensorkeep.message.schema import encode_varint
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.wire.models import name_model


def at(data: bytes, key: str = "model.pb") -> Location:
    return Location(MemoryStore({key: data}), key)


def number(field: int, value: int) -> bytes:
    return encode_varint(field << 3) + encode_varint(value)


def onnx_model(count: int = 1, **options: Any) -> bytes:
    from onnx import helper, numpy_helper

    value = helper.make_tensor_value_info("x", 1, [1])
    nodes = [helper.make_node("Relu", ["x"], ["y"], name=f"node{i}") for i in range(count)]
    weights = [numpy_helper.from_array(np.ones(3, np.float32), "w")]
    graph = helper.make_graph(nodes, "g", [value], [value], weights)
    return bytes(helper.make_model(graph, **options).SerializeToString())


def onnx_tensor(**options: Any) -> bytes:
    from onnx import numpy_helper

    return bytes(numpy_helper.from_array(np.ones((1, 3)), **options).SerializeToString())


def node(name: bytes, op: bytes, *more: bytes) -> bytes:
    return sized(1, sized(1, name) + sized(2, op) + b"".join(more))


VALUE = sized(5, sized(1, b"value") + sized(2, sized(8, b"\x08\x01" + sized(4, bytes(5000)))))
GRAPH = node(b"x", b"Placeholder", sized(5, sized(1, b"dtype") + sized(2, b"\x30\x01")))
FROZEN = GRAPH + node(b"layer/w", b"Const", VALUE) + node(b"y", b"MatMul", sized(3, b"x"))
VERSIONS = sized(4, b"\x08\x9c\x01")
INFO = sized(1, sized(2, sized(1, sized(1, b"Add"))) + sized(4, b"serve") + sized(5, b"2.21.0"))
LARGE_INFO = sized(1, sized(2, sized(1, sized(1, b"Add")) * 3000) + sized(4, b"serve"))
LAYER = sized(1, b"conv1") + sized(2, b"Convolution") + sized(3, b"data") + sized(4, b"conv1")
BLOBS = sized(7, sized(7, sized(1, b"\x03\x03")) + sized(5, bytes(400)))
OLD_LAYER = sized(2, b"data") + sized(3, b"conv1") + sized(4, b"conv1") + b"\x28\x04"
FEATURE = sized(1, b"image") + sized(2, b"a picture") + sized(3, sized(4, b"\x08\xe0\x01"))
DESCRIPTION = sized(1, FEATURE) + sized(10, FEATURE) + sized(100, sized(1, b"It sees."))

MODELS: dict[str, tuple[bytes, str]] = {
    "graph": (FROZEN + VERSIONS, "a TensorFlow GraphDef"),
    "small graph": (GRAPH + VERSIONS, "a TensorFlow GraphDef"),
    "graph that begins with a large node": (
        node(b"w", b"Const", VALUE) + FROZEN,
        "a TensorFlow GraphDef",
    ),
    "graph as text": (
        b'node {\n  name: "x"\n  op: "Placeholder"\n}\n',
        "a TensorFlow GraphDef as text",
    ),
    "saved model": (b"\x08\x01" + sized(2, INFO + sized(2, FROZEN)), "a TensorFlow SavedModel"),
    "large saved model": (
        b"\x08\x01" + sized(2, LARGE_INFO + sized(2, FROZEN)),
        "a TensorFlow SavedModel",
    ),
    "caffe": (sized(1, b"LeNet") + sized(100, LAYER + BLOBS) * 3, "a Caffe 1 model"),
    "caffe without a name": (sized(100, LAYER + BLOBS * 20) * 3, "a Caffe 1 model"),
    "old caffe": (sized(1, b"LeNet") + sized(2, OLD_LAYER) * 3, "a Caffe 1 model"),
    "old caffe, large": (
        sized(1, b"LeNet") + sized(2, OLD_LAYER + sized(6, bytes(9000))),
        "a Caffe 1 model",
    ),
    "caffe as text": (b'name: "net"\nlayer {\n  type: "Input"\n}\n', "a Caffe 1 net"),
    "core ml": (b"\x08\x04" + sized(2, DESCRIPTION) + sized(500, bytes(9000)), "a Core ML model"),
    "core ml program": (
        b"\x08\x09" + sized(2, sized(1, FEATURE) * 500) + sized(502, b""),
        "a Core ML model",
    ),
    "tflite": (b"\x1c\0\0\0TFL3\x14\0\x20\0" + bytes(100), "a TensorFlow Lite model"),
    "pytorch mobile": (b"\x1c\0\0\0PTMF\x14\0\x20\0" + bytes(100), "a PyTorch Mobile model"),
    "executorch": (b"\x1c\0\0\0ET12\x14\0\x20\0" + bytes(100), "an ExecuTorch program"),
}


@pytest.mark.parametrize("name", ["model.pb", "model", "model.onnx", "model.safetensors"])
@pytest.mark.parametrize(("data", "called"), MODELS.values(), ids=MODELS)
def test_models_are_named(data: bytes, called: str, name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"is (an? )?{called}.*not read here yet"):
        tk.open(at(data, name))


@pytest.mark.parametrize(("data", "called"), MODELS.values(), ids=MODELS)
def test_only_one_test_recognises_each(data: bytes, called: str) -> None:
    from tensorkeep.wire import models

    head = data[:4096]
    found = [name for name, test in models._TESTS.items() if test(head, len(data))]
    assert len(found) == (0 if re.search("text|net$|Lite|Mobile|Exec", called) else 1)


def test_a_pb_that_is_none_of_them_teaches() -> None:
    for data in (b"\x0a\x03abc", b"\x12\x02\x08\x01", b"text", b"\xff" * 100):
        with pytest.raises(UnknownFormatError, match=r"none of the protobuf.*\.tensors\.pb"):
            tk.open(at(data))
    with pytest.raises(UnknownFormatError, match="none of the formats known"):
        tk.open(at(b"\x0a\x03abc", "model.unknown"))


def test_ours_are_none_of_them() -> None:
    store = MemoryStore()
    tk.save({"w": np.ones(3)}, Location(store, "a.tensors.pb"))
    data = store.data["a.tensors.pb"]
    assert name_model(data[:4096], len(data)) == ""


@given(data=st.binary(max_size=300), more=st.integers(0, 1 << 40))
def test_any_bytes_are_looked_at_without_an_error(data: bytes, more: int) -> None:
    assert isinstance(name_model(data, len(data) + more), str)


@pytest.mark.parametrize("name", ["model.pb", "model", "model.onnx", "model.safetensors"])
@pytest.mark.parametrize("large", [False, True])
def test_onnx_models_are_read(large: bool, name: str) -> None:
    data = onnx_model(1000, producer_name="pytorch") if large else onnx_model()
    assert tk.open(at(data, name)).format == "onnx"
    assert name_model(data[:4096], len(data)) == "an ONNX model"


@pytest.mark.parametrize("name", ["input_0.pb", "input_0"])
def test_onnx_tensors_are_read(name: str) -> None:
    for data, called in ((onnx_tensor(name="input"), "input"), (onnx_tensor(), "input_0")):
        assert name_model(data[:4096], len(data)) == "an ONNX tensor"
        with tk.open(at(data, name)) as state:
            assert (state.format, list(state)) == ("onnx-tensor", [called])


@given(data=st.sampled_from([data for data, _ in MODELS.values()]), stop=st.integers(0, 5000))
def test_models_that_are_cut_short(data: bytes, stop: int) -> None:
    with pytest.raises(TensorKeepError):
        tk.load(at(data[:stop]))
