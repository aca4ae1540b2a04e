from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.caffe2.golden_cases import DATA

from tensorkeep.caffe2 import Workspace, create_operator, examine_db, save

ENGINES = ["minidb", "lmdb", "leveldb", "rocksdb", "sqlite"]


def exists(path: Path, db_type: str, *, strict: bool = True) -> bool:
    ws = Workspace(strict=strict)
    ws.run(
        create_operator(
            "DBExists", [], ["there"], db_name=str(path), db_type=db_type, absolute_path=1
        )
    )
    found = ws.fetch("there")
    assert (found.dtype, found.shape) == (np.bool_, ())
    return bool(found)


@pytest.mark.parametrize("db_type", ENGINES)
def test_sound_databases(tmp_path: Path, db_type: str) -> None:
    path = tmp_path / "x"
    status = examine_db(path, db_type)
    assert (status.exists, status.readable) == (False, False)
    assert "x" in status.problem
    assert not exists(path, db_type)
    assert not exists(path, db_type, strict=False)
    save({"w": np.arange(3)}, path, db_type)
    status = examine_db(path, db_type)
    assert (status.exists, status.readable, status.problem) == (True, True, "")
    assert exists(path, db_type)
    assert exists(path, db_type, strict=False)


@pytest.mark.parametrize("db_type", ENGINES)
def test_foreign_things(tmp_path: Path, db_type: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "readme.txt").write_text("no database")
    file = tmp_path / "file"
    file.write_text("no database at all, but long enough to be one\n" * 40)
    for path in (folder, file):
        status = examine_db(path, db_type)
        assert (status.exists, status.readable) == (True, False)
        assert path.name in status.problem
        assert not exists(path, db_type)
        assert exists(path, db_type, strict=False)


@pytest.mark.parametrize("db_type", ["", "nosuchdb"])
def test_types_that_are_unknown(tmp_path: Path, db_type: str) -> None:
    status = examine_db(tmp_path / "x", db_type)
    assert (status.exists, status.readable) == (False, False)
    assert repr(db_type) in status.problem
    assert not exists(tmp_path / "x", db_type)
    assert exists(tmp_path / "x", db_type, strict=False)


@pytest.mark.parametrize("size", range(1, 74))
def test_every_truncation(tmp_path: Path, size: int) -> None:
    whole = (DATA / "cases" / "only_b.minidb").read_bytes()
    assert len(whole) > size
    path = tmp_path / "x.minidb"
    path.write_bytes(whole[:size])
    status = examine_db(path, "minidb")
    assert (status.exists, status.readable) == (True, False)
    assert "cut short" in status.problem or "missing" in status.problem


def test_an_empty_minidb_is_a_database(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    path.touch()
    assert examine_db(path, "minidb").readable


@pytest.mark.parametrize("path", ["", "a\0b"])
@pytest.mark.parametrize("db_type", ["minidb", "lmdb", "sqlite"])
def test_what_cannot_be_a_path_does_not_exist(path: str, db_type: str) -> None:
    status = examine_db(path, db_type)
    assert (status.exists, status.readable) == (False, False)
    assert status.problem
