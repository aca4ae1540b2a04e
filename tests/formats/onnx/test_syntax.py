"""ONNX's textual syntax, against the library that defines it; and what it loses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.formats.onnx import models

import tensorkeep as tk
from tensorkeep.errors import CorruptError, LossError, MissingDependencyError, UnsafeError
from tensorkeep.formats import FORMATS, detect
from tensorkeep.formats.onnx.differing import differing
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message

TEXT = """
# a comment
<ir_version: 10, opset_import: ["" : 18]>
net (float[N, 3] x) => (float[N, 3] y) <float[3] bias = {1, -2.5, 3}> {
   y = Add (x, bias)
}
"""
KEY = "m.onnxtxt"


def test_a_text_is_a_model() -> None:
    with tk.open(models.at(TEXT.encode(), KEY)) as state:
        assert state.format == "onnx-syntax"
        assert state["bias"].numpy().tolist() == [1, -2.5, 3]
        assert state.graph is not None
        assert list(map(str, state.graph.inputs)) == ["x: float32[N, 3]"]
        assert onnx.ModelProto.FromString(models.saved(state)) == onnx.parser.parse_model(TEXT)
        printed = models.saved(state, KEY)
    assert printed.decode() == onnx.printer.to_text(onnx.parser.parse_model(TEXT))


@pytest.mark.parametrize(
    ("text", "name", "format"),
    [
        (TEXT, "m.onnxtxt", "onnx-syntax"),
        (TEXT, "m", "onnx-syntax"),
        (TEXT, "m.txt", "onnx-syntax"),
        ("<\n  opset_import: [], ir_version: 7>\ng () => () {}", "m", "onnx-syntax"),
        ("g () => () {}", "m.onnxtxt", "onnx-syntax"),
        ('ir_version: 7\ngraph { name: "g" }', "m.onnxtxt", "onnx-text"),
    ],
)
def test_it_is_recognised(text: str, name: str, format: str) -> None:
    assert detect(models.at(text.encode(), name)).name == format


def test_every_model_comes_back_or_is_told() -> None:
    """Of twenty operators' models one, and all kinds of attributes."""
    cases = list(models.generated().items())[::20]
    for name, data in cases:
        with tk.open(models.at(data)) as state:
            assert FORMATS["onnx-syntax"].losses(state) == [], name
            text = models.saved(state, KEY)
        with tk.open(models.at(text, KEY)) as again:
            found = Message.parse(MODEL, models.saved(again))
            assert list(differing(Message.parse(MODEL, data), found)) == [], name


