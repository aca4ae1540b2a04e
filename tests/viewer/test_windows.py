from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import dtypes
from tensorkeep.dtypes import BLOCKS, DTYPES
from tensorkeep.errors import ArgumentError, CorruptError, UnsupportedError
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor
from tensorkeep.viewer import windows
from tensorkeep.viewer.windows import layout_of, tiles, values, window


class Endless(Source):
    """Holds as many bytes as it is said to, none of them in memory, and counts what is read."""

    def __init__(self, size: int, *, remote: bool = False, mapped: bool = False) -> None:
        super().__init__(size, "endless")
        self.read_bytes = self.reads = 0
        self._remote, self._mapped = remote, mapped

    @property
    def remote(self) -> bool:
        return self._remote

    def _read(self, start: int, stop: int) -> memoryview:
        self.read_bytes += stop - start
        self.reads += 1
        assert self.read_bytes < 80 << 20
        return memoryview(bytes(stop - start))


shapes = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)
names = st.sampled_from(["float32", "int16", "bool", "int4", "complex64", "string", "bfloat16"])


def made(shape: tuple[int, ...], name: str) -> Any:
    count = math.prod(shape)
    if name == "string":
        return np.array(["x" * (i % 7) for i in range(count)], object).reshape(shape)
    return (np.arange(count) % 7).astype(DTYPES[name].numpy).reshape(shape)


