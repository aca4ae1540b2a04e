from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import checksum, dtypes, errors, reading
from tensorkeep.source import FileSource, MemorySource, Source, Window
from tensorkeep.tensor import Tensor

MIB = 1 << 20


class Reads(MemorySource):
    """Memory that can only be read piece by piece, like a file on a network."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.calls: list[tuple[int, int]] = []

    def _readinto(self, start: int, buffer: memoryview) -> None:
        self.calls.append((start, buffer.nbytes))
        super()._readinto(start, buffer)


def data(size: int) -> bytes:
    return np.arange(-(-size // 4), dtype="<u4").tobytes()[:size]


def tensors(source: Source, rows: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    return {
        name: Tensor(dtypes.UINT8, (size,), source, start) for name, (start, size) in rows.items()
    }


def digests(chosen: dict[str, Tensor]) -> dict[str, str]:
    return {name: checksum.digest(tensor) for name, tensor in chosen.items()}


def same(arrays: dict[str, npt.NDArray[Any]], chosen: dict[str, Tensor]) -> bool:
    return arrays.keys() == chosen.keys() and all(
        arrays[name].flags.writeable and np.array_equal(arrays[name], tensor.numpy())
        for name, tensor in chosen.items()
    )


# Where tensors can lie: together, apart, overlapping, larger than what is read at a time.
LAYOUTS: dict[str, dict[str, tuple[int, int]]] = {
    "nothing": {},
    "one": {"a": (0, 100)},
    "empty": {"a": (5, 0), "b": (0, 5), "c": (100, 0)},
    "together": {"a": (0, 100), "b": (100, 50), "c": (150, 1)},
    "backwards": {"c": (150, 1), "b": (100, 50), "a": (0, 100)},
    "gaps": {"a": (8, 100), "b": (1000, 50), "c": (200_000, 10)},
    "overlapping": {"a": (0, 100), "b": (50, 100), "c": (0, 200), "d": (60, 10)},
    "same": {"a": (16, 100), "b": (16, 100)},
    "overlapping, large": {"a": (0, 9 * MIB), "b": (MIB, 9 * MIB), "c": (0, 20 * MIB)},
    "large": {"a": (0, 20 * MIB), "b": (20 * MIB, 3)},
    "large after a gap": {"a": (0, 9 * MIB), "c": (9 * MIB + 10, 100)},
    "large after small": {"a": (0, 10), "b": (20, 9 * MIB), "c": (9 * MIB + 40, 9 * MIB)},
    "many": {f"{i}": (i * 300_000, 299_990) for i in range(80)},
    "more than an arena": {f"{i}": (i * 7 * MIB, 7 * MIB - 3) for i in range(11)},
    "at the end": {"a": (80 * MIB - 1, 1)},
}
DATA = data(80 * MIB)


@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("verify", [False, True])
def test_layouts(rows: dict[str, tuple[int, int]], copy: bool, verify: bool) -> None:
    chosen = tensors(Reads(DATA), rows)
    expected = digests(chosen) if verify else None
    done: list[int] = []
    arrays = reading.read_arrays(chosen, copy=copy, digests=expected, progress=done.append)
    assert same(arrays, chosen)
    assert all(count >= 0 for count in done)


@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS)
def test_every_damaged_tensor_is_found(rows: dict[str, tuple[int, int]]) -> None:
    chosen = tensors(Reads(DATA), rows)
    good = digests(chosen)
    for name in list(chosen)[:3] + list(chosen)[-1:]:
        wrong = {**good, name: "0" * 32}
        with pytest.raises(errors.CorruptError, match=f"'{name}' is damaged"):
            reading.read_arrays(chosen, digests=wrong)


@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS)
def test_some_have_digests(rows: dict[str, tuple[int, int]]) -> None:
    """What has no digest is read unchecked, and does not disturb those that have one."""
    chosen = tensors(Reads(DATA), rows)
    for skip in range(min(3, len(chosen))):
        some = {n: d for i, (n, d) in enumerate(digests(chosen).items()) if i % 3 != skip}
        assert same(reading.read_arrays(chosen, digests=some), chosen)


@given(data=st.data())
def test_any_layout(data: st.DataObject) -> None:
    source = Reads(DATA[:5000])
    starts = st.integers(0, 5000)
    rows = data.draw(
        st.lists(
            starts.flatmap(lambda s: st.tuples(st.just(s), st.integers(0, 5000 - s))), max_size=8
        )
    )
    chosen = tensors(source, {str(i): row for i, row in enumerate(rows)})
    some = data.draw(st.sets(st.sampled_from(sorted(chosen)))) if chosen else set()
    expected = {name: digest for name, digest in digests(chosen).items() if name in some}
    assert same(reading.read_arrays(chosen, digests=expected), chosen)


@pytest.mark.parametrize("kind", [dtypes.FLOAT64, dtypes.COMPLEX128, dtypes.UINT16], ids=str)
def test_tensors_are_aligned_in_memory(kind: dtypes.DType) -> None:
    """Whatever their offset in the file is."""
    for offset in (0, 1, 3, 8, 64, 1000):
        source = Reads(DATA[:10_000])
        chosen = {
            "a": Tensor(kind, (3,), source, offset),
            "b": Tensor(kind, (5,), source, offset + 3 * kind.numpy.itemsize),
            "c": Tensor(dtypes.UINT8, (7,), source, 5000),
            "d": Tensor(kind, (5,), source, 5007),
        }
        arrays = reading.read_arrays(chosen)
        assert same(arrays, chosen)
        assert all(array.flags.aligned for array in arrays.values())


@pytest.mark.parametrize("offset", [0, 1, 8, 13])
def test_maps_are_used_where_they_are_aligned(offset: int, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA[:1000])
    source = FileSource(path, mapping=True)
    chosen = {"a": Tensor(dtypes.FLOAT32, (4,), source, offset)}
    for copy in (False, True):
        array = reading.read_arrays(chosen, copy=copy)["a"]
        assert array.flags.aligned
        array[:] = 0
        assert path.read_bytes() == DATA[:1000]
    source.close()


def test_few_large_reads(tmp_path: Path) -> None:
    source = Reads(DATA[: 30 * 1000])
    chosen = tensors(source, {str(i): (i * 30, 25) for i in range(1000)})
    assert same(reading.read_arrays(chosen), chosen)
    assert len(source.calls) == 1


def test_windows() -> None:
    window = Window(Reads(DATA[:1000]), 100, 500)
    chosen = tensors(window, {"a": (0, 100), "b": (400, 100)})
    assert same(reading.read_arrays(chosen, digests=digests(chosen)), chosen)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("rows", [LAYOUTS["many"], LAYOUTS["large"], LAYOUTS["one"]])
def test_progress_counts_every_byte(rows: dict[str, tuple[int, int]], copy: bool) -> None:
    chosen = tensors(Reads(DATA), rows)
    done: list[int] = []
    reading.read_arrays(chosen, copy=copy, progress=done.append)
    total = sum(tensor.nbytes for tensor in chosen.values())
    assert total <= sum(done) <= total + 80 * 10


def test_a_read_that_fails_is_told() -> None:
    class Broken(Reads):
        def _readinto(self, start: int, buffer: memoryview) -> None:
            raise errors.StoreError("the network is gone", where="here")

    for size in (10, 5 * MIB):
        with pytest.raises(errors.StoreError, match="network is gone"):
            reading.read_arrays(tensors(Broken(DATA), {"a": (0, size), "b": (size, size)}))
