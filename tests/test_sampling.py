from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import dtypes
from tensorkeep.dtypes import BLOCKS, DTYPES
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.sampling import glance, pieces, sample, spread, texts, unmapped
from tensorkeep.source import FileSource, MemorySource, Source
from tensorkeep.tensor import Tensor


class Counting(Source):
    """Tells what was read of it."""

    def __init__(self, data: bytes, remote: bool = False) -> None:
        super().__init__(len(data), "counting")
        self._data = memoryview(data)
        self._remote = remote
        self.reads: list[int] = []

    @property
    def remote(self) -> bool:
        return self._remote

    def _read(self, start: int, stop: int) -> memoryview:
        self.reads.append(stop - start)
        return self._data[start:stop]


def test_a_small_tensor_is_sampled_whole() -> None:
    array = np.arange(64 * 1024, dtype=np.float32).reshape(64, 1024)
    assert sample(Tensor.of(array)).tolist() == array.reshape(-1).tolist()
    assert sample(Tensor.of(np.float32(3))).tolist() == [3]
    assert sample(Tensor.of(np.zeros((0, 4), np.int8))).shape == (0,)


def test_of_a_large_one_runs_are_read_and_nothing_else() -> None:
    data = np.arange(1_000_000, dtype="<f4")
    source = Counting(data.tobytes())
    found = sample(Tensor(dtypes.FLOAT32, (1000, 1000), source))
    assert source.reads == [4096] * 64
    assert found.shape == (65536,)
    assert len(set(found.tolist())) == 65536
    assert found.tolist() == sample(Tensor.of(data)).tolist()
    assert found[0] < 1e6 / 64
    assert found[-1] > 1e6 * 63 / 64


def test_over_a_network_few_requests_are_made() -> None:
    source = Counting(bytes(4_000_000), remote=True)
    assert sample(Tensor(dtypes.FLOAT32, (1_000_000,), source)).shape == (65536,)
    assert source.reads == [32768] * 8


