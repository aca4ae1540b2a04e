"""What databases do when something fails: closed ones, full disks, kills, threads, damage."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import ref

import pytest
from tests.stores.engines import Kind, contents, every_kind, files, fill, output, python

from tensorkeep import errors
from tensorkeep.database import Mode
from tensorkeep.database.engine import RecordSource, Snapshot


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


@every_kind
@pytest.mark.parametrize("writers", [0, 2])
def test_many_that_live_shortly(kind: Kind, writers: int, path: Path) -> None:
    """No thread finds an engine that another one is closing, or files that it is removing."""
    fill(kind, path, small=b"1", large=b"2" * 10_000)

    def use(i: int) -> None:
        mode: Mode = "write" if i < writers else "read"
        for step in range(120):
            with kind(path, mode) as database:
                assert database.get("large").size == 10_000
                if mode == "write" and step % 4 == 0:
                    database.put(f"k{i}", [b"3" * 3000], durable=False)
                    database.commit()
                assert {"small", "large"} <= {key for key, _ in database.records()}

    with ThreadPoolExecutor(5) as pool:
        for _ in pool.map(use, range(5)):
            pass
    assert len(contents(kind, path)) == 2 + writers


@every_kind
def test_the_last_one_closes_the_engine(kind: Kind, path: Path) -> None:
    """At that moment, though something still refers to it."""
    fill(kind, path, a=b"1" * 10_000)
    one, other = kind(path, "write"), kind(path, "write")
    engine = one._opened
    assert engine is not None
    assert other._opened is engine
    list(one.records())
    one.close()
    assert not engine.closed
    other.put("b", [b"2"])
    other.commit()
    other.close()
    assert engine.closed
    with pytest.raises(errors.ClosedError):
        engine.snapshot()
    assert sorted(contents(kind, path)) == ["a", "b"]


@every_kind
def test_what_a_library_says_of_closed_ones(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"1" * 10_000)
    database = kind(path, "write")
    engine = database._opened
    assert engine is not None
    database.put("b", [b"2"])
    engine.handle.close()  # behind the back of the database
    with pytest.raises(errors.ClosedError) as failure:
        database.get("a")
    assert failure.value.where == str(path)
    with pytest.raises(errors.ClosedError):
        database.commit()


@every_kind
def test_sources_that_outlive_their_database(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"1" * 10_000)
    with kind(path) as database:
        source = database.get("a")
    assert isinstance(source, RecordSource)
    assert isinstance(source._origin, Snapshot)
    engine = ref(source._origin.engine)
    assert not source._origin.engine.closed
    assert bytes(source.read(9_999, 10_000)) == b"1"
    del source
    assert engine() is None


FORK = """
import gc, os, sys, tempfile, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads
from tensorkeep.stores import DATABASES
kind, path, tempfile.tempdir = DATABASES[sys.argv[1]], sys.argv[2], sys.argv[3]
database = kind(path)
before = os.listdir(sys.argv[3])
source = database.get("a")
child = os.fork()
if not child:
    del source
    database.close()
    del database
    gc.collect()
    os._exit(0)
print(os.waitpid(child, 0)[1], os.listdir(sys.argv[3]) == before)
print(bytes(source.read(0, 3)), database.get("a").size)
"""


@every_kind
def test_a_child_closes_nothing_of_its_parent(kind: Kind, path: Path) -> None:
    fill(kind, path, a=b"1" * 10_000)
    scratch = path.with_name("scratch")
    scratch.mkdir()
    said = output(python(FORK, kind.kind, path, scratch))
    assert said.splitlines() == ["0 True", "b'111' 10000"]
    assert os.listdir(scratch) == []


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
