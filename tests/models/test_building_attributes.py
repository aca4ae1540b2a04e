from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tests.models.building_checks import compute, graph_of, model, official

import tensorkeep as tk
from tensorkeep.errors import ArgumentError
from tensorkeep.graph.schema import ATTRIBUTE_TYPES
from tensorkeep.models.building import (
    Sparse,
    Type,
    attribute,
    body,
    input,
    map_of,
    node,
    optional,
    sequence,
    tensor,
)

X = input("x", "float32", [2])
BRANCH = body([], [node("Identity", X)])
SPARSE = Sparse(np.array([1.5, 2.5], "float32"), np.array([0, 5]), [2, 3])
ARRAY = np.arange(3, dtype="int8")

# Each kind of attribute of an operator that is not known, so that the value tells the kind.
KINDS: list[tuple[Any, str, Any]] = [
    (3, "INT", 3),
    (True, "INT", 1),
    (np.int32(-4), "INT", -4),
    (tk.dtype("int8"), "INT", 3),
    (-(2**63), "INT", -(2**63)),
    (0.5, "FLOAT", 0.5),
    (np.float16(0.25), "FLOAT", 0.25),
    (float("-inf"), "FLOAT", float("-inf")),
    ("text", "STRING", b"text"),
    ("wörd", "STRING", "wörd".encode()),
    (b"\xff\x00", "STRING", b"\xff\x00"),
    ("", "STRING", b""),
    ([1, 2], "INTS", [1, 2]),
    ((True, False), "INTS", [1, 0]),
    ([1, 0.5], "FLOATS", [1, 0.5]),
    ([0.5], "FLOATS", [0.5]),
    (["a", b"b"], "STRINGS", [b"a", b"b"]),
]


def written(value: Any) -> Any:
    made = node("Custom", X, domain="com.example", value=value).typed("float32", [2])
    return official(model([made])).graph.node[0].attribute[0]


@pytest.mark.parametrize(("value", "kind", "expected"), KINDS)
def test_the_value_tells_the_kind(value: Any, kind: str, expected: Any) -> None:
    found = written(value)
    assert found.type == ATTRIBUTE_TYPES[kind]
    got = onnx.helper.get_attribute_value(found)
    assert (list(got) if isinstance(expected, list) else got) == expected


def test_tensors() -> None:
    found = written(ARRAY)
    assert found.type == ATTRIBUTE_TYPES["TENSOR"]
    assert np.array_equal(onnx.numpy_helper.to_array(found.t), ARRAY)
    lazy = written(tk.Tensor.of(ARRAY))
    assert np.array_equal(onnx.numpy_helper.to_array(lazy.t), ARRAY)
    several = written([ARRAY, np.ones((2, 2))])
    assert several.type == ATTRIBUTE_TYPES["TENSORS"]
    assert [list(each.dims) for each in several.tensors] == [[3], [2, 2]]


def test_graphs() -> None:
    made = node("Custom", X, domain="com.example", one=BRANCH).typed("float32", [2])
    found = graph_of(model([made])).model.graph.node[0].attribute[0]
    assert found.type == ATTRIBUTE_TYPES["GRAPH"]
    assert found.g.node[0].op_type == "Identity"
    pair = [body([], [node("Neg", X)]), body([], [node("Abs", X)])]
    made = node("Custom", X, domain="com.example", several=pair).typed("float32", [2])
    found = graph_of(model([made])).model.graph.node[0].attribute[0]
    assert found.type == ATTRIBUTE_TYPES["GRAPHS"]
    assert [each.node[0].op_type for each in found.graphs] == ["Neg", "Abs"]


def test_sparse_tensors() -> None:
    found = written(SPARSE)
    assert found.type == ATTRIBUTE_TYPES["SPARSE_TENSOR"]
    assert list(found.sparse_tensor.dims) == [2, 3]
    assert onnx.numpy_helper.to_array(found.sparse_tensor.indices).tolist() == [0, 5]
    assert written([SPARSE, SPARSE]).type == ATTRIBUTE_TYPES["SPARSE_TENSORS"]
    dense = node("Constant", sparse_value=SPARSE)
    built = model([dense.typed("float32", [2, 3])])
    assert graph_of(built).model.graph.node[0].attribute[0].type == ATTRIBUTE_TYPES["SPARSE_TENSOR"]
    by_axis = Sparse([1.0], np.array([[1, 2]]), [2, 3])
    assert onnx.numpy_helper.to_array(written(by_axis).sparse_tensor.indices).tolist() == [[1, 2]]
    with pytest.raises(ArgumentError, match="cannot have indices"):
        node("Constant", sparse_value=Sparse([1.0], np.array([0, 1]), [4]))
    for shape in (4, ["a"], [2.5]):
        with pytest.raises(ArgumentError, match="a sparse tensor cannot have the shape"):
            node("Constant", sparse_value=Sparse([1.0], np.array([0]), shape))  # type: ignore[arg-type]


