"""Memory stays flat, however many samples come."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep.data.writing import write
from tensorkeep.data.writing.columns import _mapped


def large(count: int) -> Iterator[dict[str, Any]]:
    for i in range(count):
        yield {"x": np.full(200_000, i % 256, np.uint8), "n": i}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere maps count otherwise")
@pytest.mark.parametrize("ending", ["tar", "npz", "safetensors", "minidb"])
def test_memory_is_flat(ending: str, tmp_path: Path) -> None:
    write(large(2), tmp_path / f"warm.{ending}", durable=False)
    tracemalloc.start()
    try:
        write(large(300), tmp_path / f"a.{ending}", durable=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20, peak  # of 60 MB


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages are not counted")
def test_what_was_read_of_a_spool_is_let_go(tmp_path: Path) -> None:
    with open(tmp_path / "spool", "w+b") as file:
        file.write(bytes(32 << 20))
        source = _mapped(file, "a.zarr")
        before = mapped_bytes()
        for start in range(0, source.size, 4 << 20):
            assert not any(source.read(start, start + (4 << 20))[::4096])
        assert mapped_bytes() - before < 12 << 20


def mapped_bytes() -> int:
    """Say how much of files that are mapped counts as memory of this process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile:"))
