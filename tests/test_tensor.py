from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from tensorkeep import dtypes, errors, testing
from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor

GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

LAYOUTS: dict[str, Any] = {
    "plain": GRID,
    "Fortran": np.asfortranarray(GRID),
    "transposed": GRID.T,
    "every other": GRID[:, ::2, ::2],
    "backwards": GRID[::-1, :, ::-1],
    "broadcast": np.broadcast_to(np.array([1, 2, 3], np.float32), (4, 3)),
    "broadcast to nothing": np.broadcast_to(np.float32(1), (0, 3)),
    "big endian": GRID.astype(">f4"),
    "big endian, strided": GRID.astype(">f4")[:, 1:, ::3],
    "big endian complex": (GRID * 1j).astype(">c16"),
    "unaligned": np.frombuffer(b"x" + GRID.tobytes(), np.float32, offset=1),
    "read-only": np.frombuffer(GRID.tobytes(), np.float32),
    "scalar": np.float64(3),
    "zero-dimensional": np.array(-0.0),
    "big endian scalar": np.array(3, ">i8"),
    "empty": np.zeros((0, 3)),
    "empty, strided": np.zeros((6, 0))[::2],
    "bool": np.array([True, False])[::-1],
    "list": [[1.5, 2], [3, 4]],
    "int4, strided": np.arange(9).astype(ml_dtypes.int4)[::2],
    "float6, 0-d": np.array(1.5).astype(ml_dtypes.float6_e2m3fn),
    "record field": np.zeros(3, [("a", "i4"), ("b", "f8")])["b"],
}


@pytest.mark.parametrize("array", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_gives_the_same_bytes(array: Any) -> None:
    expected = np.asarray(array)
    tensor = Tensor.of(array)
    assert tensor.shape == expected.shape
    native = expected.astype(expected.dtype.newbyteorder("="))
    if tensor.dtype.packed:
        assert bytes(tensor.read()) == dtypes.pack(native, tensor.dtype).tobytes()
    else:
        assert bytes(tensor.read()) == native.tobytes()
    testing.assert_equal_states(tensor.numpy(), native)
    assert b"".join(map(bytes, tensor.pieces(40))) == bytes(tensor.read())


@given(testing.arrays())
def test_any_array(array: Any) -> None:
    tensor = Tensor.of(array)
    testing.assert_equal_states(tensor.numpy(), array)
    whole = bytes(tensor.read())
    for size in (8, 24, 56):
        assert b"".join(map(bytes, tensor.pieces(size))) == whole


def test_memory_is_shared_where_it_can_be() -> None:
    array = np.zeros(4)
    tensor = Tensor.of(array)
    array[1] = 7
    assert np.shares_memory(tensor.numpy(), array)
    assert tensor[1] == 7
    assert not tensor.numpy().flags.writeable


@pytest.mark.parametrize("name", testing.samples())
def test_every_sample_reads_back(name: str) -> None:
    tensor = testing.samples()[name]
    again = Tensor.of(tensor.numpy())
    assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
    assert bytes(again.read()) == bytes(tensor.read())


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (np.array(["a", "bc", ""]), ["a", "bc", ""]),
        (np.array([b"a", b"\xff"]), ["a", "\udcff"]),
        (np.array(["ü", "x"], object), ["ü", "x"]),
        (np.array(["a", "long " * 9], np.dtypes.StringDType()), ["a", "long " * 9]),
        (np.array([], "U5"), []),
        (np.array(["a", "b", "c", "d"])[::-2], ["d", "b"]),
    ],
)
def test_strings(values: Any, texts: list[str]) -> None:
    tensor = Tensor.of(values)
    assert tensor.dtype is dtypes.STRING
    assert tensor.numpy().tolist() == texts
    assert tensor[:].tolist() == texts


