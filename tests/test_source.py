from __future__ import annotations

import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tensorkeep import errors
from tensorkeep.source import FileSource, MemorySource, Source, Window

DATA = bytes(range(100))


def _file(folder: Path, mapping: bool) -> Source:
    path = folder / "data"
    path.write_bytes(DATA)
    return FileSource(path, mapping=mapping)


MAKERS: dict[str, Callable[[Path], Source]] = {
    "memory": lambda folder: MemorySource(DATA),
    "mapped file": lambda folder: _file(folder, True),
    "read file": lambda folder: _file(folder, False),
    "window": lambda folder: Window(MemorySource(b"xx" + DATA + b"yyy"), 2, 100),
    "window of a file": lambda folder: Window(Window(_file(folder, True), 0, 100), 0, 100),
}


@pytest.fixture(params=list(MAKERS.values()), ids=list(MAKERS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    made: Source = request.param(tmp_path)
    return made


def test_reads(source: Source) -> None:
    assert source.size == 100
    for start, stop in ((0, 100), (0, 0), (100, 100), (5, 6), (99, 100), (10, 50)):
        assert bytes(source.read(start, stop)) == DATA[start:stop]
        assert bytes(source.private(start, stop)) == DATA[start:stop]
        buffer = bytearray(stop - start)
        source.readinto(start, memoryview(buffer))
        assert buffer == DATA[start:stop]


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 101), (-1, 5), (5, 4), (101, 101), (2**64, 2**64 + 1), (-5, -1)]
)
def test_bounds(source: Source, start: int, stop: int) -> None:
    for read in (source.read, source.private):
        with pytest.raises(errors.CorruptError, match=f"bytes {start} to {stop}"):
            read(start, stop)
    with pytest.raises(errors.CorruptError):
        source.readinto(99, memoryview(bytearray(2)))


def test_writing_never_gets_through(source: Source) -> None:
    view = source.private(3, 8)
    assert not view.readonly
    view[:] = b"xxxxx"
    assert bytes(source.read(0, 100)) == DATA
    assert source.read(0, 100).readonly
    source.close()


def test_views_outlive_the_source(source: Source) -> None:
    view, private = source.read(10, 20), source.private(10, 20)
    source.close()
    del source
    gc.collect()
    assert bytes(view) == bytes(private) == DATA[10:20]


def test_threads_share_a_source(source: Source) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: bytes(source.read(i % 90, i % 90 + 10)), range(900))
    assert all(part == DATA[i % 90 : i % 90 + 10] for i, part in enumerate(found))


@pytest.mark.parametrize("mapping", [True, False])
def test_a_closed_file_says_so(mapping: bool, tmp_path: Path) -> None:
    source = _file(tmp_path, mapping)
    source.close()
    source.close()
    for read in (source.read, source.private):
        with pytest.raises(errors.ClosedError, match="with"):
            read(0, 5)
    with pytest.raises(errors.ClosedError):
        source.readinto(0, memoryview(bytearray(5)))


@pytest.mark.parametrize("mapping", [True, False])
def test_a_file_that_was_cut_short(mapping: bool, tmp_path: Path) -> None:
    source = _file(tmp_path, mapping)
    os.truncate(tmp_path / "data", 50)
    for read in (source.read, source.private):
        with pytest.raises(errors.CorruptError, match="shorter now"):
            read(40, 60)
    with pytest.raises(errors.CorruptError, match="shorter now"):
        source.readinto(40, memoryview(bytearray(20)))


@pytest.mark.parametrize("mapping", [True, False])
def test_a_file_that_was_replaced(mapping: bool, tmp_path: Path) -> None:
    source = _file(tmp_path, mapping)
    (tmp_path / "new").write_bytes(b"new")
    os.replace(tmp_path / "new", tmp_path / "data")
    assert bytes(source.read(0, 100)) == DATA


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    source = FileSource(tmp_path / "empty")
    assert bytes(source.read(0, 0)) == bytes(source.private(0, 0)) == b""
    source.close()


def test_open_files_are_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        source = _file(tmp_path, True)
        source.read(0, 10)
        del source
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_of_any_layout() -> None:
    array = np.arange(6, dtype="<u4").reshape(2, 3)
    source = MemorySource(array.data)
    assert source.size == 24
    assert bytes(source.read(4, 8)) == b"\1\0\0\0"


def test_windows_are_bounded_twice() -> None:
    inner = MemorySource(DATA, "here")
    for start, size in ((90, 11), (-1, 5), (101, 0), (0, -1)):
        with pytest.raises(errors.CorruptError, match="here"):
            Window(inner, start, size)
    window = Window(inner, 10, 5, "member")
    with pytest.raises(errors.CorruptError, match="member"):
        window.read(0, 6)
    assert Window(inner, 100, 0).size == 0
    assert not window.mapped


@pytest.mark.parametrize("mapping", [True, False])
def test_private_views_share_no_memory(mapping: bool, tmp_path: Path) -> None:
    source = _file(tmp_path, mapping)
    ranges = [(20, 30), (40, 60), (30, 40), (0, 100), (20, 30), (55, 70), (0, 100), (99, 100)]
    views = [source.private(start, stop) for start, stop in ranges]
    for number, view in enumerate(views):
        view[:] = bytes([200 + number]) * len(view)
    for number, view in enumerate(views):
        assert set(view) == {200 + number}
    assert bytes(source.private(0, 100)) == DATA
    assert bytes(source.private(0, 70)) == DATA[:70]


def test_threads_get_private_views_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.write_bytes(bytes(8_000))
    source = FileSource(path, mapping=True)

    def write(number: int) -> memoryview:
        start = number // 4 * 16
        view = source.private(start, start + 16)
        view[:] = (number + 1).to_bytes(16, "little")
        return view

    with ThreadPoolExecutor(8) as pool:
        views = list(pool.map(write, range(2_000)))
    found = [int.from_bytes(view, "little") for view in views]
    assert found == list(range(1, 2_001))
