"""Files that are replaced whole, and those who wait for one another to do it."""

from __future__ import annotations

import errno
import os
import threading
import warnings
from pathlib import Path

import pytest

from tensorkeep import errors
from tensorkeep.hidden import is_hidden
from tensorkeep.replacing import Replacement, copy_range, hold, identify, write_views


def test_a_replacement_appears_when_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    new = Replacement(path)
    new.append([b"12", b"34"])
    new.append([b"56"])
    new.end = 5
    assert path.read_bytes() == b"old"
    assert sum(map(is_hidden, os.listdir(tmp_path))) == 1
    new.finish()
    new.close()
    assert path.read_bytes() == b"12345"
    assert os.listdir(tmp_path) == ["a"]


def test_a_replacement_that_is_closed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    new = Replacement(path)
    new.append([b"new"])
    new.close()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_copy_that_ends_early(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"123")
    fd = os.open(tmp_path / "from", os.O_RDONLY)
    new = Replacement(tmp_path / "to")
    new.copy(fd, 1, 3)
    with pytest.raises(OSError, match="ends early"):
        copy_range(fd, 1, 9, new.fd, 2)
    new.finish(durable=False)
    os.close(fd)
    assert (tmp_path / "to").read_bytes() == b"23"


def test_a_disk_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Replacement(tmp_path / "a")
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(OSError, match="took no bytes") as caught:
        write_views(new.fd, [memoryview(b"1")], 0)
    assert caught.value.errno == errno.EIO
    new.close()


def test_what_tells_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert identify(str(path)) == ()
    assert identify(str(path / "below")) == ()
    path.write_bytes(b"1")
    first = identify(str(path))
    assert identify(str(path)) == first
    new = Replacement(path)
    new.append([b"2"])
    new.finish(durable=False)
    assert identify(str(path)) not in ((), first)
    with pytest.raises(errors.StoreError):
        identify("\0")


def test_who_waits_for_a_file_gets_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    found: list[bytes] = []
    started = threading.Event()

    def wait() -> None:
        started.set()
        with hold(str(path)) as fd:
            assert fd is not None
            found.append(os.pread(fd, 9, 0))

    waiting = threading.Thread(target=wait)
    with hold(str(path)) as fd:
        assert fd is not None
        waiting.start()
        started.wait()
        waiting.join(0.05)
        assert found == []
        new = Replacement(path)
        new.append([b"new"])
        new.finish(durable=False)
    waiting.join()
    assert found == [b"new"]


def test_who_waits_for_a_file_that_goes_gets_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    found: list[int | None] = []

    def wait() -> None:
        with hold(str(path)) as fd:
            found.append(fd)

    waiting = threading.Thread(target=wait)
    with hold(str(path)):
        waiting.start()
        waiting.join(0.05)
        path.unlink()
    waiting.join()
    assert found == [None]


def test_a_child_removes_nothing_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    new = Replacement(path)
    new.append([b"12"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads
        child = os.fork()
    if not child:
        new.close()
        os._exit(0)
    os.waitpid(child, 0)
    new.finish()
    assert path.read_bytes() == b"12"
