from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.models.building_checks import compute, graph_of, model, official

from tensorkeep.errors import ArgumentError
from tensorkeep.models.building import (
    Symbol,
    attribute,
    body,
    function,
    input,
    node,
    sequence,
    tensor,
)

X = np.array([2, 3], "float32")


def scalar(name: str, dtype: str) -> Symbol:
    return input(name, dtype, [])


def loop(step: Any, x: Symbol, times: int = 3) -> tuple[Symbol, ...]:
    """Give the last value and all values of a loop whose body makes one from another."""
    i, going = scalar("i", "int64"), scalar("going", "bool")
    before = input("before", "float32", [2])
    after = step(before, i)
    turns = body([i, going, before], [going, after, after])
    return node("Loop", times, True, x, body=turns, outputs=2)


def test_what_only_a_branch_uses_is_in_the_branch() -> None:
    x, yes = input("x", "float32", [2]), scalar("yes", "bool")
    shared = node("Neg", x)
    chosen = node(
        "If",
        yes,
        then_branch=body([], [node("Exp", shared) * 2]),
        else_branch=body([], [shared]),
    )
    built = model([chosen + shared])
    graph = graph_of(built).model.graph
    assert [each.op_type for each in graph.node] == ["Neg", "If", "Add"]
    then, other = (each.g for each in graph.node[1].attribute)
    assert [each.op_type for each in then.node] == ["Exp", "Mul"]
    assert [each.op_type for each in other.node] == ["Identity"]
    assert np.allclose(compute(built, x=X, yes=np.array(True))[0], np.exp(-X) * 2 - X)
    assert np.allclose(compute(built, x=X, yes=np.array(False))[0], -2 * X)


def test_what_only_one_branch_uses_is_not_outside() -> None:
    x, yes = input("x", "float32", [2]), scalar("yes", "bool")
    once = node("Sqrt", x)
    chosen = node("If", yes, then_branch=body([], [once + once]), else_branch=body([], {"same": x}))
    graph = graph_of(model([chosen])).model.graph
    assert [each.op_type for each in graph.node] == ["If"]
    assert graph.node[0].attribute[1].g.output[0].name == "same"


def test_loops() -> None:
    x = input("x", "float32", [2])
    last, every = loop(lambda before, i: before * x, x)
    built = model({"last": last.typed("float32", [2]), "every": every})
    found = compute(built, x=X)
    assert found[0].tolist() == [16, 81]
    assert found[1].tolist() == [[4, 9], [8, 27], [16, 81]]


def test_loops_in_loops_and_branches() -> None:
    x = input("x", "float32", [2])

    def step(before: Symbol, i: Symbol) -> Symbol:
        j, going = scalar("j", "int64"), scalar("going_in", "bool")
        inner = input("inner", "float32", [2])
        odd = node("Equal", node("Mod", i, 2), 1)
        added = node(
            "If",
            odd,
            then_branch=body([], [inner + before]),
            else_branch=body([], [inner + 1.0]),
        )
        turns = body([j, going, inner], [going, added])
        return node("Loop", 2, True, before, body=turns)

    last, _ = loop(step, x)
    (found,) = compute(model([last.typed("float32", [2])]), x=X)
    expected = X
    for i in range(3):
        inner = expected
        for _ in range(2):
            inner = inner + expected if i % 2 else inner + 1
        expected = inner
    assert found.tolist() == expected.tolist()


def test_scans() -> None:
    total, row = input("total", "float32", [2]), input("row", "float32", [2])
    step = body([total, row], {"next": total + row, "out": (total + row) * 10})
    rows = input("rows", "float32", [4, 2])
    last, every = node("Scan", np.zeros(2, "f"), rows, outputs=2, body=step, num_scan_inputs=1)
    built = model([last, every])
    values = np.arange(8, dtype="float32").reshape(4, 2)
    found = compute(built, rows=values)
    assert found[0].tolist() == values.sum(0).tolist()
    assert found[1].tolist() == (values.cumsum(0) * 10).tolist()


def test_sequences() -> None:
    x = input("x", "float32", [4])
    pieces = node("SplitToSequence", x, 2, axis=0)
    assert str(pieces.type) == "seq(tensor(float))"
    second = node("SequenceAt", pieces, 1)
    assert compute(model([second.typed("float32", [2])]), x=np.arange(4, dtype="f"))[
        0
    ].tolist() == [2, 3]
    items = input("items", sequence(tensor("float32", [2])))
    joined = node("ConcatFromSequence", items, axis=0)
    assert compute(model([joined.typed("float32", ["N"])]), items=[X, X])[0].tolist() == [
        2,
        3,
        2,
        3,
    ]


def test_a_body_belongs_to_one_node() -> None:
    x, yes = input("x", "float32", [2]), scalar("yes", "bool")
    branch = body([], [node("Neg", x)])
    with pytest.raises(ArgumentError, match="one body belongs to two nodes"):
        model([node("If", yes, then_branch=branch, else_branch=branch)])


