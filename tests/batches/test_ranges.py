from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorkeep.data.ranges import gather, inside, joined, pieces, view_of
from tensorkeep.errors import CorruptError
from tensorkeep.source import FileSource, MemorySource

VIEW = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.data())
def test_gather_gives_what_slices_give(size: int, data: st.DataObject) -> None:
    starts = np.array(data.draw(st.lists(st.integers(0, 1000 - size), max_size=9)), np.int64)
    found = gather(VIEW, starts, size)
    assert found.shape == (len(starts), size)
    assert [bytes(row) for row in found] == [bytes(VIEW[s : s + size]) for s in starts]


def test_what_is_gathered_is_memory_of_its_own() -> None:
    before = VIEW.copy()
    for found in (gather(VIEW, np.array([0, 0]), 4), *pieces(VIEW, np.array([0]), np.array([4]))):
        assert found.flags.writeable
        found[...] = 1
    assert np.array_equal(VIEW, before)


def test_pieces_of_any_size() -> None:
    found = pieces(VIEW, np.array([5, 0, 1000]), np.array([7, 0, 0]))
    assert [piece.tolist() for piece in found] == [VIEW[5:12].tolist(), [], []]


def test_a_map_is_gathered_from_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(VIEW.tobytes() * 100)
    source = FileSource(path)
    view = view_of(source)
    assert not view.flags.owndata
    assert bytes(gather(view, np.array([99_998]), 2)[0]) == VIEW.tobytes()[-2:]


def test_joined_reads_the_ranges_alone() -> None:
    view, starts = joined(MemorySource(VIEW.data), np.array([9, 3]), np.array([2, 0]))
    assert view.tolist() == VIEW[9:11].tolist()
    assert starts.tolist() == [0, 2]
    with pytest.raises(CorruptError, match="bytes 999 to 1001 were asked for"):
        joined(MemorySource(VIEW.data), np.array([999]), np.array([2]))
    assert joined(MemorySource(b""), np.zeros(0, np.int64), np.zeros(0, np.int64))[0].size == 0


@pytest.mark.parametrize(
    ("starts", "sizes", "good"),
    [
        ([], [], True),
        ([0, 10], [10, 0], True),
        ([11], [0], False),
        ([1], [10], False),
        ([-1], [1], False),
        ([0], [-1], False),
        ([1 << 62], [1 << 62], False),
        ([2], [(1 << 63) - 1], False),
    ],
)
def test_inside(starts: list[int], sizes: list[int], good: bool) -> None:
    assert inside(np.array(starts, np.int64), np.array(sizes, np.int64), 10) is good


def test_inside_takes_no_other_shape_or_type() -> None:
    assert not inside(np.zeros(2, np.int64), np.zeros(3, np.int64), 10)
    assert not inside(np.zeros(2), np.zeros(2, np.int64), 10)
    assert not inside(np.array([1 << 63], np.uint64), np.array([1]), 10)
    assert inside(np.array([3], np.uint64), np.array([1], np.uint16), 10)