REFUSED: dict[str, Any] = {
    "objects": np.array([object()]),
    "numbers as objects": np.array([1, "a"], object),
    "bytes as objects": np.array([b"a"], object),
    "None": np.array([None]),
    "records": np.zeros(2, [("a", "i4")]),
    "raw": np.zeros(2, "V4"),
    "times": np.array(["2020-01-01"], "M8[D]"),
    "spans": np.array([3], "m8[s]"),
    "long doubles": np.zeros(2, np.longdouble),
    "half a surrogate": np.array(["\ud800"], object),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_is_not_kept(value: Any) -> None:
    with pytest.raises(errors.UnsupportedError) as caught:
        Tensor.of(value, "state.w")
    assert caught.value.cure


def source(size: int) -> MemorySource:
    return MemorySource(bytes(size), "here")


LIES: dict[str, tuple[Any, ...]] = {
    "too short": (dtypes.FLOAT32, (3,), source(11)),
    "behind the end": (dtypes.FLOAT32, (3,), source(12), 1),
    "far behind the end": (dtypes.FLOAT32, (3,), source(12), 2**70),
    "negative offset": (dtypes.FLOAT32, (3,), source(24), -4),
    "negative axis": (dtypes.FLOAT32, (-3,), source(12)),
    "two negative axes": (dtypes.FLOAT32, (-3, -1), source(12)),
    "huge": (dtypes.UINT8, (2**62, 4), source(12)),
    "wrapping": (dtypes.UINT8, (2**32, 2**32), source(0)),
    "other length": (dtypes.FLOAT32, (3,), source(24), 0, 13),
    "packed too short": (dtypes.INT4, (25,), source(12)),
    "string without offsets": (dtypes.STRING, (3,), source(31), 0, 31),
    "too large for NumPy": (dtypes.FLOAT32, (2**61, 2**61, 0), source(0)),
}


@pytest.mark.parametrize("arguments", LIES.values(), ids=LIES)
def test_what_the_source_does_not_hold(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(errors.CorruptError, match="here"):
        Tensor(*arguments)


def test_a_string_needs_its_length() -> None:
    with pytest.raises(errors.ArgumentError):
        Tensor(dtypes.STRING, (0,), source(8))


def test_like_an_array() -> None:
    tensor = Tensor.of(GRID)
    assert (tensor.size, tensor.ndim, len(tensor), tensor.nbytes) == (24, 3, 2, 96)
    assert repr(tensor) == "Tensor(float32, (2, 3, 4))"
    assert np.asarray(tensor).tolist() == GRID.tolist()
    assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(tensor), GRID)
    assert np.sum(tensor) == 276
    assert np.from_dlpack(tensor).tolist() == GRID.tolist()
    with pytest.raises(errors.ArgumentError):
        len(Tensor.of(np.float32(1)))


def test_iterating_ends() -> None:
    rows: Any = Tensor.of(GRID[0])
    assert [row.tolist() for row in rows] == GRID[0].tolist()


def test_rows_of_a_huge_view_are_copied_alone() -> None:
    """A map far larger than memory: only what is asked for may be made."""
    wide = np.broadcast_to(np.float32(1), (1 << 20, 1 << 20)).T
    tensor = Tensor.of(wide)
    assert tensor.nbytes == 1 << 42
    assert tensor.source.read(1 << 41, (1 << 41) + 8) == np.ones(2, np.float32).tobytes()
    assert next(tensor.pieces(1 << 10)).nbytes == 1 << 10


@pytest.mark.parametrize("kind", [dtypes.INT2, dtypes.UINT4, dtypes.FLOAT6_E3M2FN], ids=str)
def test_packed_pieces_start_anywhere(kind: DType) -> None:
    tensor = testing.sample(kind, (50,))
    again = Tensor.of(np.repeat(tensor.numpy(), 2)[::2])
    whole = bytes(tensor.read())
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1):
            assert bytes(again.source.read(start, stop)) == whole[start:stop]


def test_all_types_stand_in_the_samples() -> None:
    assert {t.dtype for t in testing.samples().values()} == set(DTYPES.values())


@pytest.mark.parametrize("step", [1, 2])
def test_bools_of_other_bytes_are_true(step: int) -> None:
    array = np.array([0, 2, 255, 1], np.uint8).view(bool)[::step]
    assert bytes(Tensor.of(array).read()) == bytes([0, 1, 1, 1][::step])