TYPES = [
    tensor("float32", ["N", 3, None]),
    tensor("string"),
    sequence(tensor("int64", [])),
    optional(sequence(tensor("bool", [2]))),
    optional(tensor("float16")),
    map_of("int64", "float32"),
    sequence(map_of("string", "float32")),
    Type("sparse_tensor", tk.dtype("float32"), (2, 3)),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_types(kind: Type) -> None:
    found = written(kind)
    assert found.type == ATTRIBUTE_TYPES["TYPE_PROTO"]
    assert found.tp.SerializeToString() == kind.message().encode()
    assert written([kind, kind]).type == ATTRIBUTE_TYPES["TYPE_PROTOS"]


def test_a_type_where_an_operator_wants_one() -> None:
    kind = sequence(tensor("float32", [2]))
    read = official(model([node("Optional", type=kind).typed(optional(kind))]))
    assert read.graph.node[0].attribute[0].tp.sequence_type.elem_type.tensor_type.elem_type == 1


def test_the_operator_tells_the_kind() -> None:
    leaky = node("LeakyRelu", X, alpha=1)
    assert official(model([leaky])).graph.node[0].attribute[0].type == ATTRIBUTE_TYPES["FLOAT"]
    image = input("i", "float32", [1, 1, 4, 4])
    pooled = node("MaxPool", image, kernel_shape=np.array([2, 2]), strides=(2, 2), auto_pad="VALID")
    assert compute(model([pooled]), i=np.ones((1, 1, 4, 4), "float32"))[0].shape == (1, 1, 2, 2)
    five = node("Constant", value=5.0)
    assert compute(model([five + X]), x=np.ones(2, "float32"))[0].tolist() == [6, 6]
    flat = node("Flatten", image, axis=np.array(2))
    assert compute(model([flat]), i=np.ones((1, 1, 4, 4), "float32"))[0].shape == (1, 16)


@pytest.mark.parametrize(
    "to", ["float64", np.float64, np.dtype("float64"), tk.dtype("float64"), 11]
)
def test_element_types_by_name(to: Any) -> None:
    cast = node("Cast", X, to=to)
    assert cast.dtype is tk.dtype("float64")
    typed = cast.typed("float64", [2])
    assert compute(model([typed]), x=np.ones(2, "float32"))[0].dtype == np.float64


def test_attributes_whose_names_are_parameters_here() -> None:
    made = node("Custom", X, domain="com.example", attributes={"name": "n", "outputs": 3}, name="c")
    found = graph_of(model([made.typed("float32", [2])])).model.graph.node[0]
    assert {each.name for each in found.attribute} == {"name", "outputs"}
    assert found.name == "c"


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("LeakyRelu", {"alpha": "0.1"}, "attribute alpha is float, not str"),
    ("LeakyRelu", {"alpha": [0.1]}, "attribute alpha is float, not a list of float"),
    ("LeakyRelu", {"alpha": 1e300}, "1e\\+300 does not fit in the 32 bits"),
    ("LeakyRelu", {"alpha": X}, "is a value that is not computed yet"),
    ("LeakyRelu", {"alpha": attribute("a", "int")}, "is float, not the int attribute a"),
    ("LeakyRelu", {"alhpa": 0.1}, "no attribute 'alhpa'. Did you mean alpha"),
    ("Softmax", {"axis": 1.5}, "attribute axis is int, not float"),
    ("Softmax", {"axis": 2**63}, "does not fit in the 64 bits"),
    ("Softmax", {"axis": "int64"}, "attribute axis is int, not str"),
    ("Softmax", {"axis": float}, "attribute axis is int, not type"),
    ("Transpose", {"perm": 1}, "attribute perm is a list of int, not int"),
    ("Transpose", {"perm": [[0, 1]]}, "attribute perm is a list of int"),
    ("Transpose", {"perm": np.ones((2, 2), int)}, "attribute perm is a list of int, not ndarray"),
    ("Cast", {}, "Cast needs the attribute to"),
    ("Cast", {"to": "flaot"}, "no element type is called 'flaot'"),
    ("Cast", {"to": "q4_0"}, "q4_0 is no element type of ONNX"),
    ("Constant", {"value": "text"}, "attribute value is tensor, not str"),
    ("If", {"then_branch": X}, "is a value that is not computed yet"),
    ("Optional", {"type": "float32"}, "attribute type is type_proto, not str"),
]


@pytest.mark.parametrize(("op_type", "given", "problem"), WRONG)
def test_wrong_values(op_type: str, given: dict[str, Any], problem: str) -> None:
    inputs = () if op_type in ("Constant", "Optional") else (X,)
    with pytest.raises(ArgumentError, match=problem):
        node(op_type, *inputs, **given)


@pytest.mark.parametrize("value", [[], [1, "a"], {"a": 1}, object(), [None], [[1]], [[1], [2.5]]])
def test_values_that_no_attribute_can_be(value: Any) -> None:
    with pytest.raises(ArgumentError, match="which no attribute can be"):
        node("Custom", X, domain="com.example", value=value)


def test_attributes_of_functions_are_of_a_kind() -> None:
    with pytest.raises(ArgumentError, match="'number' is no kind of attribute"):
        attribute("a", "number")
    with pytest.raises(ArgumentError, match="attribute to: no element type is called 'one'"):
        attribute("to", "int", "one")
