"""What LevelDB alone does: its lock, reading without writing, databases of other tools."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest
from tests.stores.engines import contents, files, fill, python, stop

from tensorkeep import errors
from tensorkeep.database import Mode
from tensorkeep.stores.leveldb import LeveldbDatabase, LeveldbEngine

plyvel = pytest.importorskip("plyvel", reason="plyvel has no build for this Python")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


HOLD = """
import sys
from tensorkeep.stores.leveldb import LeveldbDatabase
database = LeveldbDatabase(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print({key: bytes(source.read(0, source.size)) for key, source in database.records()})
"""


@pytest.mark.parametrize("closed", [True, False], ids=["table", "log"])
def test_a_database_of_another_tool(closed: bool, path: Path) -> None:
    values = {f"{i:05}": bytes([i % 256]) * (i % 2000) for i in range(500)}
    other = plyvel.DB(str(path), create_if_missing=True)
    for key, value in values.items():
        other.put(key.encode(), value)
    if closed:
        other.compact_range()
    other.close()
    before = files(path)
    assert contents(LeveldbDatabase, path) == values
    assert files(path) == before
    fill(LeveldbDatabase, path, new=b"1")
    with plyvel.DB(str(path)) as other:
        assert other.get(b"new") == b"1"
        assert len(list(other)) == 501


def test_another_process_that_writes(path: Path) -> None:
    fill(LeveldbDatabase, path, a=b"1")
    child = python(HOLD, path, "write", wait=False)
    try:
        modes: tuple[Mode, ...] = ("read", "write")
        for mode in modes:
            with pytest.raises(errors.StoreError, match=r"open in another process.*Close it there"):
                LeveldbDatabase(path, mode)
    finally:
        stop(child)
    fill(LeveldbDatabase, path, b=b"2")
    assert contents(LeveldbDatabase, path) == {"a": b"1", "b": b"2"}


def test_processes_that_read_together(path: Path) -> None:
    fill(LeveldbDatabase, path, a=b"1")
    children = [python(HOLD, path, "read", wait=False) for _ in range(2)]
    assert contents(LeveldbDatabase, path) == {"a": b"1"}
    with pytest.raises(errors.StoreError, match="open in another process"):
        LeveldbDatabase(path, "write")
    for child in children:
        said, _ = child.communicate("\n", timeout=60)
        assert said.strip() == "{'a': b'1'}"
    fill(LeveldbDatabase, path, b=b"2")


def test_a_reader_that_ends_does_not_give_up_the_lock_of_a_writer(path: Path) -> None:
    fill(LeveldbDatabase, path, a=b"1")
    reader = LeveldbDatabase(path)
    source = reader.get("a")
    with LeveldbDatabase(path, "write") as writer:
        reader.close()
        source.close()
        del reader, source
        gc.collect()
        child = python(HOLD.replace('"ready"', '"none"'), path, "write")
        said, _ = child.communicate(timeout=60)
        assert "open in another process" in said
        writer.put("b", [b"2"])
        writer.commit()
    assert contents(LeveldbDatabase, path) == {"a": b"1", "b": b"2"}


def test_a_writer_of_the_same_process_that_merges_tables(path: Path) -> None:
    """What a reader has given is still read, though the tables that it opened are gone."""
    values = {f"k{i:02}": os.urandom(300_000) for i in range(40)}
    with plyvel.DB(str(path), create_if_missing=True, max_file_size=1 << 20) as other:
        for key, value in values.items():
            other.put(key.encode(), value)
        other.compact_range(start=b"a", stop=b"z")
    reader = LeveldbDatabase(path)
    first = reader.get("k00")
    walk = reader.records()
    assert next(walk)[0] == "k00"
    tables = {name for name in os.listdir(path) if name.endswith(".ldb")}
    assert len(tables) >= 3
    with LeveldbDatabase(path, "write") as writer:
        for key in values:
            writer.put(key, [b"new"])
        writer.commit()
        assert isinstance(writer._opened, LeveldbEngine)
        writer._opened._database.compact_range(start=b"a", stop=b"z")
        assert not tables & set(os.listdir(path))
    assert bytes(first.read(0, first.size)) == values["k00"]
    assert [source.read(0, source.size) for _, source in walk] == list(values.values())[1:]
    assert bytes(reader.get("k01").read(0, 3)) == b"new"


def test_reading_leaves_nothing_behind(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    fill(LeveldbDatabase, path, a=b"1")
    with LeveldbDatabase(path) as database:
        assert len(os.listdir(scratch)) == 1
        assert database.get("a").size == 1
    gc.collect()
    assert os.listdir(scratch) == []
    (path / "CURRENT").write_bytes(b"MANIFEST-000099\n")
    with pytest.raises(errors.CorruptError) as failure:
        LeveldbDatabase(path)
    assert "tensorkeep-links" not in str(failure.value)
    del failure
    gc.collect()
    assert os.listdir(scratch) == []


def test_sources_in_garbage_do_not_crash(path: Path) -> None:
    """The library dies where a snapshot is freed after its database."""
    fill(LeveldbDatabase, path, a=b"1")
    for _ in range(8):
        database = LeveldbDatabase(path, "write")
        cycle = [database, database.get("a"), database.records()]
        next(cycle[2])  # type: ignore[call-overload]
        cycle.append(cycle)
        del database, cycle
        gc.collect()
    assert contents(LeveldbDatabase, path) == {"a": b"1"}


def test_a_log_that_is_damaged(path: Path) -> None:
    """Records that are only in the log are not dropped without a word."""
    fill(LeveldbDatabase, path, a=b"1" * 1000)
    fill(LeveldbDatabase, path, b=b"2" * 50_000, c=b"3" * 50_000)
    (log,) = [name for name in os.listdir(path) if name.endswith(".log")]
    data = bytearray((path / log).read_bytes())
    assert len(data) > 100_000
    data[20_000] ^= 1
    (path / log).write_bytes(data)
    with pytest.raises(errors.CorruptError):
        contents(LeveldbDatabase, path)


def test_tables_that_are_missing(path: Path) -> None:
    fill(LeveldbDatabase, path, **{f"k{i}": os.urandom(1000) for i in range(50)})
    for name in os.listdir(path):
        if name.endswith(".ldb"):
            (path / name).unlink()
    with pytest.raises(errors.CorruptError):
        contents(LeveldbDatabase, path)


def test_tables_that_go_once_it_is_open(path: Path) -> None:
    """The library takes a table that it does not find for one without keys."""
    with plyvel.DB(str(path), create_if_missing=True) as other:
        for i in range(40):
            other.put(f"k{i:02}".encode(), os.urandom(300_000))
        other.compact_range(start=b"a", stop=b"z")
    with LeveldbDatabase(path) as reader:
        for name in os.listdir(path):
            if name.endswith(".ldb"):
                (path / name).unlink()
        with pytest.raises(errors.CorruptError):
            reader.get("k30")
        with pytest.raises(errors.CorruptError):
            list(reader.keys())
        with pytest.raises(errors.CorruptError):
            list(reader.records("k3"))


def test_it_is_told_from_rocksdb(path: Path) -> None:
    fill(LeveldbDatabase, path, a=b"1")
    assert LeveldbDatabase.recognises(path)
    (path / "IDENTITY").write_bytes(b"")
    assert not LeveldbDatabase.recognises(path)