@given(shapes, names, st.integers(1, 12), st.data())
def test_a_window_is_what_numpy_gives(
    shape: tuple[int, ...], name: str, most: int, data: st.DataObject
) -> None:
    array = made(shape, name)
    count = min(2, len(shape))
    axes = data.draw(st.permutations(range(len(shape))))[:count]
    at = [data.draw(st.integers(0, length - 1)) for length in shape]
    ranges = []
    for axis in ([None] * (2 - count)) + list(axes):
        length = 1 if axis is None else shape[axis]
        start = data.draw(st.integers(0, length - 1))
        ranges.append((start, data.draw(st.integers(start + 1, length))))
    rows, cols = ranges
    head, found = window(Tensor.of(array), axes, at, rows, cols, most)
    plain = np.moveaxis(array, axes, range(count)) if count else array
    for axis in range(len(shape)):
        if axis not in axes:
            plain = plain[(slice(None),) * count + (at[axis],)]
    plain = np.reshape(plain, (1,) * (2 - count) + np.shape(plain))
    (top, bottom), (left, right) = rows, cols
    steps = [-(-(bottom - top) // most), -(-(right - left) // most)]
    plain = plain[top : bottom : steps[0], left : right : steps[1]]
    if name == "string":
        plain = np.vectorize(len, otypes=[int])(plain)
    assert head.steps == steps
    assert head.axes == list(axes)
    assert found.dtype == np.float32
    assert found.tolist() == np.abs(plain.astype(np.complex128)).tolist()
    assert (head.low, head.high) == (found.min(), found.max())
    exact = values(Tensor.of(array), axes, at, rows, cols)
    assert (exact.rows, exact.cols) == ([top, bottom], [left, right])
    assert len(exact.values) == bottom - top
    first = np.moveaxis(array, axes, range(count)) if count else array
    assert exact.values[0][0] in {str(value) for value in np.reshape(first, -1)}


def test_values_are_in_full_precision() -> None:
    for array, expected in (
        (np.array([0.1, 1e-45, math.nan], np.float32), ["0.1", "1e-45", "nan"]),
        (np.array([0.1, -math.inf]), ["0.1", "-inf"]),
        (np.array([-(2**63), 2**63 - 1]), ["-9223372036854775808", "9223372036854775807"]),
        (np.array([True, False]), ["True", "False"]),
        (np.array([1 + 2j], np.complex64), ["(1+2j)"]),
        (np.array(["<b>", "x" * 2000], object), ["<b>", "x" * 1000 + "…"]),
        (np.array([0.5], ml_dtypes.float8_e5m2), ["0.5"]),
        (np.array([-8, 7], ml_dtypes.int4), ["-8", "7"]),
    ):
        assert values(Tensor.of(array)).values == [expected]
    bf16 = np.array([0.1, 3.14159, 1e38], ml_dtypes.bfloat16)
    texts = values(Tensor.of(bf16)).values[0]
    assert np.array([float(text) for text in texts], ml_dtypes.bfloat16).tolist() == bf16.tolist()


def test_values_start_at_the_beginning() -> None:
    found = values(Tensor.of(np.arange(10_000).reshape(100, 100)))
    assert (found.rows, found.cols) == ([0, 64], [0, 64])
    assert found.values[1][63] == "163"


@pytest.mark.parametrize(
    ("shape", "axes", "at"),
    [
        ((), [], []),
        ((5,), [0], [0]),
        ((4, 5), [0, 1], [0, 0]),
        ((2, 40, 50), [1, 2], [0, 0, 0]),
        ((64, 32, 3, 3), [0, 1], [0, 0, 1, 1]),
        ((3, 3, 32, 64), [2, 3], [1, 1, 0, 0]),
        ((64, 3, 7, 7), [2, 3], [0, 0, 0, 0]),
        ((64, 32, 5), [0, 1], [0, 0, 2]),
        ((32, 16, 3, 3, 3), [0, 1], [0, 0, 1, 1, 1]),
        ((8, 12, 100, 64), [2, 3], [0, 0, 0, 0]),
    ],
)
def test_the_window_without_arguments(
    shape: tuple[int, ...], axes: list[int], at: list[int]
) -> None:
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    head, data = window(Tensor.of(array))
    assert head.axes == axes
    assert [place for axis, place in enumerate(head.at) if axis not in axes] == [
        place for axis, place in enumerate(at) if axis not in axes
    ]
    assert head.steps == [1, 1]
    assert data.size == math.prod(shape[axis] for axis in axes)
    chosen = tuple(slice(None) if axis in axes else place for axis, place in enumerate(head.at))
    assert data.reshape(-1).tolist() == array[chosen].reshape(-1).tolist()


def test_what_is_not_finite_stays_and_does_not_count() -> None:
    array = np.array([[math.nan, math.inf], [-1, 1e300]])
    head, data = window(Tensor.of(array))
    assert np.isnan(data[0, 0])
    assert data[0, 1] == data[1, 1] == math.inf
    assert (head.low, head.high) == (-1, -1)
    head, _ = window(Tensor.of(np.array([math.nan])))
    assert (head.low, head.high) == (None, None)


@pytest.mark.parametrize("kind", [np.float32, object, np.bool_, ml_dtypes.int4])
def test_empty_tensors(kind: Any) -> None:
    for shape, expected in (((0,), [1, 0]), ((0, 3), [0, 3]), ((2, 0, 3), [0, 3])):
        head, data = window(Tensor.of(np.zeros(shape, kind)))
        assert head.shape == list(data.shape) == expected
        assert head.low is None
        assert values(Tensor.of(np.zeros(shape, kind))).values == [[]] * expected[0]
    hidden = Tensor.of(np.zeros((0, 3, 4), kind))
    head, data = window(hidden)
    assert (head.rows, head.cols, head.shape, data.shape) == ([0, 0], [0, 0], [0, 0], (0, 0))
    assert values(hidden).values == []


TENSOR = Tensor.of(np.zeros((3, 400, 500), np.int8))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"axes": [0, 0]}, "axes are"),
        ({"axes": [0, 3]}, "the tensor has 3 of them"),
        ({"axes": [-1, 0]}, "the tensor has 3 of them"),
        ({"axes": [0, 1, 2]}, "axes are"),
        ({"axes": []}, "axes are"),
        ({"at": [3, 0, 0]}, "at is 3 on axis 0"),
        ({"at": [-1, 0, 0]}, "at is -1 on axis 0"),
        ({"at": [0]}, "at names 1 places"),
        ({"rows": (0, 401)}, "rows are 0 to 401"),
        ({"rows": (-1, 4)}, "rows are -1 to 4"),
        ({"cols": (5, 5)}, "cols are 5 to 5"),
        ({"cols": (6, 5)}, "cols are 6 to 5"),
        ({"cols": (600, 700)}, "They lie between 0 and 500"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], told: str) -> None:
    for asked in (window, values):
        with pytest.raises(ArgumentError, match=told):
            asked(TENSOR, **arguments)


