"""Samples to write, and what is there afterwards."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tensorkeep.data import sources

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 3, 5, 4), np.uint8)


def sample(i: int) -> dict[str, Any]:
    return {"image": IMAGES[i], "label": i * 7 % 10, "weight": np.float32(i / 2)}


def samples(count: int = 7, start: int = 0) -> Iterator[dict[str, Any]]:
    return map(sample, range(start, count))


def check(path: str | os.PathLike[str], count: int = 7) -> None:
    """Compare what is there with the first samples."""
    with sources.open(path) as dataset:
        assert len(dataset) == count
        batch = dataset.gather(dataset.check(np.arange(count)))
        assert batch.keys() == {"image", "label", "weight"}
        for i in range(count):
            expected = sample(i)
            for name, values in batch.items():
                assert np.array_equal(values[i], expected[name]), (i, name)
        assert batch["image"].dtype == np.uint8
        assert batch["weight"].dtype == np.float32
        assert batch["label"].dtype == np.int64


def tree(folder: Path) -> dict[str, bytes]:
    """Give all files below a folder with their bytes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file grow over a size: the portable way to a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
