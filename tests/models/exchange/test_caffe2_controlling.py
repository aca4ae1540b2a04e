"""Branches and loops of Caffe2 nets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.models.exchange.arrays import floats, int64s
from tests.models.exchange.caffe2_nets import check, model, net, op, outputs_of, translated

from tensorkeep.errors import TranslationError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.nets import Given, Nets

X = np.random.default_rng(3).normal(size=(2, 3)).astype(np.float32)
YES, NO = np.array([True]), np.array([False])


def empty(name: str = "n") -> Message:
    return op("IsEmpty", "x", name)


def test_branches() -> None:
    ops = [
        op("LT", "a b", "c"),
        op("Copy", "x", "kept"),
        op(
            "If",
            "c x w kept",
            "y kept",
            then_net=net(op("FC", "x w bias", "t"), op("Relu", "t", "y"), op("Exp", "x", "kept")),
            else_net=net(op("Negative", "x", "x"), op("Sqr", "x", "y")),
        ),
        op("If", "c x", "x", then_net=net(op("Tanh", "x", "x"))),
        op("Sigmoid", "x", "z"),
        empty(),
    ]
    w, bias = np.eye(3, dtype=np.float32) * 2, floats([1, 0, -1])
    ops[2]["input"] = ["c", "x", "w", "kept", "bias"]
    state = model(*ops, weights={"w": w, "bias": bias}, outputs="y kept z n")
    one, two = floats([1]), floats([2])
    then = {
        "y": np.maximum(2 * X + bias, 0),
        "kept": np.exp(X),
        "z": 1 / (1 + np.exp(-np.tanh(X))),
        "n": np.array(False),
    }
    other = {"y": X * X, "kept": X, "z": 1 / (1 + np.exp(X))}  # x was negated
    check(state, {"a": one, "b": two, "x": X}, then)
    check(state, {"a": two, "b": one, "x": X}, other)


def test_what_nets_read_and_write_need_not_be_declared() -> None:
    inner = op("If", "c", "", then_net=net(op("Add", "kept w", "kept"), op("Tanh", "x", "own")))
    ops = [
        op("Copy", "x", "kept"),
        op("If", "d", "", then_net=net(inner, op("Exp", "x", "extra")), else_net=net()),
        op("Sqr", "kept", "y"),
        op("While", "go", "", loop_net=net(op("Add", "y w", "y"), op("Not", "go", "go"))),
        op("Not", "go", "went"),
    ]
    w = floats([1, 2, 3])
    state = model(*ops, weights={"w": w}, outputs="y went")
    for c, d, go in ((YES, YES, YES), (NO, YES, NO), (YES, NO, YES)):
        kept = X + w if c[0] and d[0] else X
        expected = {"y": kept * kept + (w if go[0] else 0), "went": np.array([True])}
        check(state, {"x": X, "c": c, "d": d, "go": go}, expected, needs="rank")


def test_nothing_is_empty() -> None:
    feeds = {"x": np.zeros((0, 3), np.float32)}
    assert outputs_of(model(empty()), feeds, {"x": ("N", 3)})["n"].item() is True


def test_loops_that_test_first() -> None:
    ops = [
        op("Copy", "x", "y"),
        op("ConstantFill", "", "i", shape=[1], value=0.0),
        op(
            "While",
            "more y i limit one",
            "y i",
            loop_net=net(
                op("Add", "i one", "i"), op("Add", "y i", "t", broadcast=1), op("Tanh", "t", "y")
            ),
            cond_net=net(op("LT", "i limit", "more")),
        ),
    ]
    weights = {"one": floats([1])}
    state = model(*ops, weights=weights, outputs="y i")
    for limit in (0, 1, 4):
        expected = X
        for i in range(1, limit + 1):
            expected = np.tanh(expected + i)
        feeds = {"x": X, "limit": floats([limit]), "more": YES}
        check(state, feeds, {"y": expected, "i": floats([limit])})


def test_a_branch_within_a_loop_that_declares_nothing() -> None:
    more = net(op("Add", "y y", "y"))
    body = net(
        op("Add", "i one", "i"), op("GT", "i two", "late"), op("If", "late", "", then_net=more)
    )
    ops = [
        op("Copy", "x", "y"),
        op("ConstantFill", "", "i", shape=[1], value=0.0),
        op("While", "go", "", loop_net=body, cond_net=net(op("LT", "i four", "go"))),
        op("Negative", "y", "z"),
    ]
    weights = {"one": floats([1]), "two": floats([2]), "four": floats([4])}
    state = model(*ops, weights=weights, outputs="z")
    check(state, {"x": X, "go": YES}, {"z": -4 * X}, needs="rank")


def test_loops_that_grow_what_they_carry() -> None:
    body = net(
        op("Concat", "y x", "y s", axis=0),
        op("Shape", "y", "rows", axes=[0]),
        op("LT", "rows limit", "go"),
    )
    ops = [op("Copy", "x", "y"), op("While", "go y x limit", "y go", loop_net=body)]
    state = model(*ops, outputs="y")
    feeds = {"x": X, "limit": int64s([7]), "go": YES}
    check(state, feeds, {"y": np.tile(X, (4, 1))})
    check(state, {**feeds, "go": NO}, {"y": X})


@pytest.mark.parametrize(("trips", "asks", "runs"), [(3, False, 3), (9, True, 4), (2, True, 2)])
def test_loops_of_imported_models(trips: int, asks: bool, runs: int) -> None:
    body = net(
        op("Add", "acc one", "next", broadcast=1),
        op("Cast", "i", "f", to=1),
        op("LT", "f three", "go"),
        op("Sqr", "next", "seen"),
        inputs="i cond acc",
        outputs="go next seen",
    )
    ops = [
        op(
            "ONNXWhile",
            "trips begin x one three",
            "final all",
            body=body,
            has_trip_count=1,
            has_cond=int(asks),
            num_loop_carried_deps=1,
        )
    ]
    state = model(*ops, weights={"one": floats([1]), "three": floats([3])})
    feeds = {"trips": np.array(trips, np.int64), "begin": YES, "x": X}
    seen = [(X + np.float32(i)) ** 2 for i in range(1, runs + 1)]
    check(state, feeds, {"final": X + np.float32(runs), "all": np.stack(seen)})


def within(net_: Message, depth: int) -> Message:
    for _ in range(depth):
        net_ = net(op("If", "c x", "y", then_net=net_, else_net=net(op("Relu", "x", "y"))))
    return net_


BAD: list[tuple[Message, str]] = [
    (op("If", "c x", "y"), "it has no then_net"),
    (op("If", "c x", "y", then_net=net(op("Relu", "x", "y"))), "its else_net does not write 'y'"),
    (op("If", "c x", "y", then_net=net(op("Gru", "x", "y"))), "its then_net has the operator Gru"),
    (
        op(
            "If", "c x", "y", then_net=net(op("Shape", "x", "y")), else_net=net(op("Exp", "x", "y"))
        ),
        "its branches make 'y' of int64 and of float32",
    ),
    (
        op("If", "c x", "x", then_net=net(op("Tile", "x", "x", tiles=-1))),
        "its then_net has the operator Tile: its tiles are -1",
    ),
    (op("While", "c x", "y", loop_net=net(op("Exp", "x", "y"))), "its output 'y' has no value"),
    (op("While", "c x", "x", loop_net=net(op("Shape", "x", "x"))), "it carries a blob that is of"),
    (op("ONNXWhile", "x c", "y", body=net(op("Exp", "x", "y"))), "its body has 0 inputs and 0"),
    (
        within(net(op("Exp", "x", "y")), 8).op[0].copy(),
        "nets lie within it more than 5 deep",
    ),
]


@pytest.mark.parametrize(("operator", "reason"), BAD)
def test_refusals(operator: Message, reason: str) -> None:
    shapes: dict[str, Any] = {"x": (2, 3), "c": (1,)}
    state = model(operator)
    assert isinstance(state.document, Nets)
    state.document.given = {"c": Given("bool")}
    with pytest.raises(TranslationError) as caught:
        translated(state, shapes)
    assert reason in str(caught.value)
