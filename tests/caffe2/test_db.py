"""Cursors and transactions, as Caffe2's scripts use them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tensorkeep import errors
from tensorkeep.caffe2.db import create_db, registered_dbs
from tensorkeep.database import Mode

TYPES = ["minidb", "leveldb", "lmdb", "rocksdb", "sqlite"]
SORTED = TYPES[1:]
RECORDS = {"w#%0": b"0", "w#%10": b"10", "w#%2": b"2", "b": b"bias"}

NOWHERE: list[tuple[str, Mode]] = [("db", "write"), ("other", "new"), ("other", "write")]
every_type = pytest.mark.parametrize("db_type", TYPES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


def make(db_type: str, path: Path) -> None:
    with create_db(db_type, path, "new") as db, db.new_transaction() as transaction:
        for key, value in RECORDS.items():
            transaction.put(key, value)


def records(db_type: str, path: Path) -> dict[str, bytes]:
    found = {}
    with create_db(db_type, path) as db:
        cursor = db.new_cursor()
        while cursor.valid():
            found[cursor.key()] = cursor.value()
            cursor.next()
    return found


def test_the_names_of_caffe2() -> None:
    names = ["minidb", "MiniDB", "protodb", "ProtoDB", "leveldb", "LevelDB", "lmdb", "LMDB"]
    assert {*names, "rocksdb", "RocksDB", "sqlite"} == set(registered_dbs())
    with pytest.raises(errors.ArgumentError, match="no db_type 'zmqdb'"):
        create_db("zmqdb", "a", "read")


@every_type
def test_a_cursor_goes_through_all_records(db_type: str, path: Path) -> None:
    make(db_type, path)
    keys = list(RECORDS) if db_type == "minidb" else sorted(RECORDS)
    with create_db(db_type, path, "read") as db:
        cursor = db.new_cursor()
        for _ in range(2):
            for key in keys:
                assert cursor.valid()
                assert (cursor.key(), cursor.value()) == (key, RECORDS[key])
                cursor.next()
            assert not cursor.valid()
            for use in (cursor.key, cursor.value):
                with pytest.raises(errors.ArgumentError, match="behind the last record"):
                    use()
            cursor.next()
            assert not cursor.valid()
            cursor.seek_to_first()


@pytest.mark.parametrize("db_type", SORTED)
def test_seeking(db_type: str, path: Path) -> None:
    make(db_type, path)
    with create_db(db_type, path) as db:
        cursor = db.new_cursor()
        assert cursor.supports_seek()
        for key, found in (("w#%1", "w#%10"), ("w#%2", "w#%2"), (b"", "b"), ("c", "w#%0")):
            cursor.seek(key)
            assert cursor.key() == found
        cursor.next()
        assert cursor.key() == "w#%10"
        cursor.seek("x")
        assert not cursor.valid()


def test_minidb_does_not_seek(path: Path) -> None:
    make("minidb", path)
    with create_db("minidb", path) as db:
        cursor = db.new_cursor()
        assert not cursor.supports_seek()
        with pytest.raises(errors.UnsupportedError, match="not sorted"):
            cursor.seek("b")
        assert cursor.key() == "w#%0"


@every_type
def test_a_transaction_is_committed_when_it_ends(db_type: str, path: Path) -> None:
    db = create_db(db_type, path, "new")
    transaction = db.new_transaction()
    transaction.put("a", b"1")
    assert not db.new_cursor().valid()
    transaction.commit()
    assert records(db_type, path) == {"a": b"1"}
    transaction.put(b"b", bytearray(b"2"))
    del transaction
    gc.collect()
    assert db.new_cursor().valid()
    with db.new_transaction() as transaction:
        transaction.put("c", b"3")
    with pytest.raises(errors.ArgumentError, match="has ended"):
        transaction.put("d", b"4")
    transaction.commit()
    db.close()
    db.close()
    assert records(db_type, path) == {"a": b"1", "b": b"2", "c": b"3"}


@every_type
def test_a_block_that_fails_commits_nothing(db_type: str, path: Path) -> None:
    make(db_type, path)

    def fail(name: str, mode: Mode) -> None:
        with create_db(db_type, path.with_name(name), mode) as db, db.new_transaction() as new:
            new.put("a", b"1")
            raise KeyError

    for name, mode in NOWHERE:
        with pytest.raises(KeyError):
            fail(name, mode)
        assert records(db_type, path) == RECORDS
    assert os.listdir(path.parent) == ["db"]


@every_type
def test_modes(db_type: str, path: Path) -> None:
    with pytest.raises(errors.MissingError):
        create_db(db_type, path, "read")
    create_db(db_type, path, "new").close()
    assert records(db_type, path) == {}
    with create_db(db_type, path, "write") as db, db.new_transaction() as transaction:
        transaction.put("a", b"1")
    with create_db(db_type, path, "read") as db, pytest.raises(errors.StoreError, match="reading"):
        db.new_transaction().put("b", b"2")
    assert records(db_type, path) == {"a": b"1"}
    if db_type in ("minidb", "sqlite"):
        create_db(db_type, path, "new").close()
        assert records(db_type, path) == {}
    else:
        with pytest.raises(errors.StoreError, match="exists already"):
            create_db(db_type, path, "new")


@every_type
def test_a_cursor_keeps_to_the_commit_it_began_with(db_type: str, path: Path) -> None:
    make(db_type, path)
    with create_db(db_type, path, "write") as db:
        cursor = db.new_cursor()
        first = cursor.key()
        with db.new_transaction() as transaction:
            transaction.put(first, b"replaced")
        assert cursor.value() == RECORDS[first]
        cursor.seek_to_first()
        assert cursor.value() == b"replaced"


def test_a_database_that_cannot_be_closed_is_quiet_at_its_end(tmp_path: Path) -> None:
    db = create_db("sqlite", tmp_path / "x.sqlite", "new")
    with db.new_transaction() as transaction:
        transaction.put("k", b"v")
    db.database.close()
    del db.database
    db.__del__()
