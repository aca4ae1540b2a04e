"""Copies that are killed at any instant, and gone on with."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.copying.runs import SMALL_PIECE, copy_slowly, files_of, leftovers, make_run, objects_of
from tests.servers.buckets import Bucket, Server

import tensorkeep as tk
from tensorkeep.copying import Copied
from tensorkeep.hidden import PART
from tensorkeep.stores import locate

_STEPS = (1, 2, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "run"
    make_run(path, _STEPS)
    return path


@pytest.fixture
def bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


def _kill_often(
    source: str,
    target: str,
    kills: int,
    environment: dict[str, str],
    begun: Callable[[], bool],
    check: Callable[[], None],
) -> Copied:
    """Start copies and kill each somewhere in its middle; then let one end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorkeep.copying", "tests.copying.runs"])
    waits = random.Random(5)
    killed = 0
    for _ in range(kills):
        process = context.Process(target=copy_slowly, args=(source, target, environment))
        process.start()
        while process.is_alive() and not begun():
            time.sleep(0.01)
        process.join(waits.uniform(0, 0.15))
        if process.is_alive():
            killed += 1
            process.kill()
        process.join()
        check()
    assert killed > 0
    return tk.copy(source, target)


def _has_begun(folder: Path) -> bool:
    """Whether a part has some bytes."""
    parts = [path for path in folder.rglob("*") if PART in str(path)]
    return any(path.is_file() and path.stat().st_size > SMALL_PIECE for path in parts)


def _check_steps(folder: Path) -> None:
    """All that can be seen is whole."""
    for path in folder.iterdir() if folder.exists() else ():
        if not path.name.startswith("."):
            assert tk.verify(path).ok


def test_on_a_disk(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    copied = _kill_often(
        str(run), str(target), 5, {}, lambda: _has_begun(target), lambda: _check_steps(target)
    )
    assert copied.skipped > 0
    assert copied.transferred < 2_000_000
    assert files_of(target) == files_of(run)
    assert leftovers(tmp_path) == []


def test_to_a_store_and_back(bucket: Bucket, run: Path, tmp_path: Path) -> None:
    def begun() -> bool:
        return any(True for _ in locate(bucket.url() + "/").store.keys())

    def check() -> None:
        there = objects_of(bucket.url("run"))
        for step in _STEPS:
            if f"step-{step:08}/MANIFEST.json" in there:
                assert tk.verify(bucket.url(f"run/step-{step:08}")).ok

    copied = _kill_often(str(run), bucket.url() + "/", 3, bucket.environment, begun, check)
    assert objects_of(bucket.url("run")) == files_of(run)
    assert copied.size == sum(map(len, files_of(run).values())) - _manifests(run)
    target = tmp_path / "back"
    copied = _kill_often(
        bucket.url("run"),
        str(target),
        3,
        bucket.environment,
        lambda: _has_begun(target),
        lambda: _check_steps(target),
    )
    assert copied.skipped > 0
    assert files_of(target) == files_of(run)
    assert leftovers(tmp_path) == []


def _manifests(run: Path) -> int:
    return sum(path.stat().st_size for path in run.glob("*/MANIFEST.json"))
