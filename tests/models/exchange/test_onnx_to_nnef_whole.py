"""Whole models from ONNX to NNEF: names, types, variables, outputs, and all that is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.nnef_session import document_of
from tests.models.exchange.onnx_nodes import Array, floats
from tests.models.exchange.settling_here import settling_here

import tensorkeep as tk
from tensorkeep.errors import TranslationError
from tensorkeep.models.exchange import nnef_to_onnx, onnx_to_nnef
from tensorkeep.models.exchange.emitting import Emitter
from tensorkeep.models.exchange.onnx_to_nnef import TABLE, write
from tensorkeep.models.exchange.onnx_to_nnef.writer import label_of, literal
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.document import Document


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    with settling_here():
        yield


def translated(to: Emitter) -> tuple[State, Report]:
    """Translate a model."""
    report = Report("onnx", "nnef")
    return onnx_to_nnef.translate(to.state(), report), report


def back(state: State) -> State:
    """Take a model back, by way of its text."""
    document = document_of(state)
    read = Document.parse(document.to_text())
    read.names, read.types = document.names, document.types
    return nnef_to_onnx.translate(state.replace(document=read), Report("nnef", "onnx"))


def weight(to: Emitter, name: str, array: Array) -> str:
    """Add an initializer."""
    return to.weight(name, Tensor.of(array))


def test_names_survive() -> None:
    to = Emitter("net", where="m.onnx")
    x = to.input("input.1", "float32", (2, 3))
    weights = ["encoder/layer.0/w", "9", "for", "a b", "a_b", "up\\"]
    value = x
    for index, name in enumerate(weights):
        given = weight(to, name, floats(2, 3, seed=index))
        value = to.node("Add", [value, given], f"onnx::Add_{index}" if index < 5 else "1")
    to.output(value, "float32", (2, 3))
    state, report = translated(to)
    assert list(state) == weights
    document = document_of(state)
    assert [document.inputs, document.outputs] == [["input_1"], ["t_1"]]
    labels = {o.arguments["label"] for o in document.operations() if o.name == "variable"}
    assert {"encoder/layer.0/w", "9", "for", "a_b", "a_b_2", "up_"} == labels
    assert {str(each).split(",")[0].removesuffix(" them") for each in report.remarks} == {
        "renamed input.1: is input_1 in NNEF",
        "renamed 1: is t_1 in NNEF",
        "renamed graph: 7 names of values inside are no identifiers of NNEF's; a comment keeps",
    }
    again = back(state)
    assert again.graph is not None
    assert list(again) == weights
    feeds = {"input.1": floats(2, 3)}
    (before,), (after,) = tk.run(to.state(), feeds).values(), tk.run(again, feeds).values()
    np.testing.assert_array_equal(before, after)
    made = [each.output[0] for each in again.graph.model.graph.node]
    assert made == [*(f"onnx::Add_{index}" for index in range(5)), "1"]


def test_values_are_read_when_they_are_asked_for() -> None:
    to = Emitter("net", where="m.onnx")
    x = to.input("x", "float32", (2, 300))
    to.output(to.node("MatMul", [x, weight(to, "w", floats(300, 200))], "y"), "float32", (2, 200))
    source = to.state()
    state = onnx_to_nnef.translate(source, Report("onnx", "nnef"))
    (held,) = state.values()
    assert held.shape == (300, 200)
    np.testing.assert_array_equal(held.numpy(), floats(300, 200))


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_types_are_noted_where_text_does_not_tell(kind: str) -> None:
    to = Emitter("net", where="m.onnx")
    x = to.input("x", kind, (2,))
    y = to.node("Add", [to.node("Exp", [x], "e"), to.constant(0.1, kind)], "y")
    to.output(y, kind, (2,))
    state, _ = translated(to)
    assert document_of(state).types == {"x": kind}
    feeds = {"x": np.array([1, 2], kind)}
    (before,), (after,) = tk.run(to.state(), feeds).values(), tk.run(back(state), feeds).values()
    assert before.dtype == after.dtype == kind
    np.testing.assert_array_equal(before, after)


def test_an_output_may_be_a_constant() -> None:
    to = Emitter("net", where="m.onnx")
    x = to.input("x", "float32", (2,))
    k = weight(to, "k", floats(2))
    to.output(to.node("Mul", [x, k], "y"), "float32", (2,))
    to.output(k, "float32", (2,))
    state, report = translated(to)
    assert document_of(state).outputs == ["y", "k"]
    assert not report.remarks
    assert list(tk.run(back(state), {"x": floats(2)})) == ["y", "k"]


def test_an_output_that_is_an_input_is_copied() -> None:
    to = Emitter("net", where="m.onnx")
    x = to.input("x", "float32", (2,))
    to.output(x, "float32", (2,))
    state, report = translated(to)
    assert "x_output = copy(x);" in document_of(state).to_text()
    assert [remark.kind for remark in report.remarks] == ["renamed"]


def test_an_input_that_nothing_takes_is_dropped_where_nnef_has_none_such() -> None:
    to = Emitter("net", where="m.onnx")
    x = to.input("x", "float32", (2,))
    to.input("like", "bfloat16", (0,))
    to.output(to.node("Exp", [x], "y"), "float32", (2,))
    state, report = translated(to)
    assert document_of(state).inputs == ["x"]
    assert [(remark.kind, remark.name) for remark in report.remarks] == [("dropped", "like")]


def settled(*nodes: Node, **shapes: tuple[int, ...]) -> Settled:
    """Give a model whose values are float32, of one input x and one output y."""
    given: dict[str, tuple[int, ...]] = {"x": (2, 3), "y": (2, 3), **shapes}
    types = dict.fromkeys(given, "float32")
    return Settled(list(nodes), ["x"], ["y"], types, given, {}, where="m.onnx")


def node(
    operator: str, given: str = "x", made: str = "y", domain: str = "", **attributes: Any
) -> Node:
    """Give a node of one input and one output."""
    return Node(operator, domain, made, [given], [made], attributes, 28)


def refused(model: Settled) -> str:
    """Give what is said of a model that cannot be translated."""
    with pytest.raises(TranslationError) as caught:
        write(model, Report("onnx", "nnef"))
    return str(caught.value)


def test_all_that_is_refused_is_told_at_once() -> None:
    model = settled(
        node("Loop", made="a"),
        node("Mystery", "a", "b", "com.acme"),
        node("Det", "b", "c"),
        node("Exp", "c"),
        a=(2, 3),
        b=(2, 3),
        c=(2, 3),
    )
    assert refused(model).splitlines() == [
        "m.onnx: 3 nodes cannot be said in NNEF:",
        "  Loop at a: NNEF has nothing that does the same",
        "  Mystery at b: it is an operator of 'com.acme', which NNEF knows nothing of",
        "  Det at c: NNEF has nothing that does the same",
    ]


def test_a_model_without_inputs_is_refused() -> None:
    model = settled()
    model.inputs, model.constants = [], {"y": Tensor.of(floats(2, 3))}
    assert "it takes nothing, where an NNEF graph takes one tensor at least" in refused(model)


def test_an_output_that_nothing_gives_is_refused() -> None:
    assert "graph at y: what gives it does not do so in NNEF" in refused(settled())


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Transpose", {"perm": ("a", "b")}),
        ("Transpose", {"perm": 3}),
        ("DepthToSpace", {}),
        ("Elu", {"alpha": "much"}),
        ("Cast", {}),
        ("Softmax", {"axis": "last"}),
        ("Concat", {"axis": 7}),
        ("ReduceSum", {"axes": ("x",)}),
        ("Slice", {"starts": (0,)}),
        ("Pad", {"pads": 1}),
        ("Split", {"num_outputs": 0}),
    ],
)
def test_malformed_nodes_are_refused(operator: str, attributes: dict[str, Any]) -> None:
    model = settled(node(operator, **attributes))
    model.types["y"] = "int32" if operator == "Cast" else "float32"
    if operator == "Cast":
        model.types["x"] = "complex64"
    assert "1 node cannot be said in NNEF" in refused(model)


@pytest.mark.parametrize("operator", [row.operator for row in TABLE])
def test_nodes_without_inputs_are_no_crash(operator: str) -> None:
    model = settled(Node(operator, "", "n", [], ["y"], {}, 28))
    with suppress(TranslationError):
        write(model, Report("onnx", "nnef"))


@pytest.mark.parametrize("operator", [row.operator for row in TABLE])
@pytest.mark.parametrize("kind", ["string", "bfloat16", "complex64", "int4"])
def test_types_that_nnef_lacks_are_refused(operator: str, kind: str) -> None:
    model = settled(Node(operator, "", "n", ["x", "x", "x"], ["y"], {}, 28))
    model.types = {"x": kind, "y": kind}
    assert "cannot be said in NNEF" in refused(model)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.1), 0.1),
        (np.float16(0.1), 0.0999755859375),
        (np.float64(0.1), 0.1),
        (np.float32(np.inf), None),
        (np.int64(7), 7),
        (np.bool_(True), True),
    ],
)
def test_numbers_are_the_shortest_that_are_the_same(value: Any, expected: object) -> None:
    found = literal(np.asarray(value))
    assert (type(found), found) == (type(expected), expected)


def test_labels_are_safe_paths() -> None:
    assert label_of("encoder/layer.0:w", "e") == "encoder/layer.0:w"
    for name in ("../w", "/w", "a//b", "a/./b", "a\\b", "a b", "w\n", "é", "a/"):
        assert label_of(name, "safe") == "safe", name
