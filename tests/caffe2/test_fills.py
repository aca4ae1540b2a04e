"""What every fill writes, as Caffe2 (PyTorch 1.10) does: the values were read off its own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.caffe2.filling import Array, fill, float32, int32, int64, same

from tensorkeep.caffe2 import Device, Workspace, create_operator
from tensorkeep.caffe2.gradient import gradient_of
from tensorkeep.errors import ArgumentError, MissingError, TensorKeepError, UnsafeError
from tensorkeep.wire.caffe2.values import Int8Tensor


@pytest.mark.parametrize(
    ("type", "arguments", "dtype", "values"),
    [
        (
            "GivenTensorFill",
            {"shape": [2, 2], "values": [1.0, 2.0, 3.0, 4.5]},
            "f4",
            [[1, 2], [3, 4.5]],
        ),
        ("GivenTensorFill", {"values": [0.1]}, "f4", np.float32(0.1)),
        ("GivenTensorFill", {"shape": [0], "values": []}, "f4", []),
        (
            "GivenTensorFill",
            {"shape": [2], "values": [1.0, 2.5], "input_as_shape": 0},
            "f4",
            [1, 2.5],
        ),
        ("GivenTensorFill", {"shape": [2], "values": [1.0, 2.5], "dtype": 1}, "f4", [1, 2.5]),
        ("GivenTensorFill", {"shape": [2], "values": [1, -2], "dtype": 2}, "i4", [1, -2]),
        ("GivenTensorFill", {"shape": [2], "values": [1, 2], "dtype": 5}, "?", [True, True]),
        ("GivenTensorFill", {"shape": [2], "values": [1, 2], "dtype": 9}, "i2", [1, 2]),
        ("GivenTensorFill", {"shape": [2], "values": [1, 2], "dtype": 10}, "i8", [1, 2]),
        ("GivenTensorFill", {"shape": [2], "values": [1.0, 2.5], "dtype": 13}, "f8", [1, 2.5]),
        (
            "GivenTensorDoubleFill",
            {"shape": [2], "values": [1.0, 0.1]},
            "f8",
            [1, 0.10000000149011612],
        ),
        ("GivenTensorIntFill", {"shape": [2], "values": [1, -(2**31)]}, "i4", [1, -(2**31)]),
        ("GivenTensorIntFill", {"shape": [2], "values": [1, 2], "dtype": 10}, "i4", [1, 2]),
        ("GivenTensorInt64Fill", {"shape": [2], "values": [1, -(2**63)]}, "i8", [1, -(2**63)]),
        ("GivenTensorInt16Fill", {"shape": [2], "values": [1, -2]}, "i2", [1, -2]),
        ("GivenTensorBoolFill", {"shape": [3], "values": [1, 0, 2]}, "?", [True, False, True]),
        (
            "GivenTensorByteStringToUInt8Fill",
            {"shape": [2, 2], "values": [b"\1\2\xff\4"]},
            "u1",
            [[1, 2], [255, 4]],
        ),
        ("GivenTensorByteStringToUInt8Fill", {"shape": [0], "values": [b""]}, "u1", []),
        ("ConstantFill", {}, "f4", 0.0),
        ("ConstantFill", {"shape": [2]}, "f4", [0, 0]),
        ("ConstantFill", {"shape": [2], "value": 3.0}, "f4", [3, 3]),
        ("ConstantFill", {"shape": [2], "value": 3}, "i8", [3, 3]),
        ("ConstantFill", {"shape": [0], "value": True}, "i8", []),
        ("ConstantFill", {"shape": [2], "value": 3.5, "dtype": 13}, "f8", [3.5, 3.5]),
        ("ConstantFill", {"shape": [2], "value": -3, "dtype": 2}, "i4", [-3, -3]),
        ("ConstantFill", {"shape": [2], "value": 2, "dtype": 5}, "?", [True, True]),
        ("ConstantFill", {"shape": [2], "value": 255, "dtype": 6}, "u1", [255, 255]),
        ("ConstantFill", {"shape": [2], "value": -128, "dtype": 7}, "i1", [-128, -128]),
        ("ConstantFill", {"shape": [2], "value": 65535, "dtype": 8}, "u2", [65535, 65535]),
        ("ConstantFill", {"shape": [2], "value": -3, "dtype": 9}, "i2", [-3, -3]),
        ("DiagonalFill", {"shape": [2, 3]}, "f4", [[0, 0, 0], [0, 0, 0]]),
        ("DiagonalFill", {"shape": [2, 3], "value": 2}, "i8", [[2, 0, 0], [0, 2, 0]]),
        ("DiagonalFill", {"shape": [3, 2], "value": 2.0}, "f4", [[2, 0], [0, 2], [0, 0]]),
        (
            "DiagonalFill",
            {"shape": [2] * 3, "value": 2},
            "i8",
            [[[2, 0], [0, 0]], [[0, 0], [0, 2]]],
        ),
        (
            "DiagonalFill",
            {"shape": [2, 2], "value": 1, "dtype": 5},
            "?",
            [[True, False], [False, True]],
        ),
        ("RangeFill", {"shape": [2, 3]}, "f4", [[0, 1, 2], [3, 4, 5]]),
        ("Float16ConstantFill", {"shape": [2], "value": 0.1}, "f2", [0.0999755859375] * 2),
        ("Float16ConstantFill", {"shape": [1], "value": 65519.0}, "f2", [65504]),
    ],
)
def test_fills_write_what_caffe2_writes(
    type: str, arguments: dict[str, Any], dtype: str, values: Any
) -> None:
    same(fill(type, **arguments), dtype, values)


def test_string_fills_give_the_very_bytes() -> None:
    found = fill("GivenTensorStringFill", shape=[2, 1], values=["a", b"\xff\0"])
    assert found.shape == (2, 1)
    assert found.reshape(-1).tolist() == [b"a", b"\xff\0"]
    assert fill("GivenTensorStringFill", shape=[], values=["a"]).item() == b"a"
    assert fill("GivenTensorFill", shape=[1], values=["a"], dtype=4).tolist() == [b"a"]
    assert fill("ConstantFill", shape=[2], value="x", dtype=4).tolist() == [b"x", b"x"]
    assert fill("ConstantFill", shape=[1], dtype=4).tolist() == [b""]


def test_int8_fills_give_quantized_tensors() -> None:
    found = fill("Int8GivenTensorFill", shape=[2], values=b"\1\xff", Y_scale=0.5, Y_zero_point=3)
    assert isinstance(found, Int8Tensor)
    same(found.data.numpy(), "u1", [1, 255])
    assert (found.scale, found.zero_point) == (0.5, 3)
    found = fill("Int8GivenIntTensorFill", shape=[2], values=[1, -300])
    same(found.data.numpy(), "i4", [1, -300])
    assert (found.scale, found.zero_point) == (1.0, 0)


def test_longer_bytes_are_cut_only_where_caffe2s_laxness_is_asked_for() -> None:
    arguments: dict[str, Any] = {"shape": [2], "values": [b"\1\2\3"]}
    with pytest.raises(ArgumentError, match=r"shape \(2\), but 3 values"):
        fill("GivenTensorByteStringToUInt8Fill", **arguments)
    same(fill("GivenTensorByteStringToUInt8Fill", strict=False, **arguments), "u1", [1, 2])
    with pytest.raises(ArgumentError, match="but 1 values"):  # Caffe2 read what lay behind it
        fill("Int8GivenTensorFill", strict=False, shape=[2], values=b"\1")


def test_an_input_tells_the_shape() -> None:
    same(fill("ConstantFill", np.zeros((3, 2), np.float32), value=1.0), "f4", np.ones((3, 2)))
    same(fill("ConstantFill", int64(3, 2), value=1.0), "f4", [1, 1])
    same(fill("ConstantFill", int64(3, 2), value=1.0, input_as_shape=1), "f4", np.ones((3, 2)))
    found = fill("ConstantFill", int64(3, 2), value=2, input_as_shape=True, extra_shape=[4])
    same(found, "i8", np.full((3, 2, 4), 2))
    found = fill("GivenTensorFill", int64(2, 2), values=[1.0, 2.0, 3.0, 4.0], extra_shape=[2])
    same(found, "f4", [[1, 2], [3, 4]])
    same(fill("RangeFill", np.zeros((1, 3), bool)), "f4", [[0, 1, 2]])
    same(fill("DiagonalFill", int64(2, 2), input_as_shape=1, value=1), "i8", np.eye(2))


def test_a_second_input_is_the_constant() -> None:
    found = fill("ConstantFill", int64(3, 2), float32(7.5), input_as_shape=1, value=1.0)
    same(found, "f4", np.full((3, 2), 7.5))
    same(fill("ConstantFill", np.zeros(2), int64(7), value=1), "i8", [7, 7])
    same(fill("ConstantFill", np.zeros(2), int32(7), dtype=2), "i4", [7, 7])
    same(fill("ConstantFill", np.zeros(2), np.array([0.1]), dtype=13), "f8", [0.1, 0.1])


def test_lengths_become_ranges() -> None:
    found = fill("LengthsRangeFill", np.array([2, 0, 3], np.int32))
    same(found, "i4", [0, 1, 0, 1, 2])
    same(fill("LengthsRangeFill", np.array([], np.int32)), "i4", [])


@pytest.mark.parametrize(
    ("type", "inputs", "arguments", "match"),
    [
        (
            "GivenTensorFill",
            [],
            {"shape": [2, 2], "values": [1.0]},
            r"shape \(2, 2\), but 1 values",
        ),
        (
            "GivenTensorFill",
            [],
            {"shape": [2], "values": [1, 2]},
            "'values' holds a list of integers",
        ),
        ("GivenTensorFill", [], {"shape": [1], "values": 5.0}, "'values' holds a float"),
        ("GivenTensorFill", [], {"shape": [0]}, "'values' is needed"),
        ("GivenTensorFill", [], {"shape": 1, "values": [1.0]}, "'shape' holds an integer"),
        ("GivenTensorFill", [], {"shape": [-1], "values": [1.0]}, r"shape \(-1\)"),
        ("GivenTensorFill", [], {"shape": [-1, -1], "values": [1.0]}, r"shape \(-1, -1\)"),
        ("GivenTensorFill", [], {"shape": [1] * 65, "values": [1.0]}, "cannot have the shape"),
        (
            "GivenTensorFill",
            [],
            {"shape": [2], "values": [1.0, 2.0], "extra_shape": [1]},
            "no input",
        ),
        ("GivenTensorFill", [], {"shape": [1], "values": [1.0], "input_as_shape": 1}, "no input"),
        ("GivenTensorFill", [], {"shape": [1], "values": [1.0], "dtype": 0}, "dtype 0"),
        ("GivenTensorFill", [], {"shape": [1], "values": [1.0], "dtype": 6}, "dtype 6"),
        ("GivenTensorFill", [], {"shape": [2], "values": ["a", "b"]}, "a list of texts"),
        ("GivenTensorFill", [b"text"], {"values": [1.0]}, "a std::string, where a Tensor"),
        ("GivenTensorFill", [int64(1)], {"values": [1.0], "shape": [1]}, "not both"),
        (
            "GivenTensorFill",
            [int32(1)],
            {"values": [1.0], "input_as_shape": 1},
            "tells no shape",
        ),
        ("GivenTensorFill", [int64()], {"values": [1.0], "input_as_shape": 1}, "tells no shape"),
        (
            "GivenTensorFill",
            [np.array([[1]])],
            {"values": [1.0], "input_as_shape": 1},
            "tells no shape",
        ),
        ("GivenTensorFill", [int64(-1)], {"values": [1.0], "input_as_shape": 1}, r"shape \(-1\)"),
        ("GivenTensorFill", [int64(1)] * 2, {"values": [1.0]}, "has 2 inputs"),
        ("GivenTensorIntFill", [], {"shape": [1], "values": [2**31]}, "do not fit int32"),
        ("GivenTensorInt16Fill", [], {"shape": [1], "values": [70000]}, "do not fit int16"),
        ("GivenTensorStringFill", [], {"shape": [2], "values": ["a"]}, "but 1 values"),
        ("GivenTensorStringFill", [], {"shape": [1], "values": "a"}, "holds a text"),
        ("GivenTensorByteStringToUInt8Fill", [], {"shape": [2], "values": [b"a", b"b"]}, "not 2"),
        ("GivenTensorByteStringToUInt8Fill", [], {"shape": [0], "values": []}, "not 0"),
        (
            "GivenTensorByteStringToUInt8Fill",
            [],
            {"shape": [1], "values": [b"a"], "dtype": 6},
            "dtype 6",
        ),
        ("Int8GivenTensorFill", [], {"shape": [1], "values": [b"a"]}, "a list of texts"),
        ("Int8GivenTensorFill", [], {"shape": [1], "values": b"a", "Y_scale": 1}, "a float is"),
        ("Int8GivenTensorFill", [], {"shape": [2]}, "but 0 values"),
        ("Int8GivenIntTensorFill", [], {"shape": [1], "values": [2**31]}, "do not fit int32"),
        ("ConstantFill", [], {"shape": [1], "value": "x"}, "value"),
        ("ConstantFill", [], {"shape": [1], "value": [1.0]}, "value"),
        ("ConstantFill", [], {"shape": [1], "dtype": 0}, "dtype 0"),
        ("ConstantFill", [], {"shape": [1], "dtype": 12}, "dtype 12"),
        ("ConstantFill", [], {"shape": [1], "value": 3, "dtype": 1}, "not a float"),
        ("ConstantFill", [], {"shape": [1], "value": 3.5, "dtype": 2}, "not an integer"),
        ("ConstantFill", [], {"shape": [1], "value": 300, "dtype": 6}, "does not fit uint8"),
        ("ConstantFill", [], {"shape": 1}, "'shape' holds an integer"),
        (
            "ConstantFill",
            [int64(1), int64(7)],
            {},
            "filled with int64 of shape .*, where one float32",
        ),
        ("ConstantFill", [int64(1), float32(7, 8)], {}, r"of shape \(2,\)"),
        ("ConstantFill", [int64(1), np.array(["x"])], {"dtype": 4}, "filled with string"),
        ("ConstantFill", [int64(1)] * 3, {}, "has 3 inputs"),
        ("DiagonalFill", [], {"shape": [6]}, "two axes"),
        ("DiagonalFill", [], {"shape": [2, 2, 3]}, "one length"),
        ("DiagonalFill", [], {"shape": [2, 2], "dtype": 4}, "not text, or cannot be"),
        ("Float16ConstantFill", [int64(1)], {}, "has 1 inputs"),
        ("Float16ConstantFill", [], {"shape": [1], "value": 2}, "not a float"),
        ("LengthsRangeFill", [int64(1)], {}, "int32 lengths, not int64"),
        ("LengthsRangeFill", [np.array([[1]], np.int32)], {}, r"of shape \(1, 1\)"),
        ("LengthsRangeFill", [int32(2, -1)], {}, r"lengths \(2, -1\)"),
        ("LengthsRangeFill", [np.array([2**31 - 1] * 3, np.int32)], {}, "cannot have the lengths"),
        ("UniformFill", [], {"shape": [2], "min": 2.0, "max": 1.0}, "not above it"),
        ("UniformFill", [], {"shape": [2], "min": 1.0}, "not above it"),
        ("UniformFill", [], {"shape": [2], "min": float("nan")}, "not above it"),
        ("UniformFill", [], {"shape": [2], "min": -3e38, "max": 3e38}, "cannot span"),
        ("UniformFill", [], {"shape": [2], "min": 1, "max": 2}, "where a float is expected"),
        ("UniformFill", [int64(3), float32(1)], {}, "2 inputs"),
        ("UniformFill", [int64(3), float32(1, 2), float32(3)], {}, r"shape \(2,\)"),
        ("UniformFill", [int64(3), int64(1), int64(3)], {}, "a bound of int64"),
        ("UniformFill", [int64(3), float32(1), float32(3)], {"min": 0.0}, "both"),
        ("UniformIntFill", [], {"shape": [2], "min": 3, "max": 3}, "not above it"),
        ("UniformIntFill", [], {"shape": [2], "max": 2**31}, "does not fit int32"),
        ("XavierFill", [], {"shape": []}, "no rows"),
        ("XavierFill", [], {"shape": [0, 3]}, "no rows"),
        ("MSRAFill", [], {"shape": [6]}, "no second axis"),
        ("GaussianFill", [], {"shape": [2], "std": -1.0}, "0 or more"),
        ("GaussianFill", [], {"shape": [2], "std": float("nan")}, "0 or more"),
        ("Float16UniformFill", [], {"shape": [2], "min": 3.0}, "not above it"),
    ],
)
def test_bad_fills_are_refused(
    type: str, inputs: list[Any], arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        fill(type, *inputs, **arguments)


def test_a_missing_input_is_named() -> None:
    with pytest.raises(MissingError, match="'shape_blob'"):
        Workspace().run(create_operator("ConstantFill", ["shape_blob"], ["Y"]))


@pytest.mark.parametrize(
    ("type", "arguments"),
    [
        ("ConstantFill", {}),
        ("ConstantFill", {"dtype": 4}),
        ("Float16ConstantFill", {}),
        ("RangeFill", {}),
        ("DiagonalFill", {}),
        ("GaussianFill", {}),
        ("UniformIntFill", {}),
    ],
)
def test_a_hostile_size_is_refused_before_it_is_allocated(
    type: str, arguments: dict[str, Any]
) -> None:
    for shape in ([2**25, 2**25], [2**62, 2**62]):
        with pytest.raises(UnsafeError):
            fill(type, shape=shape, **arguments)


def test_constants_and_drawn_numbers_take_no_memory_before_they_are_read() -> None:
    ws = Workspace()
    shape = create_operator("GivenTensorInt64Fill", [], ["shape"], shape=[2], values=[3000, 100000])
    ws.run(shape)
    ws.run(create_operator("ConstantFill", ["shape"], ["c"], value=3, input_as_shape=1))
    ws.run(create_operator("UniformFill", ["shape"], ["u"], input_as_shape=1))
    constant, drawn = ws.blob("c").value, ws.blob("u").value
    assert (constant.nbytes, drawn.nbytes) == (2_400_000_000, 1_200_000_000)
    assert constant[2999, 99998:].tolist() == [3, 3]


def test_trivial_operators() -> None:
    same(fill("Copy", float32(5)), "f4", [5])
    assert fill("StopGradient", np.array([b"a"], object)).tolist() == [b"a"]
    with pytest.raises(ArgumentError, match="std::string"):
        fill("Copy", b"text")
    assert fill("CreateCounter", init_count=5) == 5
    assert fill("CreateMutex") is None
    with pytest.raises(ArgumentError, match="negative"):
        fill("CreateCounter", init_count=-5)


def test_iter_counts_in_its_output() -> None:
    ws = Workspace()
    for expected in ([1], [2], [3]):
        ws.run(create_operator("Iter", [], ["i"]))
        assert ws.fetch("i").tolist() == expected
    ws.run(create_operator("Iter", ["i"], ["i"]))
    same(ws.fetch("i"), "i8", [4])
    ws.feed("f", b"text")
    ws.run(create_operator("Iter", [], ["f"]))
    same(ws.fetch("f"), "i8", [1])
    ws.feed("x", int32(5))  # Caffe2 reads behind it
    with pytest.raises(ArgumentError, match="not an int64"):
        ws.run(create_operator("Iter", [], ["x"]))
    ws.feed("scalar", np.array(5))
    ws.run(create_operator("Iter", [], ["scalar"]))
    same(ws.fetch("scalar"), "i8", 6)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (int64(5, 6), "one count"),
        (int64(-5), "one count"),
        (int64(2**63 - 1), "one count"),
        (int32(5), "not an int64"),
    ],
)
def test_iter_refuses_what_is_no_count(value: Array, match: str) -> None:
    ws = Workspace()
    ws.feed("i", value)
    with pytest.raises(ArgumentError, match=match):
        ws.run(create_operator("Iter", ["i"], ["i"]))
    with pytest.raises(ArgumentError, match="in place"):
        ws.run(create_operator("Iter", ["i"], ["j"]))


def test_a_fill_keeps_the_device_it_was_given() -> None:
    ws = Workspace()
    ws.run(create_operator("ConstantFill", [], ["Y"], shape=[1], device=Device(1, 2)))
    assert ws.blob("Y").device == Device(1, 2)


def test_a_failing_fill_leaves_what_was_there() -> None:
    ws = Workspace()
    ws.feed("Y", float32(1))
    with pytest.raises(ArgumentError):
        ws.run(create_operator("GivenTensorFill", [], ["Y"], shape=[3], values=[1.0]))
    same(ws.fetch("Y"), "f4", [1])


def test_changing_a_fetched_array_does_not_change_the_fill() -> None:
    ws = Workspace()
    operator = create_operator("GivenTensorFill", [], ["Y"], shape=[2], values=[1.0, 2.0])
    ws.run(operator)
    ws.fetch("Y")[:] = 7
    same(ws.fetch("Y"), "f4", [1, 2])
    assert operator.arg[1].floats.tolist() == [1, 2]


def test_fills_have_no_gradient() -> None:
    for type in ("GivenTensorFill", "ConstantFill", "XavierFill", "LengthsRangeFill", "Iter"):
        assert gradient_of(create_operator(type, [], ["Y"], values=[1.0])) == []
    with pytest.raises(TensorKeepError, match="must not be asked"):
        gradient_of(create_operator("CreateCounter", [], ["Y"]))


def test_what_was_filled_is_saved_chunk_by_chunk(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path), durable=False)
    shape: dict[str, Any] = {"shape": [7, 3]}
    ws.run(create_operator("GaussianFill", [], ["drawn"], **shape))
    ws.run(create_operator("ConstantFill", [], ["constant"], value=2.5, **shape))
    ws.run(create_operator("RangeFill", [], ["range"], **shape))
    ws.run(create_operator("ConstantFill", [], ["text"], value="ab", dtype=4, **shape))
    given = np.arange(21, dtype=np.float32)
    ws.run(create_operator("GivenTensorFill", [], ["given"], values=given, **shape))
    names = ws.blobs()
    database: dict[str, Any] = {"db": "w.minidb", "db_type": "minidb"}
    ws.run(create_operator("Save", names, [], chunk_size=4, **database))
    loaded = Workspace(str(tmp_path))
    loaded.run(create_operator("Load", [], names, **database))
    for name in names:
        assert loaded.fetch(name).shape == (7, 3)
        assert np.array_equal(loaded.fetch(name), ws.fetch(name)), name


@pytest.mark.parametrize("type", ["Copy", "Alias", "EnsureCPUOutput"])
def test_a_copy_is_not_made_in_place(type: str) -> None:
    ws = Workspace()
    ws.feed("w", float32(5))
    with pytest.raises(ArgumentError, match="cannot write its input 'w'"):
        ws.run(create_operator(type, ["w"], ["w"]))
    assert ws.run(create_operator("StopGradient", ["w"], ["w"]))