def test_a_million_cells_are_enough() -> None:
    head, data = window(Tensor.of(np.zeros((4000, 3000), np.int8)), most=4096)
    assert 1 << 18 < data.size <= 1 << 20
    head, data = window(Tensor.of(np.zeros(4096)), most=4096)
    assert (head.steps, data.shape) == ([1, 1], (1, 4096))


def test_blocks_are_drawn_as_their_numbers() -> None:
    row = BLOCKS["q8_0"]
    codes = np.random.default_rng(0).integers(0, 60, row.nbytes(320), np.uint8).tobytes()
    tensor = Tensor(row, (10, 32), MemorySource(codes))
    assert window(tensor)[1].tolist() == tensor.numpy().tolist()
    assert values(tensor, rows=(2, 3)).values == [[str(x) for x in tensor.numpy()[2]]]
    opaque = next(row for row in BLOCKS.values() if row.opaque)
    unknown = Tensor(opaque, (opaque.block,), MemorySource(bytes(opaque.bits // 8)))
    with pytest.raises(UnsupportedError, match="cannot be turned into numbers"):
        window(unknown)


def test_how_much_can_be_asked_for() -> None:
    for most in (0, -1, 100_000):
        with pytest.raises(ArgumentError, match="most has to be"):
            window(TENSOR, most=most)
    with pytest.raises(ArgumentError, match="rows asks for 65 values"):
        values(TENSOR, rows=(0, 65))


@pytest.mark.parametrize("axes", [[0, 1], [1, 0], [0, 2], [2, 1]])
def test_little_is_read_of_what_is_large(axes: list[int]) -> None:
    shape = (40_000, 3_000, 40_000)
    for remote in (False, True):
        source = Endless(math.prod(shape) * 4, remote=remote)
        head, data = window(Tensor(dtypes.FLOAT32, shape, source), axes)
        assert source.read_bytes <= 64 << 20
        assert list(data.shape) == head.shape
        assert math.prod(head.shape) >= 64
        if remote:
            assert source.reads <= 256
    source = Endless(math.prod(shape) * 4)
    values(Tensor(dtypes.FLOAT32, shape, source), axes)
    assert source.read_bytes <= 64 << 20


def test_little_is_read_of_packed_types_too() -> None:
    shape = (400_000, 400_000)
    source = Endless(math.prod(shape) // 2)
    head, data = window(Tensor(dtypes.INT4, shape, source), most=64)
    assert list(data.shape) == head.shape
    assert source.read_bytes <= 64 << 20


def test_of_a_huge_file_little_is_read(tmp_path: Any) -> None:
    import tensorkeep

    path = tmp_path / "huge.npy"
    with path.open("wb") as file:
        text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (40000, 100000), }"
        text = text.ljust(117) + b"\n"
        file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        file.truncate(file.tell() + 16_000_000_000)
    with tensorkeep.open(path) as state:
        head, data = window(next(iter(state.values())))
        assert head.steps == [157, 391]
        assert data.shape == (255, 256)


def test_what_is_damaged_is_told() -> None:
    class Broken(Endless):
        def _read(self, start: int, stop: int) -> memoryview:
            raise CorruptError("the chunk is damaged", where=self.where)

    tensor = Tensor(dtypes.FLOAT32, (10, 2, 3, 3), Broken(720))
    for asked in (window, values, tiles):
        with pytest.raises(CorruptError, match="the chunk is damaged"):
            asked(tensor)


def test_filters_of_three_channels_are_coloured() -> None:
    array = np.arange(16 * 3 * 5 * 4, dtype=np.float32).reshape(16, 3, 5, 4)
    head, data = tiles(Tensor.of(array), first=2, count=5)
    assert (head.layout, head.first, head.count, head.of) == ("oihw", 2, 5, 16)
    assert (head.rows, head.cols, head.channels) == (5, 4, 3)
    assert data.tolist() == array[2:7].transpose(0, 2, 3, 1).tolist()
    assert (head.low, head.high) == (array[2].min(), array[6].max())
    turned = Tensor.of(np.ascontiguousarray(array.transpose(2, 3, 1, 0)))
    head, same = tiles(turned, first=2, count=5)
    assert head.layout == "hwio"
    assert same.tolist() == data.tolist()


def test_filters_of_other_channels_are_grey_one_after_another() -> None:
    array = np.arange(6 * 5 * 3 * 3, dtype=np.int32).reshape(6, 5, 3, 3)
    for tensor, layout in (
        (Tensor.of(array), "oihw"),
        (Tensor.of(array.transpose(2, 3, 1, 0)), "hwio"),
    ):
        head, data = tiles(tensor, layout, first=3, count=9)
        assert (head.count, head.of, head.channels) == (9, 30, 1)
        assert data.shape == (9, 3, 3, 1)
        assert data[..., 0].tolist() == array.reshape(30, 3, 3)[3:12].tolist()
        head, data = tiles(tensor, layout, first=28)
        assert (head.count, data.shape) == (2, (2, 3, 3, 1))
        head, data = tiles(tensor, layout, first=30)
        assert (head.count, head.low, data.shape) == (0, None, (0, 3, 3, 1))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((64, 32, 3, 3), "oihw"),
        ((3, 3, 32, 64), "hwio"),
        ((1, 1, 3, 8), "hwio"),
        ((8, 3, 1, 1), "oihw"),
        ((8, 4, 5, 5), "oihw"),
        ((5, 5, 4, 8), "hwio"),
        ((64, 64, 64, 64), ""),
        ((3, 3), ""),
        ((0, 3, 3, 3), ""),
    ],
)
def test_how_a_kernel_lies(shape: tuple[int, ...], layout: str) -> None:
    assert layout_of(shape) == layout


def test_tiles_that_make_no_sense() -> None:
    kernel = Tensor.of(np.zeros((8, 3, 5, 5), np.float32))
    for arguments, told in (
        ({"layout": "ohwi"}, "no layout 'ohwi'"),
        ({"first": -1}, "there are 8 images"),
        ({"first": 9}, "there are 8 images"),
        ({"count": 0}, "there are 8 images"),
    ):
        with pytest.raises(ArgumentError, match=told):
            tiles(kernel, **arguments)
    with pytest.raises(ArgumentError, match="not that of filters"):
        tiles(Tensor.of(np.zeros((8, 3), np.float32)))
    with pytest.raises(ArgumentError, match="not that of filters"):
        tiles(Tensor.of(np.zeros((8, 3), np.float32)), "oihw")
    large = Tensor(dtypes.FLOAT32, (4, 1, 4000, 4000), Endless(4 * 16_000_000 * 4))
    with pytest.raises(ArgumentError, match="too many"):
        tiles(large, "oihw")


def test_no_map_is_looked_at(tmp_path: Any) -> None:
    class Mapped(Endless):
        @property
        def mapped(self) -> bool:
            return True

        def _read(self, start: int, stop: int) -> memoryview:
            raise AssertionError("a program that cuts the file short would end this one")

        def _readinto(self, start: int, buffer: memoryview) -> None:
            self.reads += 1

    for kind in (dtypes.FLOAT32, dtypes.INT4, dtypes.STRING):
        source = Mapped(8 * 4097)
        nbytes = 8 * 4097 if kind is dtypes.STRING else kind.nbytes(4096)
        tensor = Tensor(kind, (64, 4, 4, 4), source, 0, nbytes)
        several: list[Callable[[Tensor], Any]] = [window, values]
        if kind is not dtypes.STRING:
            several.append(tiles)
        for asked in several:
            before = source.reads
            asked(tensor)
            assert source.reads > before


def test_what_takes_too_long_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_PATIENCE", 0.01)

    class Slow(Endless):
        def _read(self, start: int, stop: int) -> memoryview:
            time.sleep(0.005)
            return super()._read(start, stop)

    source = Slow(4 * 10_000 * 10_000)
    tensor = Tensor(dtypes.FLOAT32, (10_000, 10_000), source)
    with pytest.raises(UnsupportedError, match="takes too long to read"):
        window(tensor)
    assert source.reads < 10
    assert window(tensor, rows=(0, 1))[0].shape == [1, 250]


def test_rows_that_are_near_are_read_at_once() -> None:
    source = Endless(4 * 10_000 * 10_000)
    tensor = Tensor(dtypes.FLOAT32, (10_000, 10_000), source)
    assert len(values(tensor, rows=(100, 164), cols=(9_000, 9_064)).values) == 64
    assert source.reads == 1
