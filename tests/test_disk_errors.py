"""The simulated disk that fails: every call is met in its turn."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tensorkeep.testing import disk


def everything(root: Path) -> None:
    """Do one of each call that may fail."""
    (root / "a").mkdir()
    fd = os.open(root / "a" / "b", os.O_RDWR | os.O_CREAT)
    os.fchmod(fd, 0o600)
    os.write(fd, b"12")
    os.pwrite(fd, b"34", 2)
    os.pwritev(fd, [b"56"], 4)
    os.ftruncate(fd, 3)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    os.link(root / "a" / "b", root / "c")
    os.symlink("c", root / "d")
    os.rename(root / "c", root / "e")
    os.replace(root / "e", root / "c")
    os.remove(root / "c")
    os.unlink(root / "d")
    shutil.rmtree(root / "a")


CALLS = [
    *("mkdir", "open", "fchmod", "write", "pwrite", "pwritev", "ftruncate", "fsync", "fdatasync"),
    *("link", "symlink", "rename", "replace", "remove", "unlink", "unlink", "rmdir"),
]


@pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="no such call here")
def test_every_call_fails_in_its_turn(tmp_path: Path) -> None:
    hits = []
    for k in itertools.count():
        root = tmp_path / str(k)
        root.mkdir()
        with disk.failing(root, at=k, code=errno.EIO) as faults:
            codes: list[int | None] = []
            try:
                everything(root)
            except OSError as error:
                codes.append(error.errno)
        if not faults.hits:
            break
        assert (faults.calls, faults.hits, codes) == (k + 1, [CALLS[k]], [errno.EIO])
        hits += faults.hits
    assert hits == CALLS
    assert faults.calls == len(CALLS)


def test_a_disk_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "was").write_bytes(b"1")
    with disk.failing(tmp_path, at=1, forever=True) as faults:
        (tmp_path / "a").touch()
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                (tmp_path / "b").touch()
        assert (tmp_path / "was").read_bytes() == b"1"
        with tempfile.TemporaryFile() as elsewhere:
            elsewhere.write(b"1")
    assert faults.calls == 4
    assert faults.hits == ["open"] * 3
    assert sorted(os.listdir(tmp_path)) == ["a", "was"]


def test_short_writes(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    with disk.failing(tmp_path, at=1, short=True) as faults:
        assert os.pwritev(fd, [b"123", b"4567"], 0) == 7
        assert os.pwritev(fd, [b"abc", b"defg"], 0) == 3
        assert os.write(fd, b"AB") == 2
        os.fsync(fd)
    os.close(fd)
    assert (tmp_path / "a").read_bytes() == b"ABc4567"
    assert (faults.calls, faults.hits) == (3, ["pwritev"])
