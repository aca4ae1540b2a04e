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
