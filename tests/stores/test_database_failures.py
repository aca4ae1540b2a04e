"""What databases do when something fails: closed ones, full disks, kills, threads, damage."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.stores.engines import Kind, contents, every_kind, files, fill, output, python

from tensorkeep import errors
from tensorkeep.database import Mode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


@every_kind
def test_use_after_close(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"1")
    database = kind(path, "write")
    source, closed = database.get("a"), database.get("a")
    closed.close()
    database.put("b", [b"2"])
    database.close()
    database.close()
    for use in (
        lambda: list(database.keys()),
        lambda: list(database.records()),
        lambda: database.get("a"),
        lambda: database.put("a", [b""]),
        lambda: database.delete("a"),
        lambda: database.commit(),
        lambda: closed.read(0, 1),
    ):
        with pytest.raises(errors.ClosedError):
            use()
    assert bytes(source.read(0, 1)) == b"1"
    assert contents(kind, path) == {"a": b"1"}


@every_kind
def test_sizes_that_were_promised(kind: Kind, path: Path) -> None:
    with kind(path, "write") as database:
        for size in (3, 100):
            with pytest.raises(errors.StoreError, match="bytes came"):
                database.put("a", [b"12345"], size=size)
        database.commit()
    assert contents(kind, path) == {}


FULL = """
import resource, sys, os
from tensorkeep.stores import DATABASES
from tensorkeep.errors import StoreError
kind, path, mode = DATABASES[sys.argv[1]], sys.argv[2], sys.argv[3]
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    with kind(path, mode) as database:
        for i in range(10):
            database.put(f"new{i}", [os.urandom(1_000_000)])
        database.commit()
except StoreError as error:
    print("StoreError", error)
"""


@every_kind
@pytest.mark.parametrize("mode", ["write", "new"])
def test_a_disk_that_takes_no_more(kind: Kind, mode: Mode, path: Path) -> None:
    if mode == "write":
        fill(kind, path, old=b"1" * 10_000)
    said = output(python(FULL, kind.kind, path, mode))
    assert said.startswith("StoreError"), said
    assert len(said.splitlines()) == 1
    if mode == "new":
        assert os.listdir(path.parent) == []
    else:
        assert contents(kind, path) == {"old": b"1" * 10_000}
        fill(kind, path, new=b"2")
        assert contents(kind, path) == {"old": b"1" * 10_000, "new": b"2"}


@every_kind
def test_readers_and_writers_in_threads(kind: Kind, path: Path) -> None:
    fill(kind, path, **{f"k{i}": b"0" * 20_000 for i in range(8)})

    def write(i: int) -> None:
        for step in range(4):
            with kind(path, "write") as database:
                database.put(f"k{i}", [str(step).encode() * 20_000])
                database.commit()

    def read(_: int) -> bool:
        with kind(path) as database:
            found = [bytes(source.read(0, source.size)) for _, source in database.records()]
        return len(found) == 8 and all(len(set(value)) == 1 for value in found)

    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(write, i) for i in range(4)]
        assert all(pool.map(read, range(20)))
        for task in writing:
            task.result()
    assert contents(kind, path) == {f"k{i}": (b"3" if i < 4 else b"0") * 20_000 for i in range(8)}


# --- kills --------------------------------------------------------------------------------------

KILLED = """
import sys
from tensorkeep.stores import DATABASES
kind, path, mode = DATABASES[sys.argv[1]], sys.argv[2], sys.argv[3]
step = int(sys.argv[4])
print("ready", flush=True)
while True:
    step += 1
    with kind(path if mode == "write" else f"{path}{step}", mode) as database:
        for i in range(20):
            database.put(f"k{i}", [str(step % 10).encode() * (1 + i * 3000)], durable=step % 2 == 0)
        database.commit()
"""


def _is_whole(found: dict[str, bytes]) -> bool:
    step = found["k0"]
    return all(found[f"k{i}"] == step * (1 + i * 3000) for i in range(20)) and len(found) == 20


@every_kind
@pytest.mark.parametrize("mode", ["write", "new"])
def test_a_kill_leaves_the_old_or_the_new(kind: Kind, mode: Mode, path: Path) -> None:
    draw = random.Random(str(kind))
    seen = 0
    for trial in range(3):
        child = python(KILLED, kind.kind, path, mode, 1000 * trial, wait=False)
        time.sleep(draw.uniform(0.01, 0.15))
        child.kill()
        child.communicate()
        for found in path.parent.glob("db*"):
            if found.is_dir() or kind.recognises(found):  # not what SQLite keeps beside
                assert _is_whole(contents(kind, found))
                seen += 1
    assert seen
    fill(kind, path, last=b"1")
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]


# --- damage -------------------------------------------------------------------------------------


def _damages(path: Path, draw: random.Random) -> Iterator[Path]:
    """Give damaged copies of a database: each time one file flipped, cut or overwritten."""
    copy = path.with_name("copy")
    names = sorted(name for name, data in files(path).items() if data)
    for name in names:
        size = len(files(path)[name])
        for _ in range(12):
            shutil.rmtree(copy) if copy.is_dir() else copy.unlink(missing_ok=True)
            shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
            file = copy / name if name else copy
            at = draw.randrange(min(size, draw.choice([64, 5000, size])))
            with open(file, "r+b") as opened:
                how = draw.randrange(4)
                if how == 0:
                    opened.truncate(at)
                else:
                    opened.seek(at)
                    old = opened.read(1)[0]
                    opened.seek(at)
                    new = bytes([old ^ 1 << draw.randrange(8)])
                    opened.write(new if how < 3 else draw.randbytes(16))
            yield copy


@every_kind
def test_damage_is_an_error_of_ours(kind: Kind, path: Path) -> None:
    """A process that died, hung or met another exception would fail this test."""
    with kind(path, "new") as database:
        for i in range(200):
            database.put(f"k{i:03}", [bytes([i]) * (i * 13 % 700)])
        database.put("large", [bytes(100_000)])
        database.commit()
    seen: list[errors.TensorKeepError] = []
    for copy in _damages(path, random.Random(7)):
        try:
            contents(kind, copy)
            fill(kind, copy, k050=b"x" * 3000, new=b"1")
        except errors.TensorKeepError as error:
            seen.append(error)
    assert all(str(path.with_name("copy")) in str(error) for error in seen)
    assert any(isinstance(error, errors.CorruptError) for error in seen)
