"""What SQLite alone does: one file, its journal, files of other programs, others that write."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.stores.engines import contents, fill, output, python, stop

from tensorkeep import errors
from tensorkeep.stores import sqlite
from tensorkeep.stores.sqlite import SqliteDatabase


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.sqlite"


def test_the_file(path: Path) -> None:
    fill(SqliteDatabase, path, a=b"1", b=b"2")
    head = path.read_bytes()[:100]
    assert head[:16] == b"SQLite format 3\0"
    assert head[68:72] == b"tkep"
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT key, value FROM records").fetchall() == [
            (b"a", b"1"),
            (b"b", b"2"),
        ]
        assert other.execute("PRAGMA user_version").fetchall() == [(1,)]
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    other.close()
    assert os.listdir(path.parent) == [path.name]


def test_new_takes_the_place_of_the_old_one_at_the_commit(path: Path) -> None:
    fill(SqliteDatabase, path, old=b"1")
    with SqliteDatabase(path) as reader, SqliteDatabase(path, "new") as database:
        source = reader.get("old")
        database.put("new", [b"2"])
        assert list(database.keys()) == []
        assert contents(SqliteDatabase, path) == {"old": b"1"}
        database.commit()
        assert list(database.keys()) == list(reader.keys()) == ["new"]
        assert bytes(source.read(0, 1)) == b"1"
    assert contents(SqliteDatabase, path) == {"new": b"2"}


def test_new_over_something_that_is_no_database(path: Path) -> None:
    for old in (b"", b"notes", os.urandom(10_000)):
        path.write_bytes(old)
        with SqliteDatabase(path, "new") as database:
            database.put("a", [b"1"])
            assert path.read_bytes() == old
            database.commit()
        assert contents(SqliteDatabase, path) == {"a": b"1"}


@pytest.mark.parametrize("mode", ["read", "write", "new"])
def test_databases_of_other_programs_are_left_alone(mode: str, path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(errors.UnknownFormatError, match="of another program"):
        SqliteDatabase(path, mode)  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_a_newer_version(path: Path) -> None:
    fill(SqliteDatabase, path, a=b"1")
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(errors.UnsupportedError, match="Update tensorkeep"):
        SqliteDatabase(path)


KILLED = """
import os, sys
import sqlite3
from tensorkeep.stores.sqlite import SqliteDatabase
database = SqliteDatabase(sys.argv[1], "write")
connection = database._engine().connection
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE records SET value = zeroblob(50000)")
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["read", "write", "new", "new elsewhere"])
def test_what_a_killed_writer_left_is_undone(how: str, path: Path) -> None:
    values = {f"k{i}": str(i).encode() * 20_000 for i in range(20)}
    fill(SqliteDatabase, path, **values)
    stop(python(KILLED, path, wait=False))
    journal = path.with_name(f"{path.name}-journal")
    assert journal.stat().st_size > 10_000
    if how == "read":
        assert contents(SqliteDatabase, path) == values
    elif how == "write":
        fill(SqliteDatabase, path, k0=b"new")
        assert contents(SqliteDatabase, path) == {**values, "k0": b"new"}
    else:
        if how == "new elsewhere":
            path.unlink()  # by somebody who does not know of the journal
        with SqliteDatabase(path, "new") as database:
            database.put("new", [b"1" * 100_000])
            database.commit()
        assert contents(SqliteDatabase, path) == {"new": b"1" * 100_000}
    assert not journal.exists()


LOCK = """
import sys, sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


def test_another_process_that_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.2)
    fill(SqliteDatabase, path, a=b"1")
    database = SqliteDatabase(path, "write")
    database.put("b", [b"2"])
    new = SqliteDatabase(path, "new")
    new.put("c", [b"3"])
    child = python(LOCK, path, wait=False)
    try:
        with pytest.raises(errors.StoreError, match="another process was writing"):
            database.commit()
        with pytest.raises(errors.StoreError, match="another process was writing"):
            new.commit()
        with pytest.raises(errors.StoreError, match="another process was writing"):
            database.get("a")
    finally:
        child.communicate("\n", timeout=60)
    assert contents(SqliteDatabase, path) == {"a": b"1"}
    database.close()
    new.close()
    assert os.listdir(path.parent) == [path.name]


REPLACE = """
import sys
from tensorkeep.stores.sqlite import SqliteDatabase
with SqliteDatabase(sys.argv[1], "write") as database:
    database.put("a", [b"new"])
    database.commit()
"""


def test_a_value_that_another_process_replaced(path: Path) -> None:
    fill(SqliteDatabase, path, a=b"old", b=b"other")
    with SqliteDatabase(path) as database:
        a, b = database.get("a"), database.get("b")
        output(python(REPLACE, path))
        with pytest.raises(errors.StoreError, match="replaced or removed by another process"):
            a.read(0, 3)
        assert bytes(b.read(0, 5)) == b"other"
        assert bytes(database.get("a").read(0, 3)) == b"new"


def test_a_large_value_is_read_by_ranges(path: Path) -> None:
    value = os.urandom(20_000_000)
    fill(SqliteDatabase, path, a=value)
    with SqliteDatabase(path, "write") as database:
        source = database.get("a")
        assert source.read(0, len(value)) == value
        assert source.read(12_345_678, 12_345_700) == value[12_345_678:12_345_700]
        database.put("a", [b"new"])
        database.commit()
        assert source.read(0, len(value)) == value
    assert contents(SqliteDatabase, path) == {"a": b"new"}


def test_tables_that_are_damaged(path: Path) -> None:
    fill(SqliteDatabase, path, a=b"1")
    for change in (
        "UPDATE records SET value = 'text'",
        "UPDATE records SET key = 7",
        "DROP TABLE records",
    ):
        copy = path.with_name("copy.sqlite")
        shutil.copy(path, copy)
        with sqlite3.connect(copy) as other:
            other.execute(change)
        other.close()
        with pytest.raises(errors.CorruptError):
            contents(SqliteDatabase, copy)
