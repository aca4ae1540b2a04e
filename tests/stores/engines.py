"""What the tests of databases share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tensorkeep.database.sorted import SortedDatabase
from tensorkeep.stores.leveldb import LeveldbDatabase
from tensorkeep.stores.lmdb import LmdbDatabase
from tensorkeep.stores.rocksdb import RocksdbDatabase
from tensorkeep.stores.sqlite import SqliteDatabase

Kind = type[SortedDatabase]

KINDS: dict[str, Kind] = {
    "leveldb": LeveldbDatabase,
    "lmdb": LmdbDatabase,
    "rocksdb": RocksdbDatabase,
    "sqlite": SqliteDatabase,
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
FOLDERS = {name: kind for name, kind in KINDS.items() if kind.folder}
every_folder = pytest.mark.parametrize("kind", FOLDERS.values(), ids=FOLDERS)

ROOT = Path(__file__).parents[2]


def fill(kind: Kind, path: Path, **values: bytes) -> None:
    """Make a database, or add to one."""
    with kind(path, "write") as database:
        for key, value in values.items():
            database.put(key, [value])
        database.commit()


def contents(kind: Kind, path: Path) -> dict[str, bytes]:
    """Give all records of a database."""
    with kind(path) as database:
        return {key: bytes(source.read(0, source.size)) for key, source in database.records()}


def files(path: Path) -> dict[str, bytes]:
    """Give the bytes of a file, or of all files in a folder but LMDB's table of readers."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock.mdb"}


def python(code: str, *arguments: object, wait: bool = True) -> subprocess.Popen[str]:
    """Run code in a process of its own; where it is not waited for, it has printed a line."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
    )
    if not wait and child.stdout is not None:
        assert child.stdout.readline().strip() == "ready"
    return child


def output(child: subprocess.Popen[str]) -> str:
    """Wait for a process, and give what it printed."""
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 0, said
    return said


def stop(child: subprocess.Popen[str]) -> None:
    """Kill a process."""
    child.kill()
    child.communicate()
