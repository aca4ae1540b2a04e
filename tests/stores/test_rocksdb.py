"""What RocksDB alone does: databases of other tools, its log, its lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import rocksdict
from tests.stores.engines import contents, files, fill, output, python, stop

from tensorkeep import errors
from tensorkeep.stores.leveldb import LeveldbDatabase
from tensorkeep.stores.rocksdb import RocksdbDatabase


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


@pytest.mark.parametrize("flushed", [True, False], ids=["table", "log"])
def test_a_database_of_another_tool(flushed: bool, path: Path) -> None:
    values = {f"{i:05}": bytes([i % 256]) * (i % 2000) for i in range(500)}
    other = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
    for key, value in values.items():
        other[key.encode()] = value
    if flushed:
        other.flush()
    other.close()
    (path / "rocksdict-config.json").unlink()  # which only this binding makes
    before = files(path)
    assert contents(RocksdbDatabase, path) == values
    assert files(path) == before
    fill(RocksdbDatabase, path, new=b"1")
    other = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
    assert other[b"new"] == b"1"
    assert len(list(other.keys())) == 501
    other.close()


WRITE = """
import sys
from tensorkeep.stores.rocksdb import RocksdbDatabase
database = RocksdbDatabase(sys.argv[1], "write")
print("ready", flush=True)
sys.stdin.readline()
database.put("a", [b"new"])
database.commit()
database.close()
"""


def test_another_process_that_writes(path: Path) -> None:
    fill(RocksdbDatabase, path, a=b"old")
    child = python(WRITE, path, wait=False)
    try:
        with pytest.raises(errors.StoreError, match=r"open in another process.*Close it there"):
            RocksdbDatabase(path, "write")
        with RocksdbDatabase(path) as reader:
            child.communicate("\n", timeout=60)
            assert bytes(reader.get("a").read(0, 3)) == b"old"
    finally:
        stop(child)
    assert contents(RocksdbDatabase, path) == {"a": b"new"}


ROTATE = """
import sys
from tensorkeep.stores.rocksdb import RocksdbDatabase
print("ready", flush=True)
for step in range(1_000_000):
    with RocksdbDatabase(sys.argv[1], "write") as database:
        database.put(f"k{step % 7}", [str(step % 10).encode() * 3000])
        database.commit()
"""


def test_opening_while_another_process_replaces_files(path: Path) -> None:
    fill(RocksdbDatabase, path, **{f"k{i}": b"0" * 3000 for i in range(7)})
    child = python(ROTATE, path, wait=False)
    try:
        seen = [contents(RocksdbDatabase, path) for _ in range(40)]
    finally:
        stop(child)
    assert all(sorted(found) == [f"k{i}" for i in range(7)] for found in seen)
    assert all(len(set(value)) == 1 for found in seen for value in found.values())
    assert seen[0] != seen[-1]


def test_files_that_are_removed_once_it_is_open(path: Path) -> None:
    values = {f"k{i}": os.urandom(2000) for i in range(30)}
    for key, value in values.items():
        fill(RocksdbDatabase, path, **{key: value})
    with RocksdbDatabase(path) as database:
        for name in os.listdir(path):
            (path / name).unlink()
        (path / "IDENTITY").touch()
        found = {key: bytes(source.read(0, source.size)) for key, source in database.records()}
    assert found == values


DIE = """
import os, sys
from tensorkeep.stores.rocksdb import RocksdbDatabase
database = RocksdbDatabase(sys.argv[1], "write")
database.put("a", [bytes(50_000)])
database.commit()
print("committed", flush=True)
os._exit(0)
"""


def test_a_log_that_is_damaged(path: Path) -> None:
    """Records that are only in the log are not dropped without a word."""
    fill(RocksdbDatabase, path, a=b"1" * 1000)
    assert output(python(DIE, path)) == "committed\n"
    (log,) = [path / name for name in os.listdir(path) if name.endswith(".log")]
    data = bytearray(log.read_bytes())
    assert len(data) > 40_000
    data[20_000] ^= 1
    log.write_bytes(data)
    with pytest.raises(errors.CorruptError):
        contents(RocksdbDatabase, path)


def test_it_is_told_from_leveldb(path: Path) -> None:
    fill(RocksdbDatabase, path, a=b"1")
    assert RocksdbDatabase.recognises(path)
    assert not LeveldbDatabase.recognises(path)
    with pytest.raises(errors.UnknownFormatError, match="holds no leveldb database"):
        LeveldbDatabase(path)
