"""Every store of the table, against the public checks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tensorkeep import testing
from tensorkeep.format import Format
from tensorkeep.formats import WRITTEN
from tensorkeep.store import Store
from tensorkeep.stores import STORES
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.leveldb import LeveldbDatabase
from tensorkeep.stores.lmdb import LmdbDatabase
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.stores.minidb import MinidbStore
from tensorkeep.stores.rocksdb import RocksdbDatabase
from tensorkeep.stores.sqlite import SqliteDatabase

Make = Callable[[Path], Store]

# How to make an empty store of each kind below a folder.
MAKERS: dict[str, Make] = {
    "file": lambda folder: FileStore(tempfile.mkdtemp(dir=folder)),
    "leveldb": lambda folder: LeveldbDatabase(f"{tempfile.mkdtemp(dir=folder)}/db", "write"),
    "lmdb": lambda folder: LmdbDatabase(f"{tempfile.mkdtemp(dir=folder)}/db", "write"),
    "memory": lambda folder: MemoryStore(),
    "minidb": lambda folder: MinidbStore(f"{tempfile.mkdtemp(dir=folder)}/db", "write"),
    "rocksdb": lambda folder: RocksdbDatabase(f"{tempfile.mkdtemp(dir=folder)}/db", "write"),
    "sqlite": lambda folder: SqliteDatabase(f"{tempfile.mkdtemp(dir=folder)}/db", "write"),
}

every_store = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def test_every_store_is_checked() -> None:
    assert list(STORES) == sorted(STORES)
    assert set(MAKERS) == set(STORES) - {"object"}  # which test_object_stores.py checks


@every_store
@pytest.mark.parametrize("check", testing.STORE_CHECKS.values(), ids=testing.STORE_CHECKS)
def test_contract(make: Make, check: Callable[[Store], None], tmp_path: Path) -> None:
    store = make(tmp_path)
    check(store)
    store.close()


@every_store
def test_any_order_of_operations(make: Make, tmp_path: Path) -> None:
    quick = settings(max_examples=30, stateful_step_count=20)
    run_state_machine_as_test(testing.store_machine(partial(make, tmp_path)), settings=quick)


@every_store
@pytest.mark.parametrize("format", WRITTEN.values(), ids=WRITTEN)
def test_failing_saves_leave_the_old_state(make: Make, format: Format, tmp_path: Path) -> None:
    arrays = [np.full((2, 2), i, np.float32) for i in range(2)]
    old, new = (
        testing.fitting(format, {"a": {"b": array}, "n": [array]}, {"a": array}, array)
        for array in arrays
    )
    needed = testing.needed(format)
    assert testing.check_failing_saves(format, old, new, partial(make, tmp_path), **needed) >= 2


def test_a_check_fails_on_a_store_that_commits_at_once() -> None:
    class Hasty(MemoryStore):
        def delete(self, key: str) -> None:
            self.data.pop(key, None)

    with pytest.raises(AssertionError):
        testing.check_store(Hasty)
