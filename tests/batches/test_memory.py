"""Memory of batches is used again when nobody looks at it, and never before."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.data.memory import Memory, empty, using

WIDTH = 300 << 10  # bytes of a sample: its batches are worth keeping


@pytest.mark.parametrize("how", [{"prefetch": 0}, {"prefetch": 3, "workers": 2}])
def test_batches_that_are_kept_are_not_written_over(how: dict[str, Any]) -> None:
    data = {"x": np.repeat(np.arange(12, dtype=np.uint8)[:, None], WIDTH, 1)}
    batches = tk.Batches(data, 2, shuffle=True, seed=1, **how)
    kept = [(batch["x"], batch["x"][:, 0].copy()) for batch in batches]
    again = [batch["x"] for batch in batches]  # of the next epoch, while the first are there
    assert len({array.ctypes.data for array, _ in kept} | {a.ctypes.data for a in again}) == 12
    for array, first in kept:
        assert np.array_equal(array, np.repeat(first[:, None], WIDTH, 1))


@pytest.mark.parametrize(
    "look",
    [
        lambda array: array[5:9],
        lambda array: array.reshape(-1)[7:],
        lambda array: array.view(np.uint16).T,
        lambda array: memoryview(array),
        lambda array: np.asarray(array.reshape(2, -1)[0]),
    ],
)
def test_any_view_holds_on_to_it(look: Any) -> None:
    memory = Memory()
    array = memory.empty((10, WIDTH), np.uint8)
    place = array.ctypes.data
    view = look(array)
    del array
    other = memory.empty((10, WIDTH), np.uint8)
    assert other.ctypes.data != place
    del view
    assert memory.empty((10, WIDTH), np.uint8).ctypes.data == place


def test_little_waits_to_be_used_again() -> None:
    made: list[int] = []

    def allocate(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        made.append(size)
        return np.empty(size, np.uint8)

    memory = Memory(allocate)
    held = [memory.empty((40 << 20,), np.uint8) for _ in range(5)]
    held.clear()
    held = [memory.empty((40 << 20,), np.uint8) for _ in range(5)]
    assert len(made) == 5 + 3  # two blocks of such a size wait, and no more
    memory.clear()
    held.clear()
    assert memory.empty((3,), np.uint8).nbytes == 3
    assert memory.empty((0, 5), np.float32).shape == (0, 5)


def test_a_thread_uses_the_memory_that_it_is_told_to() -> None:
    own, found = Memory(), []

    def other() -> None:
        found.append(empty((WIDTH,), np.uint8).ctypes.data)

    with using(own):
        place = empty((WIDTH,), np.uint8).ctypes.data
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert empty((WIDTH,), np.uint8).ctypes.data == place
    assert own.empty((WIDTH,), np.uint8).ctypes.data == place
