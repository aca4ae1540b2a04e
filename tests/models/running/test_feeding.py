from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from tests.models.running.making import linear, model, one, value

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, LossError
from tensorkeep.graph import Graph, Value
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.running import run
from tensorkeep.models.running.casting import cast_exactly
from tensorkeep.models.running.feeding import Fed, check, fits
from tensorkeep.state import State

IMAGE = Value("x", "float32", ("N", 3, 8, 6))


def _open(made: Any) -> State:
    return State.of_graph(Graph(Message.parse(MODEL, made.SerializeToString()), where="m.onnx"))


def _problem(wanted: Value, array: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        check([Fed(wanted, array, None)])
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        (
            (2, 8, 6, 3),
            "The model takes channels first (NCHW). It fits as x.transpose(0, 3, 1, 2).",
        ),
        ((3, 8, 6), "It fits with an axis for the batch: x[None]."),
        ((1, 2, 3, 8, 6), "It fits without its first axis: x[0]."),
        ((2, 3, 6, 8), "It fits as x.transpose(0, 1, 3, 2)."),
        ((3, 8), "It has 2 axes, not 4."),
        ((), "It has 0 axes, not 4."),
    ],
)
def test_what_would_fit_is_said(shape: tuple[int, ...], hint: str) -> None:
    text = _problem(IMAGE, np.zeros(shape, np.float32))
    assert text == (f"input 'x': takes x: float32[N, 3, 8, 6], not float32{list(shape)}. {hint}")


def test_channels_last() -> None:
    wanted = Value("x", "float32", (None, 8, 6, 3))
    text = _problem(wanted, np.zeros((2, 3, 8, 6), np.float32))
    assert "The model takes channels last (NHWC). It fits as x.transpose(0, 2, 3, 1)." in text


def test_a_fixed_batch() -> None:
    wanted = Value("x", "float32", (4, 3))
    text = _problem(wanted, np.zeros((10, 3), np.float32))
    assert text.endswith("Say batch_size=4, to run it in pieces of so many rows.")


def test_a_last_axis() -> None:
    wanted = Value("x", "float32", ("N", 8, 1))
    assert "x[..., None]" in _problem(wanted, np.zeros((2, 8), np.float32))


def test_symbols_have_one_size() -> None:
    inputs = [Value("ids", "int64", ("B", "T")), Value("mask", "int64", ("B", "T"))]
    arrays = [np.zeros((2, 5), np.int64), np.zeros((2, 4), np.int64)]
    with pytest.raises(ArgumentError) as caught:
        check([Fed(v, a, None) for v, a in zip(inputs, arrays, strict=True)])
    assert str(caught.value) == (
        "input 'mask': takes mask: int64[B, T], and T is 4 here, but 5 in 'ids'. Say check=False, "
        "if the model means something else by the name."
    )


def test_unknown_ranks_and_axes_take_all() -> None:
    check([Fed(Value("x", "float32", None), np.zeros((1, 2, 3), np.float32), None)])
    check([Fed(Value("x", "float32", (None, 2)), np.zeros((7, 2), np.float32), None)])
    assert fits((3, 4), (-1, 4))


def test_names_are_checked() -> None:
    state = _open(linear())
    x = np.ones((1, 3), np.float32)
    with pytest.raises(ArgumentError, match=re.escape("m.onnx: has no input called 'xx'. Did you")):
        run(state, {"xx": x})
    with pytest.raises(ArgumentError, match=re.escape("m.onnx: also takes x: float32[N, 3]")):
        run(state, {})
    made = model([], [value("a", (1,)), value("b", (1,))], [])
    with pytest.raises(ArgumentError, match="they have to be named"):
        run(_open(_with_output(made)), x)


def _with_output(made: Any) -> Any:
    from onnx import helper

    made.graph.node.append(helper.make_node("Add", ["a", "b"], ["y"]))
    made.graph.output.append(value("y", (1,)))
    return made


def test_element_types_are_checked() -> None:
    state = _open(linear())
    x = np.ones((1, 3))
    with pytest.raises(ArgumentError) as caught:
        run(state, {"x": x})
    assert str(caught.value) == (
        "m.onnx: input 'x': takes x: float32[N, 3], not float64[1, 3]. Give it as float32, or say "
        "cast=True, which loses no value."
    )
    assert run(state, {"x": x}, cast=True)["y"].shape == (1, 4)
    assert run(state, {"x": x.astype(np.int8)}, cast=True)["y"].shape == (1, 4)


def test_casts_lose_no_value() -> None:
    state = _open(linear())
    for lost in (np.full((1, 3), 1e300), np.full((1, 3), 2**24 + 1), np.array([["1", "2", "3"]])):
        with pytest.raises(LossError, match="input 'x'"):
            run(state, {"x": lost}, cast=True)
    kept = np.array([[np.inf, np.nan, 1 / 3]])
    assert np.isnan(run(state, {"x": kept}, cast=True)["y"]).all()
    from onnx import TensorProto

    integers = _open(one("Identity", ("N",), TensorProto.INT32))
    assert run(integers, np.array([1.0, -2.0]), cast=True)["y"].tolist() == [1, -2]
    for odd in (np.array([0.5]), np.array([2**40]), np.array([np.nan]), np.array([2**32 - 1])):
        with pytest.raises(LossError, match="which is no int32"):
            run(integers, odd, cast=True)
    unsigned = _open(one("Identity", ("N",), TensorProto.UINT64))
    with pytest.raises(LossError, match="holds -1, which is no uint64"):
        run(unsigned, np.array([-1]), cast=True)


def test_casts_to_types_without_infinity_stay_in_their_range() -> None:
    for to in (dtypes.FLOAT4_E2M1FN, dtypes.FLOAT6_E3M2FN, dtypes.FLOAT8_E4M3FN):
        assert cast_exactly(np.array([0.5, -6.0]), to, "x").astype(float).tolist() == [0.5, -6]
        for odd in (1000.0, np.inf, -np.inf):
            with pytest.raises(LossError, match=f"which is no {to}"):
                cast_exactly(np.array([odd]), to, "x")
    with pytest.raises(LossError, match="holds nan, which is no float4"):
        cast_exactly(np.array([np.nan]), dtypes.FLOAT4_E2M1FN, "x")
    with pytest.raises(LossError, match=r"holds 1e.300, which is no complex64"):
        cast_exactly(np.array([1e300]), dtypes.COMPLEX64, "x")


def test_complex_numbers_are_cast_where_they_are_real() -> None:
    assert cast_exactly(np.array([2 + 0j]), dtypes.FLOAT32, "x").tolist() == [2.0]
    for odd in (2 + 1j, complex(2, np.nan)):
        with pytest.raises(LossError, match="which is no float32"):
            cast_exactly(np.array([odd]), dtypes.FLOAT32, "x")


def test_a_loss_names_the_model() -> None:
    with pytest.raises(LossError, match=r"m.onnx: input 'x': holds 1e.300"):
        run(_open(linear()), {"x": np.full((1, 3), 1e300)}, cast=True)


def test_what_is_no_array() -> None:
    state = _open(linear())
    for odd in ({1: 2}, [[1.0], [2.0, 3.0]], object()):
        with pytest.raises(ArgumentError, match="input 'x': is "):
            run(state, {"x": odd})


def test_checks_can_be_left_out() -> None:
    state = _open(linear())
    with pytest.raises(Exception, match="cannot be run: Invalid rank for input: x"):
        run(state, {"x": np.ones(3, np.float32)}, check=False)
