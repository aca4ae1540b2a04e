"""SIGKILL at random instants: what was there stays, and going on gives the same bytes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.batches.writing.samples import check, samples, tree
from tests.crash.zygote import Zygote

from tensorkeep.data import sources
from tensorkeep.data.writing import write

COUNT = 40


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("tests.batches.writing.killed") as started:
        list(started_once(started))
        yield started


def started_once(zygote: Zygote) -> Iterator[Any]:
    """Have the children's parent import everything before any time is taken."""
    zygote.start(count=0, target="/nonexistent/a.tar")
    try:
        yield from zygote.told()
    except RuntimeError:
        list(zygote.told())


def write_and_die(zygote: Zygote, delay: float | None, **job: Any) -> bool:
    """Have a child write, and kill it after a while, or at the end; say whether it was done."""
    zygote.start(**job)
    told = zygote.told()
    assert next(told) == ["begun"]
    if delay is None:
        assert next(told)[0] == "written"
    return bool(zygote.kill(delay or 0)) or delay is None


@pytest.mark.parametrize("ending", ["tar", "npz", "minidb"])
def test_going_on_behind_kills(ending: str, zygote: Zygote, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    write(samples(COUNT), tmp_path / "whole" / f"a.{ending}", shard_samples=5)
    draw = random.Random(ending)
    job: dict[str, Any] = {"shard_samples": 5, "resume": True, "durable": False, "count": COUNT}
    target = tmp_path / "killed" / f"a.{ending}"
    for delay in (*(draw.uniform(0, 0.02) for _ in range(6)), None):
        if write_and_die(zygote, delay, target=str(target), **job):
            break
    check(target, COUNT)
    assert tree(target.parent) == tree(tmp_path / "whole")


@pytest.mark.parametrize("ending", ["tar", "lmdb", "npz"])
@pytest.mark.parametrize("options", [{}, {"shard_samples": 9}])
def test_the_old_one_or_the_new_one(
    ending: str, options: dict[str, Any], zygote: Zygote, tmp_path: Path
) -> None:
    target = tmp_path / f"a.{ending}"
    draw = random.Random(ending)
    write(samples(7), target, **options)
    for _ in range(4):
        job = {"target": str(target), "count": COUNT, "durable": False, **options}
        done = write_and_die(zygote, draw.uniform(0, 0.02), **job)
        with sources.open(target) as dataset:
            count = len(dataset)
        assert count == COUNT or (count == 7 and not done)
        check(target, count)
        if count == COUNT:
            break
    write(samples(9), target, **options)
    check(target, 9)
    assert len(os.listdir(tmp_path)) == (2 if options else 1)
