"""Files under hidden names: locks that others hold, and what is freed behind a rename."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, hidden, replacing, syscalls


@pytest.mark.parametrize("name", ["a.safetensors", "a.minidb", "sqlite:a.db"])
def test_a_folder_that_somebody_else_locks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `flock FOLDER program` does, for as long as the program runs."""
    monkeypatch.setattr(hidden, "_SWEEP", 0.05)
    monkeypatch.chdir(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        tk.save({"w": np.arange(3)}, name)
        assert tk.load(name)["w"].tolist() == [0, 1, 2]
    finally:
        os.close(fd)


def test_a_file_that_somebody_else_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"minidb:{tmp_path / 'a.minidb'}"
    tk.save({"w": np.arange(3)}, path)
    monkeypatch.setattr(replacing, "_PATIENCE", 0.05)
    fd = os.open(tmp_path / "a.minidb", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(errors.StoreError, match="locked by another program"):
            tk.save({"w": np.arange(4)}, path)
    finally:
        os.close(fd)
    assert tk.load(path)["w"].tolist() == [0, 1, 2]


def test_a_large_file_is_freed_after_it_is_replaced(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path, size in ((old, 20 << 20), (new, 10)):
        path.write_bytes(b"\0" * size)
    hidden.take_place(new, old)
    assert old.stat().st_size == 10
    assert not new.exists()
    hidden.wait_for_room()
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _open(fd)]
    assert not any(str(old) in link for link in links)


def _open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_rename_that_fails_keeps_both(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"\0" * (9 << 20))
    with pytest.raises(FileNotFoundError):
        hidden.take_place(tmp_path / "nothing", old)
    assert old.stat().st_size == 9 << 20


def test_more_than_the_disk_has_is_not_reserved(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        room = os.fstatvfs(file.fileno())
        with pytest.raises(OSError, match="No space") as caught:
            syscalls.reserve(file.fileno(), 2 * room.f_blocks * room.f_frsize)
        assert caught.value.errno == errno.ENOSPC
        assert os.fstat(file.fileno()).st_blocks == 0
