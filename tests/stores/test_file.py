"""What files alone do: links, leftovers, modes, and system calls that fail."""

from __future__ import annotations

import errno
import itertools
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, syscalls, testing
from tensorkeep.stores.file import FileStore

OLD = {"w": np.arange(1000.0), "b": np.ones(7, np.int8)}
NEW = {"w": np.ones(50_000), "b": np.zeros(7, np.int8)}


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def save(store: FileStore, **values: bytes) -> None:
    for key, value in values.items():
        store.put(key, [value])
    store.commit()


def test_keys_are_sorted_and_hidden_leftovers_are_not(tmp_path: Path, store: FileStore) -> None:
    save(store, b=b"", a=b"", c=b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "d").write_bytes(b"d")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    expected = [".hidden", "a", "b", "c", "link", "folder/d"]
    assert list(store.keys()) == expected
    assert list(store.keys("folder/")) == ["folder/d"]
    store.put("late", [b"1"])
    assert len(os.listdir(tmp_path)) == 8
    assert list(store.keys()) == expected
    store.rollback()


def test_keys_of_a_folder_below(tmp_path: Path, store: FileStore) -> None:
    (tmp_path / "run").mkdir()
    store.put("run/a", [b"1"])
    store.commit()
    assert bytes(store.get("run/a").read(0, 1)) == b"1"
    with pytest.raises(errors.MissingError, match="Create it first"):
        store.put("missing/a", [b"1"])


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "gone")
    with pytest.raises(errors.MissingError):
        list(store.keys())
    with pytest.raises(errors.MissingError):
        store.get("a")
    with pytest.raises(errors.MissingError):
        store.put("a", [b""])


@pytest.mark.parametrize("key", ["../out", "/out", "a/../../out", "sub/../../out"])
def test_keys_that_lead_out(key: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    out.write_bytes(b"precious")
    store = FileStore(folder)
    key = str(out) if key == "/out" else key
    with pytest.raises(tk.TensorKeepError):
        store.get(key)
    try:
        store.put(key, [b"overwritten"])
        store.commit()
    except tk.TensorKeepError:
        store.rollback()
    assert out.read_bytes() == b"precious"
    try:
        store.delete(key)
        store.commit()
    except tk.TensorKeepError:
        store.rollback()
    assert out.read_bytes() == b"precious"


def test_deleting_through_a_link_stays_inside(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "w").write_bytes(b"precious")
    (folder / "sub").symlink_to(outside)
    (folder / "link").symlink_to(outside / "w")
    store = FileStore(folder)
    for key in ("sub/w", "link"):
        try:
            store.delete(key)
            store.commit()
        except tk.TensorKeepError:
            store.rollback()
        assert (outside / "w").read_bytes() == b"precious"


def test_keys_that_no_file_can_have(store: FileStore, tmp_path: Path) -> None:
    for key in ("x" * 300, "a\0b", "\ud800", "d/" * 3000):
        with pytest.raises(tk.TensorKeepError):
            store.get(key)
        with pytest.raises(tk.TensorKeepError):
            store.put(key, [b""])
    assert os.listdir(tmp_path) == []


def test_many_puts_before_a_commit(store: FileStore) -> None:
    """A state of many shards needs no more open files than a process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, before[1]))
    try:
        save(store, **{f"{i}": str(i).encode() for i in range(300)})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(list(store.keys())) == 300


# --- system calls that fail ---------------------------------------------------------------------


class Faults:
    """Let the k-th call of one system call fail; the others do what they always do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, owner: Any = os) -> None:
        self.real: Callable[..., Any] = getattr(owner, name)
        self.fail_at: int | None = None
        self.code = errno.EIO
        self.calls = 0
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.fail_at is not None and self.calls > self.fail_at:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments, **options)


