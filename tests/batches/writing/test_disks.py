"""Disks that are full, fail or lose power while a dataset is written."""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.writing.samples import check, samples, small_files

from tensorkeep import errors
from tensorkeep.data import sources
from tensorkeep.data.writing import write
from tensorkeep.testing import disk

LARGE = [{"x": np.full(5000, i, np.uint8)} for i in range(9)]


@pytest.mark.parametrize(
    ("ending", "durable"),
    [(e, False) for e in ("tar", "npz", "minidb", "lmdb", "sqlite", "h5")] + [("tar", True)],
)
def test_a_disk_that_is_full(ending: str, durable: bool, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    write(samples(3), path)
    with pytest.raises(errors.StoreError) as caught, small_files(30_000):
        write(LARGE, path, durable=durable)
    assert path.name in str(caught.value)
    assert os.listdir(tmp_path) == [path.name]
    check(path, 3)
    target = tmp_path / f"b.{ending}"
    with pytest.raises(errors.StoreError), small_files(1 << 13):
        write(LARGE, target, shard_samples=3, durable=durable)
    write(LARGE, target, shard_samples=3, resume=True)
    with sources.open(target) as dataset:
        assert [int(s["x"][7]) for s in dataset.samples(dataset.check(np.arange(9)))] == [*range(9)]


SLOW = [pytest.param(e, 1, marks=pytest.mark.slow) for e in ("tar", "npz", "minidb")]


@pytest.mark.parametrize(("ending", "step"), [("tar", 11), *SLOW])
@pytest.mark.parametrize("forever", [False, True])
def test_every_call_that_fails(ending: str, step: int, forever: bool, tmp_path: Path) -> None:
    for k in itertools.count(0, step):
        folder = tmp_path / str(k)
        folder.mkdir()
        target = folder / f"a.{ending}"
        with disk.failing(folder, at=k, code=errno.EIO, forever=forever) as faults:
            try:
                write(samples(5), target, shard_samples=2)
                failed = False
            except errors.StoreError:
                failed = True
        if not faults.hits:
            break
        if os.path.exists(f"{target}.index.json"):
            check(target, 5)
        else:
            assert failed
        write(samples(5), target, shard_samples=2, resume=True)
        check(target, 5)
        left = [name for name in os.listdir(folder) if name.startswith(".")]
        assert len(left) <= (1 if forever else 0) or not failed
    assert k > 20


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("posix", {}),
        ("ordered", {"shard_samples": 3}),
        pytest.param("posix", {"shard_samples": 2}, marks=pytest.mark.slow),
        pytest.param("ordered", {"shard_samples": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_power_cut(model: Any, options: dict[str, Any]) -> None:
    folder = Path(tempfile.mkdtemp())
    target = folder / "a.tar"
    write(samples(2), target, **options)
    with disk.recording(folder) as log:
        write(samples(5), target, **options)
        log.mark("written")
    seen = set()
    for image, marks in log.crash_images(model=model):
        with sources.open(image.path / "a.tar") as dataset:
            count = len(dataset)
        assert count == 5 or (count == 2 and "written" not in marks), image
        check(image.path / "a.tar", count)
        seen.add(count)
        if options:
            begun = os.path.exists(image.path / "a.tar.partial.json")
            write(samples(5), image.path / "a.tar", **options, resume=begun, durable=False)
            check(image.path / "a.tar", 5)
    assert seen == {2, 5}
