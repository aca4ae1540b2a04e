"""The spool of changes, and hidden files beside what they will replace."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorkeep import errors, hidden
from tensorkeep.database import staging
from tensorkeep.database.staging import Staging
from tensorkeep.store import Late


def changes(staged: Staging) -> dict[bytes, bytes | None]:
    return {key: None if value is None else bytes(value) for key, value in staged.changes()}


@pytest.fixture(params=[10, 1 << 20], ids=["disk", "memory"])
def staged(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Staging]:
    monkeypatch.setattr(staging, "SPOOL_LIMIT", request.param)
    made = Staging(tmp_path)
    yield made
    assert os.listdir(tmp_path) == []
    made.clear()
    assert changes(made) == {}


def test_the_last_change_of_a_key_counts(staged: Staging) -> None:
    staged.put(b"a", [b"first"])
    staged.put(b"b", [b"12", bytearray(b"34"), memoryview(b"5678")[1:3]])
    staged.delete(b"c")
    staged.put(b"a", [b"second" * 10])
    staged.put(b"c", [])
    staged.delete(b"d")
    assert changes(staged) == {b"a": b"second" * 10, b"b": b"123467", b"c": b"", b"d": None}
    assert [key for key, _ in staged.changes()] == [b"b", b"a", b"c", b"d"]
    assert (len(staged), b"a" in staged, b"x" in staged) == (4, True, False)


def test_late_chunks(staged: Staging) -> None:
    seen: list[bytes] = []

    def chunks() -> Iterator[bytes | Late]:
        yield Late(3, lambda: b"%03d" % len(seen))
        for data in (b"weights", b"bias"):
            seen.append(data)
            yield data

    progress: list[int] = []
    staged.put(b"a", chunks(), size=14, progress=progress.append)
    staged.put(b"b", [b"behind"])
    assert changes(staged) == {b"a": b"002weightsbias", b"b": b"behind"}
    assert sum(progress) == 11
    with pytest.raises(errors.StoreError, match="a part of 2 bytes has 3"):
        staged.put(b"c", [Late(2, lambda: b"123")])
    assert b"c" not in staged


def test_a_put_that_fails_leaves_the_one_before(staged: Staging) -> None:
    def failing() -> Iterator[bytes]:
        yield b"half" * 5
        raise KeyError

    staged.put(b"a", [b"old"])
    with pytest.raises(KeyError):
        staged.put(b"a", failing())
    with pytest.raises(errors.StoreError, match="5 bytes came, not 6"):
        staged.put(b"a", [b"12345"], size=6)
    with pytest.raises(errors.UnsupportedError, match="may have 4"):
        staged.put(b"a", [b"12345"], limit=4)
    staged.put(b"b", [b"after"])
    assert changes(staged) == {b"a": b"old", b"b": b"after"}


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SPOOL_LIMIT", 10)
    with pytest.raises(errors.StoreError, match="cannot be written"):
        Staging(tmp_path / "gone").put(b"a", [bytes(100)])


def test_leftovers_are_removed_by_who_is_alone(tmp_path: Path) -> None:
    for name in ("db", "x" * 300, "ü"):
        path = hidden.hidden(str(tmp_path / name))
        assert hidden.is_hidden(os.path.basename(path))
        assert len(os.fsencode(os.path.basename(path))) <= 255
        if name == "db":
            os.mkdir(path)
            Path(path, "inner").write_bytes(b"1")
        else:
            Path(path).write_bytes(b"1")
    (tmp_path / "kept").write_bytes(b"1")
    (tmp_path / ".kept").write_bytes(b"1")
    with hidden.sharing(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".kept", "kept"]
        mine = Path(hidden.hidden(str(tmp_path / "db")))
        mine.write_bytes(b"1")
        with hidden.sharing(tmp_path):
            assert mine.exists()
    with hidden.sharing(tmp_path):
        assert not mine.exists()


def test_nothing_is_replaced_by_what_appears(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        hidden.appear(str(tmp_path / "new"), str(tmp_path / "old"))
    assert (tmp_path / "old").read_bytes() == b"old"
    hidden.appear(str(tmp_path / "new"), str(tmp_path / "free"))
    assert (tmp_path / "free").read_bytes() == b"new"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "b").write_bytes(b"1")
    with pytest.raises(OSError, match="not empty"):
        hidden.appear(str(tmp_path / "folder"), str(tmp_path / "full"))
    hidden.sync(str(tmp_path / "folder"))
    hidden.sync(str(tmp_path / "old"))


def test_a_spool_that_a_kill_leaves_its_name_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path) -> None:
        raise OSError(errno.EIO, "killed here")

    monkeypatch.setattr(staging, "SPOOL_LIMIT", 10)
    staged = Staging(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(errors.StoreError, match="killed here"):
            staged.put(b"a", [bytes(100)])
    assert [hidden.is_hidden(name) for name in os.listdir(tmp_path)] == [True]
    with hidden.sharing(tmp_path):
        assert os.listdir(tmp_path) == []