def test_inputs_of_bodies_stay_in_them() -> None:
    x = input("x", "float32", [2])
    leaked: list[Symbol] = []

    def step(before: Symbol, i: Symbol) -> Symbol:
        leaked.append(before * 2)
        return before + 1

    last, _ = loop(step, x)
    with pytest.raises(ArgumentError, match="the input 'before' of a body is used outside of it"):
        model([last + leaked[0]])
    with pytest.raises(ArgumentError, match="two values are called 'before'"):
        model([loop(step, input("before", "float32", [2]))[0]])
    before = input("same", "float32", [2])
    i, going = scalar("i", "int64"), scalar("going", "bool")
    turns = body([i, going, before], [going, before])
    with pytest.raises(ArgumentError, match="the input 'same' belongs to two graphs"):
        model([node("Loop", 1, True, before, body=turns)], inputs=[before])


def test_branches_fit_their_node() -> None:
    x, yes = input("x", "float32", [2]), scalar("yes", "bool")
    two = body([], [node("Neg", x), node("Abs", x)])
    one = body([], [node("Exp", x)])
    with pytest.raises(ArgumentError, match="If has a branch with 2 outputs, but 1 itself"):
        node("If", yes, then_branch=two, else_branch=one)
    with pytest.raises(ArgumentError, match="If has branches, which take no inputs"):
        node("If", yes, then_branch=body([x], [x]), else_branch=one)
    with pytest.raises(ArgumentError, match="If needs the attribute else_branch"):
        node("If", yes, then_branch=one)


def test_functions() -> None:
    x = input("x")
    beta = node("Constant", value_float=attribute("beta", "float", 1.0))
    swish = function("Swish", [x], {"y": x * node("Sigmoid", x * beta)}, doc="x * sigmoid(beta x)")
    y = swish(swish(input("v", "float32", [2])), beta=2.0, name="second", output_names=["out"])
    built = model([y], name="f")
    read = official(built)
    assert built.graph is not None
    assert (read.ir_version, built.graph.opsets) == (9, {"": 13, "local": 1})
    (made,) = read.functions
    assert (made.name, made.domain, made.doc_string) == ("Swish", "local", "x * sigmoid(beta x)")
    assert (list(made.input), list(made.output)) == (["x"], ["y"])
    (found,) = compute(built, v=X)
    once = X / (1 + np.exp(-X))
    assert np.allclose(found, once / (1 + np.exp(-2 * once)), atol=1e-6)


def test_functions_that_call_functions_and_hold_arrays() -> None:
    x, v = input("x"), input("v", "float32", [2])
    shift = function("Shift", [x], [x + np.array([1, 2], "float32")], domain="com.example")
    z = input("z")
    twice = function("Twice", [z], [shift(shift(z))], domain="com.example")
    built = model([twice(v)])
    read = official(built)
    assert (read.ir_version, len(read.functions)) == (8, 2)
    assert "".join(built) == "com.example::Shift/add_1_B.value"
    assert compute(built, v=X)[0].tolist() == [4, 7]


def test_functions_with_several_outputs_and_a_needed_attribute() -> None:
    x = input("x")
    half = node("LeakyRelu", x, alpha=attribute("slope", "float"))
    both = function("Both", [x], [half, node("Neg", half)])
    a, b = both(input("v", "float32", [2]), slope=0.5)
    built = model([a.typed("float32", [2]), b.typed("float32", [2])])
    assert list(official(built).functions[0].attribute) == ["slope"]
    assert [each.tolist() for each in compute(built, v=-X)] == [[-1, -1.5], [1, 1.5]]
    with pytest.raises(ArgumentError, match="Both needs the attribute slope"):
        both(x)
    with pytest.raises(ArgumentError, match=r"Both has no attribute 'angle'. It has slope"):
        both(x, slope=1.0, angle=2)
    with pytest.raises(ArgumentError, match="attribute slope is float, not str"):
        both(x, slope="steep")
    with pytest.raises(ArgumentError, match="Both takes 1 inputs, not 2"):
        both(x, x, slope=1.0)


def test_functions_see_their_own_inputs_alone() -> None:
    x, outside = input("x"), input("outside", "float32", [2])
    leaky = function("Leaky", [x], [x + outside])
    with pytest.raises(ArgumentError, match="the function Leaky uses 'outside', which is no input"):
        model([leaky(outside)])
    z = input("z")
    two = [function("F", [x], [x + x]), function("F", [z], [z * z])]
    with pytest.raises(ArgumentError, match="two functions are called local::F"):
        model([two[0](two[1](outside))])
    with pytest.raises(ArgumentError, match=r"the domain ai.onnx.ml is ONNX's own"):
        function("F", [x], [x + x], domain="ai.onnx.ml")
    with pytest.raises(
        ArgumentError, match="takes the attribute 'a' of a function, but is in none"
    ):
        model([node("LeakyRelu", outside, alpha=attribute("a", "float"))])
