"""Inputs, initializers and outputs of every element type, and calls that make no sense."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.building_checks import graph_of, model, official, sketch

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, TensorKeepError, UnsupportedError
from tensorkeep.graph import KINDS
from tensorkeep.graph.elements import SINCE_IR
from tensorkeep.models.building import (
    Symbol,
    body,
    function,
    initializer,
    input,
    map_of,
    node,
    optional,
    sequence,
    tensor,
)


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_every_element_type(kind: dtypes.DType, tmp_path: Path) -> None:
    values = ["a", "", "ö"] if kind is dtypes.STRING else [1, 2, 1]
    array = np.array(values, object if kind is dtypes.STRING else kind.numpy)
    x = input("x", kind.name, [3])
    w = initializer(array, name="w")
    if kind.name.startswith("float6"):  # which Cast alone takes
        casts = (node("Cast", each, to="float32").typed("float32", [3]) for each in (x, w))
        built = model(dict(zip("yv", casts, strict=True)))
    else:
        built = model({"y": node("Identity", x).typed(kind, [3]), "v": w})
    assert graph_of(built).model.ir_version == max(7, SINCE_IR.get(kind, 0))
    read = official(built)
    assert {each.type.tensor_type.elem_type for each in read.graph.input} == {
        read.graph.initializer[0].data_type
    }
    tk.save(built, tmp_path / "m.onnx")
    with tk.open(tmp_path / "m.onnx") as state:
        assert state["w"].dtype is kind
        assert state["w"].numpy().tolist() == array.tolist()


def test_every_type_of_value() -> None:
    for kind in (sequence(tensor("float32", [2])), optional(tensor("int64"))):
        x = input("x", kind)
        built = model([node("Identity", x)])
        assert [each.kind for each in graph_of(built).outputs] == [kind.kind]
        official(built)


def test_arrays_of_any_layout() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    built = sketch([initializer(array, name="w")])
    assert np.array_equal(built["w"].numpy(), array)
    assert sketch([initializer(np.float16(2), name="s")])["s"].shape == ()
    assert sketch([initializer([], name="e")])["e"].shape == (0,)
    assert sketch([initializer([2**62], name="i")])["i"].numpy().tolist() == [2**62]
    assert input("x", "float32", np.array([2, 3])).axes == (2, 3)


X = input("x", "float32", ["N", 4])
SMALL = np.ones(4, "float32")


def nested(levels: int) -> Symbol:
    """Give branches within branches."""
    yes, value = input("yes", "bool", []), X
    for _ in range(levels):
        then, other = body([], [value * 2]), body([], [X])
        value = node("If", yes, then_branch=then, else_branch=other)
    return value


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an operator that is misspelt": (lambda: node("Covn", X), "'Covn'. Did you mean Conv"),
    "an operator in the wrong case": (lambda: node("relu", X), "'relu'. Did you mean Relu"),
    "an operator that nobody has": (
        lambda: node("Zzzzz", X),
        "Give a domain=... for one of your own",
    ),
    "an operator of another domain": (
        lambda: node("Relu", X, domain="ai.onnx.ml"),
        "in the domain ai",
    ),
    "no operator": (lambda: node("", X), "the name of an operator is text"),
    "too few inputs": (lambda: node("Conv", X), "Conv takes 2 to 3 inputs, not 1. It is Conv"),
    "too many inputs": (lambda: node("Relu", X, X), "Relu takes 1 input, not 2"),
    "a needed input left out": (lambda: node("Gemm", None, X), "Gemm needs its input A"),
    "too many outputs": (lambda: node("Relu", X, outputs=2), "Relu takes 1 output, not 2"),
    "no outputs": (lambda: node("Relu", X, outputs=0), "Relu cannot have 0 outputs"),
    "too many names": (
        lambda: node("Relu", X, output_names=["a", "b"]),
        "has 2 output_names for 1",
    ),
    "types that differ": (lambda: X + np.ones(4), "Add takes inputs A and B of one type"),
    "a type it does not take": (
        lambda: node("And", X, X),
        "And takes bool as its input A, not float32",
    ),
    "an element type to take": (
        lambda: node("Einsum", input("t", "bool"), equation="i->i"),
        "Einsum takes .* as its input Inputs, not bool",
    ),
    "an element type to give": (
        lambda: node("RandomNormal", shape=[2], dtype="int8"),
        "RandomNormal does not give int8",
    ),
    "a list of values": (lambda: node("Concat", [X, X], axis=0), "in rows of one length"),
    "a value of no type": (
        lambda: node("Relu", {"a": 1}),
        "is neither a value of the model nor an",
    ),
    "fractions for whole numbers": (
        lambda: node("Reshape", X, [1.5]),
        "input shape of Reshape: .1.5. is",
    ),
    "numbers that would be infinite": (
        lambda: input("h", "float16", [2]) * 1e9,
        "input B of Mul: 1000000000.0 is not all float16",
    ),
    "nothing among many": (
        lambda: node("Concat", X, None, axis=0),
        "Concat needs its input inputs",
    ),
    "names that are numbers": (lambda: node("Relu", X, name=3), "Relu are text, not 3"),  # type: ignore[call-overload]
    "an opset that is text": (lambda: model([X], opset="13"), "a dict of them by domain, not '13'"),
    "graphs within graphs": (lambda: model([nested(31)]), "graphs nest more than 30 levels deep"),
    "types within types": (
        lambda: functools.reduce(lambda held, _: sequence(held), range(99), tensor("bool")),
        "types nest at most 32 levels deep",
    ),
    "a sequence of a name": (lambda: sequence("float32"), "is not what a type can hold"),  # type: ignore[arg-type]
    "a map by floats": (lambda: map_of("float32", "bool"), "keys of a map are integers or text"),
    "an axis beyond 64 bits": (lambda: input("x", "float32", [2**63]), "is no axis"),
    "an input without a name": (
        lambda: input("", "float32"),
        "the name of an input is text, not ''",
    ),
    "an input without a type": (
        lambda: model([node("Relu", input("x"))]),
        "input 'x' is of no known type",
    ),
    "an axis below zero": (lambda: input("x", "float32", [-1]), "-1 is no axis"),
    "axes that are text": (lambda: input("x", "float32", "N"), "axes are a list, not 'N'"),
    "no such type": (lambda: input("x", "flaot"), "no element type is called 'flaot'"),
    "inputs of one name": (lambda: model([X + input("x", "float32")]), "two values are called 'x'"),
    "the same input twice": (
        lambda: model([X + X], inputs=[X, X]),
        "two inputs of a model are called",
    ),
    "an input that is computed": (lambda: model([X + X], inputs=[X + X]), "is no input of a model"),
    "nodes of one name": (
        lambda: model([node("Relu", node("Abs", X, name="a"), name="a")]),
        "two nodes are called 'a'",
    ),
    "values of one name": (
        lambda: model([node("Relu", node("Abs", X, output_names=["a"]), output_names=["a"])]),
        "two values are called 'a'",
    ),
    "initializers of one name": (
        lambda: model([X + initializer(SMALL, "w") + initializer(SMALL * 2, "w")]),
        "called 'w'",
    ),
    "no outputs at all": (lambda: model([]), "a model has no outputs"),
    "an array as output": (lambda: model([SMALL]), "an output of a model is a ndarray"),
    "one output alone": (lambda: model(X), "the outputs of a model are a list"),
    "no name": (lambda: model([X], name=""), "the name of a model is text"),
    "a dtype for an array": (
        lambda: initializer(SMALL, dtype="float16"),
        "an array has one already",
    ),
    "a body without outputs": (lambda: body([], []), "a body has no outputs"),
    "a function of computed inputs": (
        lambda: function("F", [X + X], [X]),
        "is no input of the function F",
    ),
    "shapes that cannot be": (
        lambda: model([input("a", "float32", [2, 3]) @ input("b", "float32", [2, 3])], check=True),
        "MatMul 'matmul_1'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_calls_that_make_no_sense(case: str) -> None:
    call, problem = REFUSED[case]
    with pytest.raises(ArgumentError, match=problem):
        call()


def test_element_types_that_onnx_lacks() -> None:
    with pytest.raises(UnsupportedError, match="ONNX has no element type q8_0"):
        input("x", "q8_0", [32])
    with pytest.raises(TensorKeepError):
        initializer(np.array(["2020-01-01"], "datetime64[D]"))
    with pytest.raises(TensorKeepError):
        initializer(np.array([object()]))


def test_a_value_is_neither_true_nor_false() -> None:
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(X)
    with pytest.raises(TypeError, match="compared by a node"):
        node("Where", X == 0.0, X, SMALL)
    assert X != None  # noqa: E711
    assert {X: 1}[X] == 1
    assert repr(node("Split", X, outputs=2, name="s")[1]) == "<s[1]: float32>"
    assert repr(initializer(SMALL, "w")) == "<w: float32[4]>"