def small() -> Any:
    """Make a model that the syntax holds whole."""
    node = helper.make_node("Add", ["x", "w"], ["y"], name="add", alpha=1.5)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 2])],
        [helper.make_tensor_value_info("y", 1, ["n", 2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "w")],
        value_info=[helper.make_tensor_value_info("v", 1, [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def losses(proto: Any) -> list[str]:
    with tk.open(models.at(models.encode(proto))) as state:
        return FORMATS["onnx-syntax"].losses(state)


def _sparse(proto: Any) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def _training(proto: Any) -> None:
    proto.training_info.add().algorithm.name = "a"


def _quantized(proto: Any) -> None:
    proto.graph.quantization_annotation.add(tensor_name="w")


def _odd_nan(proto: Any) -> None:
    data = np.array([0x7FC01234, 0], np.uint32).tobytes()
    proto.graph.initializer[0].raw_data = data


def _sharded(proto: Any) -> None:
    proto.graph.node[0].device_configurations.add(configuration_id="c")


def _function_docs(proto: Any) -> None:
    function = proto.functions.add(name="F", domain="own", input=["a"], output=["a"])
    function.doc_string = "what it does"
    function.metadata_props.add(key="k", value="v")


LOST: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "nothing": (lambda m: None, []),
    "a denotation of an axis": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "denotation", "BATCH"),
        ["graph.input.type.tensor_type.shape.dim.denotation is lost or changed"],
    ),
    "a denotation of a type": (
        lambda m: setattr(m.graph.input[0].type, "denotation", "IMAGE"),
        ["graph.input.type.denotation is lost or changed"],
    ),
    "text about the graph": (
        lambda m: setattr(m.graph, "doc_string", "d"),
        ["graph.doc_string is lost or changed"],
    ),
    "text about a node": (
        lambda m: setattr(m.graph.node[0], "doc_string", "d"),
        ["graph.node.doc_string is lost or changed"],
    ),
    "text about an input": (
        lambda m: setattr(m.graph.input[0], "doc_string", "d"),
        ["graph.input.doc_string is lost or changed"],
    ),
    "text about a tensor": (
        lambda m: setattr(m.graph.initializer[0], "doc_string", "d"),
        ["graph.initializer.doc_string is lost or changed"],
    ),
    "metadata of a node": (
        lambda m: m.graph.node[0].metadata_props.add(key="k", value="v"),
        ["graph.node.metadata_props is lost or changed"],
    ),
    "metadata of the graph": (
        lambda m: m.graph.metadata_props.add(key="k", value="v"),
        ["graph.metadata_props is lost or changed"],
    ),
    "a sparse initializer": (_sparse, ["graph.sparse_initializer is lost or changed"]),
    "training": (_training, ["training_info is lost or changed"]),
    "an annotation": (_quantized, ["graph.quantization_annotation is lost or changed"]),
    "devices": (_sharded, ["graph.node.device_configurations is lost or changed"]),
    "the bits of a NaN": (_odd_nan, ["graph.initializer: its values is lost or changed"]),
    "text about a function": (
        _function_docs,
        ["functions.doc_string is lost or changed", "functions.metadata_props is lost or changed"],
    ),
    "fields that are not known": (
        lambda m: m.graph.MergeFromString(b"\xfa\x3e\x03new"),
        ["6 bytes of fields that ONNX does not have in graph"],
    ),
    "text that is not UTF-8": (
        lambda m: m.graph.node[0].attribute.append(helper.make_attribute("s", b"\xff")),
        ["graph.node.attribute.s is lost or changed"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), LOST.values(), ids=LOST)
def test_what_is_lost_is_told(
    tmp_path: Path, change: Callable[[Any], object], expected: list[str]
) -> None:
    proto = small()
    change(proto)
    assert losses(proto) == expected
    onnx.save(proto, tmp_path / "m.onnx")
    target = tmp_path / KEY
    if expected:
        with pytest.raises(LossError, match="onnx-syntax cannot hold everything"):
            tk.convert(tmp_path / "m.onnx", target)
        assert not target.exists()
    tk.convert(tmp_path / "m.onnx", target, lossy=bool(expected))
    assert len(tk.load(target)["w"]) == 2


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT2", "FLOAT4E2M1", "COMPLEX64", "FLOAT6E2M3"])
def test_types_that_are_not_printed(tmp_path: Path, kind: str) -> None:
    proto = small()
    number = getattr(TensorProto, kind)
    values = np.array([1, 0]).astype(helper.tensor_dtype_to_np_dtype(number))
    proto.graph.initializer.append(numpy_helper.from_array(values, "q"))
    told = losses(proto)
    assert told[0].startswith("1 tensor of ")
    assert told[0].endswith(", whose values are not printed")
    assert "no tool can read it back, as it is not ONNX's syntax at line 6" in told[1]
    onnx.save(proto, tmp_path / "m.onnx")
    tk.convert(tmp_path / "m.onnx", tmp_path / KEY, lossy=True)
    assert "..." in (tmp_path / KEY).read_text()
    with pytest.raises(CorruptError, match="line 6"):
        tk.open(tmp_path / KEY)


def test_tensors_in_other_files_come_into_the_text(tmp_path: Path) -> None:
    with tk.open(models.at(models.encode(small()))) as state:
        tk.save(state, tmp_path / "m.onnx", external=True, threshold=1)
    tk.convert(tmp_path / "m.onnx", tmp_path / KEY)
    assert tk.load(tmp_path / KEY)["w"].tolist() == [1, 1]


BROKEN = {
    "<ir_version: 7>\ng (float[N] x => () {}": (CorruptError, "line 2, column [0-9]+: "),
    "<ir_version: 7>": (CorruptError, "line 1, column 16: Identifier expected but not found"),
    "<ir_version: x>\ng () => () {}": (CorruptError, "at line 1"),
    f"<ir_version: {'9' * 40}>\ng () => () {{}}": (CorruptError, "holds a number that is none"),
    "<ir_version: 7>\ng () => () {} more": (CorruptError, "line 2"),
    "<ir_version: 7>\ng () => () <float[3] w = {1}> {}": (CorruptError, "3 elements .*has 1"),
    "<ir_version: 7>\ng () => () <float[99999999999] w = {1}> {}": (CorruptError, "has 1"),
    "<ir_version: 7, opset_import: " + "[" * 100_000: (UnsafeError, "more than 200 levels deep"),
    "<ir_version: 7>\ng (" + "seq(" * 100_000: (UnsafeError, "more than 200 levels deep"),
    "<ir_version: 7>\ng () => () {" + "y = A <b = g () => () {" * 9000: (UnsafeError, "200"),
    "<ir_version: 7" + " " * 100 + '"' * 9999: (CorruptError, "line 1"),
}


@pytest.mark.parametrize(("text", "expected"), BROKEN.items(), ids=range(len(BROKEN)))
def test_broken_text(text: str, expected: tuple[type[tk.TensorKeepError], str]) -> None:
    with pytest.raises(expected[0], match=expected[1]):
        tk.load(models.at(text.encode(), KEY))


def test_text_that_is_not_utf_8() -> None:
    with pytest.raises(CorruptError, match="is no UTF-8 at byte 31"):
        tk.open(models.at(b"<ir_version: 7, producer_name: \xff>", KEY))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx.parser", None)
    with pytest.raises(MissingDependencyError, match=r"Install tensorkeep\[onnx\]"):
        tk.open(models.at(TEXT.encode(), KEY))


def test_damage_where_nobody_has_looked_is_told() -> None:
    proto = onnx.ModelProto(ir_version=10, graph=onnx.GraphProto(name="g"))
    proto.graph.value_info.add(name="v").type.denotation = "1234"
    data = models.encode(proto).replace(b"\x32\x041234", b"\x32\x051234")  # cut short
    with tk.open(models.at(data)) as state, pytest.raises(CorruptError, match="cannot read it"):
        models.saved(state, KEY)