CALLS: dict[str, Any] = {
    "pwritev": os,
    "fsync": os,
    "replace": os,
    "fchmod": os,
    "reserve": syscalls,
    "listdir": os,
    "stat": os,
    "open": os,
}
KEPT = ("pwritev", "fsync", "replace", "reserve")  # which have to be seen to fail at all


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": 1000}], ids=["one", "shards"])
def test_a_system_call_that_fails(
    name: str, code: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call fails: an error of ours, and a whole state, old or new, and nothing beside."""
    path = tmp_path / "state.safetensors"
    failed = 0
    for k in itertools.count():
        for file in tmp_path.iterdir():
            file.unlink()
        tk.save(OLD, path, durable=False, **options)
        with monkeypatch.context() as patch:
            faults = Faults(patch, name, CALLS[name])
            faults.fail_at, faults.code = k, code
            try:
                tk.save(NEW, path, **options)
            except errors.StoreError:
                failed += 1
            if faults.calls <= k:
                break
        found = tk.load(path if path.exists() else tmp_path, verify=True)
        testing.assert_equal_states(found, OLD if len(found["w"]) == 1000 else NEW)
        assert not [f for f in os.listdir(tmp_path) if f.startswith(".")]
    if name in KEPT:
        assert failed >= 1


def test_short_writes(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take any part of what it is given."""
    real = os.pwritev
    data = [bytes([i % 256]) * (i * 37 % 500) for i in range(3000)]
    sizes = itertools.cycle([1, 499, 8191, 70_001])

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        joined = b"".join(map(bytes, buffers))
        return real(fd, [joined[: next(sizes)]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    save(store, a=b"".join(data), none=b"")
    store.put("b", data)
    store.commit()
    assert bytes(store.get("a").read(0, store.get("a").size)) == b"".join(data)
    assert bytes(store.get("b").read(0, store.get("b").size)) == b"".join(data)


def test_a_disk_that_takes_nothing(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    answers: Iterator[int] = iter([1])

    def stuck(fd: int, buffers: list[memoryview], offset: int) -> int:
        return real(fd, [bytes(buffers[0][:1])], offset) if next(answers, 0) else 0

    monkeypatch.setattr(os, "pwritev", stuck)
    with pytest.raises(errors.StoreError, match="took no bytes"):
        store.put("a", [b"12345"])
    assert list(store.keys()) == []


def test_reads_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    tk.save(OLD, path)
    faults = Faults(monkeypatch, "preadv")
    faults.fail_at = 0
    with pytest.raises(errors.StoreError, match="cannot be read: Input/output error"):
        tk.load(path, copy=True)


def test_a_size_that_was_promised_is_kept(store: FileStore, tmp_path: Path) -> None:
    """A writer that says one size and gives another is told, or what it gave is what is there."""
    for size in (3, 100):
        try:
            store.put("a", [b"12345"], size=size)
            store.commit()
        except tk.TensorKeepError:
            store.rollback()
            assert not (tmp_path / "a").exists()
        else:
            assert (tmp_path / "a").read_bytes() == b"12345"


def test_durable_saves_sync_the_file_and_its_folder(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put("a", [b"1"])
    store.put("b", [b"2"])
    store.commit()
    assert synced == ["file", "file", "folder", "folder"]  # before the last name, and after it
    synced.clear()
    store.put("a", [b"3"], durable=False)
    store.commit()
    assert synced == []


def test_failing_saves_of_shards(tmp_path: Path) -> None:
    numbers = itertools.count()

    def make() -> FileStore:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return FileStore(folder)

    from_one = testing.check_failing_saves(tk.formats.FORMATS["safetensors"], OLD, NEW, make)
    assert from_one >= 2


def test_a_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(one: str, other: str) -> None:
        raise OSError(errno.ENOSYS, "absent")

    def refusing(one: str, other: str) -> None:
        if Path(one, "x").read_bytes() == b"new":
            raise OSError(errno.EIO, "refused")
        rename(one, other)

    rename = os.rename
    for content in (b"old", b"new"):
        draft = store.draft("a")
        draft.put("a/x", [content])
        if content == b"old":
            draft.commit()
    monkeypatch.setattr(syscalls, "exchange", absent)
    monkeypatch.setattr(os, "rename", refusing)
    with pytest.raises(errors.StoreError, match="refused"):
        draft.commit()
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a" / "x").read_bytes() == b"old"