@given(st.integers(1, 64), st.integers(1, 50), st.integers(1, 100_000))
def test_runs_lie_in_parts_of_their_own(runs: int, run: int, more: int) -> None:
    size = runs * run + more
    places = spread(size, runs, run)
    assert len(places) == runs
    for i, at in enumerate(places):
        assert i * size // runs <= at
        assert at + run <= max((i + 1) * size // runs, at + 1)


@pytest.mark.parametrize("name", ["int4", "float6_e2m3fn", "bfloat16", "complex64", "bool"])
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_pieces_are_all_of_it(name: str, size: int) -> None:
    row = DTYPES[name]
    array = (np.arange(1001) % 3).astype(row.numpy)
    tensor = Tensor.of(array)
    found = [(part.copy(), nbytes) for part, nbytes in pieces(tensor, size)]
    assert np.concatenate([part for part, _ in found]).tolist() == array.tolist()
    assert sum(nbytes for _, nbytes in found) == tensor.nbytes


def test_pieces_of_a_file_are_read_into_one_place(tmp_path: Any) -> None:
    import tensorkeep

    array = np.arange(600_000, dtype=np.float64)
    tensorkeep.save({"a": array}, tmp_path / "a.safetensors")
    with tensorkeep.open(tmp_path / "a.safetensors") as state:
        parts = list(pieces(state["a"]))
        assert [nbytes for _, nbytes in parts] == [1 << 20] * 4 + [605_696]
        assert all(np.shares_memory(part, parts[0][0]) for part, _ in parts)
        assert sum(float(part.sum()) for part, _ in pieces(state["a"])) == array.sum()
        assert not list(pieces(Tensor.of(np.zeros(0))))


def test_pieces_of_blocks_are_their_numbers() -> None:
    row = BLOCKS["q8_0"]
    data = np.random.default_rng(0).integers(0, 60, row.nbytes(320), np.uint8).tobytes()
    tensor = Tensor(row, (10, 32), MemorySource(data))
    found = np.concatenate([part for part, _ in pieces(tensor, 300)])
    assert found.tolist() == tensor.numpy().reshape(-1).tolist()
    assert sample(tensor, runs=2, run=40).shape == (80,)


def test_texts_are_read_a_few_at_a_time() -> None:
    words = [f"wörd {i}" * (i % 5) for i in range(500)]
    tensor = Tensor.of(np.array(words, object).reshape(50, 10))
    parts = list(pieces(tensor, 256))
    assert len(parts) > 20
    assert [text for part, _ in parts for text in part] == words
    assert sum(nbytes for _, nbytes in parts) == tensor.nbytes - 8
    assert list(texts(tensor, 3, 6, 1000)) == words[3:6]
    assert len(texts(tensor, 1, 500, 100)) < 20
    assert len(sample(tensor, runs=4, run=3)) == 12
    with pytest.raises(UnsupportedError, match="one of its texts is 28 bytes long"):
        texts(tensor, 4, 5, 10)


@pytest.mark.parametrize("bounds", [[0, 9, 3], [0, 1, 99], [5, 4, 3]])
def test_offsets_that_lie_are_told(bounds: list[int]) -> None:
    data = np.array(bounds, "<u8").tobytes() + b"abc"
    tensor = Tensor(dtypes.STRING, (2,), MemorySource(data), 0, len(data))
    for read in (sample, lambda t: list(pieces(t)), lambda t: texts(t, 0, 2, 100)):
        with pytest.raises(CorruptError, match="offsets do not cover"):
            read(tensor)


def test_what_is_not_there_is_told() -> None:
    class Broken(Counting):
        def _read(self, start: int, stop: int) -> memoryview:
            raise CorruptError("it is damaged", where=self.where)

    tensor = Tensor(dtypes.FLOAT32, (1_000_000,), Broken(bytes(4_000_000)))
    with pytest.raises(CorruptError, match="it is damaged"):
        sample(tensor)
    with pytest.raises(CorruptError, match="it is damaged"):
        list(pieces(tensor))


def test_what_was_read_outlives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    array = np.arange(1 << 19, dtype="<f4")
    path.write_bytes(array.tobytes())
    tensor = Tensor(dtypes.FLOAT32, array.shape, FileSource(path, mapping=True))
    small = Tensor(dtypes.FLOAT32, (1 << 18,), tensor.source)
    found = [glance(small), sample(tensor), unmapped(tensor).numpy(), unmapped(tensor)[::3]]
    before = [part.tolist() for part in found]
    path.write_bytes(b"")  # to look at a map of it would end the program
    assert [part.tolist() for part in found] == before
    for again in (glance, sample, lambda each: unmapped(each).numpy()):
        with pytest.raises(CorruptError, match="shorter now"):
            again(tensor)


def test_all_of_what_is_read_quickly() -> None:
    for count, kind in ((1 << 18, dtypes.FLOAT64), (1 << 20, dtypes.INT8), (1 << 18, dtypes.INT4)):
        source = MemorySource(bytes(kind.nbytes(count + 16)))
        assert glance(Tensor(kind, (count,), source)).size == count
        assert glance(Tensor(kind, (count + 16,), source)).size == 65536
    far = Counting(bytes(4 << 18), remote=True)
    assert glance(Tensor(dtypes.FLOAT32, (1 << 18,), far)).size == 65536
    assert glance(Tensor.of(["a", "b"])).tolist() == ["a", "b"]


def test_a_sample_ends_where_time_is_up() -> None:
    source = Counting(np.arange(1_000_000, dtype="<f4").tobytes())
    tensor = Tensor(dtypes.FLOAT32, (1_000_000,), source)
    assert sample(tensor, until=time.monotonic() - 1).tolist() == list(range(1024))
    assert source.reads == [4096]
    whole = sample(tensor)
    assert sample(tensor, until=time.monotonic() + 60).tolist() == whole.tolist()
    assert np.all(np.diff(whole) > 0)  # in their order, whatever was read first
