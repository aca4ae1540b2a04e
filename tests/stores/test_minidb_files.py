"""How a minidb file is replaced: links, modes, leftovers, failing calls, writers and kills."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
import resource
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.stores.minidb_records import contents, hidden, pack, save
from tests.stores.minidb_writer import contents_after

from tensorkeep import errors, syscalls
from tensorkeep.database import Mode, recordfile
from tensorkeep.stores.minidb import MinidbStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.minidb"


# --- files -----------------------------------------------------------------------------------


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, path: Path) -> None:
    (tmp_path / "inner").mkdir()
    target = tmp_path / "inner" / "real"
    path.symlink_to(target)
    save(path, pairs=[("a", b"1")])
    save(path, "new", pairs=[("b", b"2")])
    assert path.is_symlink()
    assert target.read_bytes() == pack([("b", b"2")])
    assert hidden(tmp_path) == hidden(tmp_path / "inner") == []


def test_permissions(path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(path, pairs=[("a", b"1")])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    save(path, pairs=[("b", b"2")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    save(path, pairs=[("a", b"3")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_what_killed_writers_left_is_removed(path: Path) -> None:
    leftover = path.with_name(".x.minidb.0123abcd.tensorkeep.tmp")
    leftover.write_bytes(b"half")
    store = MinidbStore(path, "new")
    store.put("a", [b"1"])
    assert not leftover.exists()
    leftover.write_bytes(b"that of another one at work")
    save(path, pairs=[("b", b"2")])
    assert leftover.exists()
    store.commit()
    save(path, pairs=[("c", b"3")])
    assert hidden(path.parent) == []


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [None, 300_000])
def test_a_full_disk_leaves_the_old_file(size: int | None, path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    with MinidbStore(path, "write") as store:
        store.put("b", [b"2"])
        with limited_files(100_000), pytest.raises(errors.StoreError, match="unchanged") as caught:
            store.put("c", [bytes(150_000), bytes(150_000)], size=size)
        assert caught.value.errno == errno.EFBIG
        store.put("d", [b"4"])
        store.commit()
    assert path.read_bytes() == pack([("a", b"1"), ("b", b"2"), ("d", b"4")])


def test_a_disk_that_is_full_at_commit_leaves_the_old_file(path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    with MinidbStore(path, "write") as store, limited_files(100_000):
        for i in range(10):
            store.put(f"b{i}", [bytes(20_000)])
        with pytest.raises(errors.StoreError, match="cannot be written"):
            store.commit()
    assert path.read_bytes() == pack([("a", b"1")])
    assert hidden(path.parent) == []


def test_small_puts_are_written_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    pwritev = os.pwritev

    def count(fd: int, buffers: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", count)
    pairs = [(f"blob_{i}#%0", bytes([i % 256]) * 1024) for i in range(5000)]
    save(path, pairs=pairs)
    assert calls <= 12
    assert path.read_bytes() == pack(pairs)


def test_many_puts_do_not_pile_up_in_memory(path: Path) -> None:
    small, large = bytes(60_000), bytes(1 << 20)
    with MinidbStore(path, "new") as store:
        tracemalloc.start()
        for i in range(500):
            store.put(f"small {i}", [small], durable=False)
        for i in range(50):
            store.put(f"large {i}", [large], durable=False)
        store.commit()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 6 << 20
    assert path.stat().st_size > 80_000_000


class Faults:
    """Let the k-th call of one system call and all behind it fail."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, fail_at: int
    ) -> None:
        self.real: Callable[..., Any] = getattr(owner, name)
        self.fail_at = fail_at
        self.calls = 0
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls > self.fail_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.real(*arguments, **options)


CALLS: dict[str, Any] = {
    "copy_file_range": os,
    "fchmod": os,
    "fsync": os,
    "ftruncate": os,
    "listdir": os,
    "mmap": mmap,
    "open": os,
    "pwritev": os,
    "replace": os,
    "reserve": syscalls,
    "stat": os,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", ["write", "new"])
def test_a_system_call_that_fails(
    name: str, mode: Mode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call fails: an error of ours, and a whole file, old or new, and nothing beside."""
    monkeypatch.setattr(recordfile, "_RESERVED", 0)
    old = [("a", b"1"), ("b", b"2" * 100_000), ("c", b"3")]
    change = [("b", b"new"), ("d", b"4" * 100_000), ("e", b"5")]
    kept = dict(old) if mode == "write" else {}
    new = list({**kept, **dict(change)}.items())
    failed = 0
    for k in itertools.count():
        save(path, "new", pairs=old)
        with monkeypatch.context() as patch:
            faults = Faults(patch, name, CALLS[name], k)
            try:
                with MinidbStore(path, mode) as store:
                    for key, value in change:
                        store.put(key, [value], size=len(value))
                    store.commit()
            except errors.StoreError:
                failed += 1
            if faults.calls <= k:
                break
        assert contents(MinidbStore(path)) in (old, new)
        assert hidden(path.parent) == []
    assert contents(MinidbStore(path)) == new
    if name not in ("listdir", "mmap") and (name, mode) != ("copy_file_range", "new"):
        assert failed >= 1


def test_what_is_durable_is_synced_before_it_appears(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def note_replace(source: Any, target: Any) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    with MinidbStore(path, "write") as store:
        store.put("a", [b"1"])
        store.put("b", [b"2"], durable=False)
        store.commit()
        assert calls == ["file", "rename", "folder"]
        store.put("b", [b"3"], durable=False)
        store.commit()
        assert calls[3:] == ["rename"]
        store.delete("b")
        store.commit()
        assert calls[4:] == ["file", "rename", "folder"]


def unable(*arguments: object) -> int:
    raise OSError(errno.EXDEV, "no copy inside the kernel")


@pytest.mark.parametrize("copy", [unable, lambda *_: 0], ids=["refuses", "copies nothing"])
def test_files_are_copied_without_the_kernel(
    copy: Callable[..., int], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", copy, raising=False)
    pairs = [("a", bytes(range(256)) * 40_000), ("b", b"2"), ("c", b"3" * 100_000)]
    save(path, pairs=pairs)
    save(path, pairs=[("b", b"new"), ("d", b"4")])
    assert path.read_bytes() == pack([pairs[0], ("b", b"new"), pairs[2], ("d", b"4")])


# --- several writers, and kills --------------------------------------------------------------


def test_two_writers_merge(path: Path) -> None:
    save(path, pairs=[("a", b"1"), ("b", b"2")])
    one, other = MinidbStore(path, "write"), MinidbStore(path, "write")
    one.put("a", [b"one"])
    one.put("c", [b"one"])
    other.put("a", [b"other"])
    other.delete("b")
    one.commit()
    other.commit()
    assert contents(one) == [("a", b"other"), ("c", b"one")]


def test_threads_lose_nothing(path: Path) -> None:
    save(path, pairs=[("a", b"1")])
    store = MinidbStore(path)

    def add(number: int) -> None:
        for i in range(5):
            writer = store.writer()
            writer.put(f"{number} {i}", [bytes([number, i]) * 3000], durable=False)
            writer.commit()

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{n} {i}": bytes([n, i]) * 3000 for n in range(6) for i in range(5)}
    assert dict(contents(store)) == {"a": b"1", **expected}
    assert hidden(path.parent) == []


@pytest.mark.parametrize("number", range(5))
def test_a_kill_leaves_a_whole_file(number: int, path: Path) -> None:
    command = [sys.executable, "-m", "tests.stores.minidb_writer", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        announced = [child.stdout.readline()]
        time.sleep(random.Random(number).uniform(0, 0.1))
        child.kill()
        announced += child.stdout.read().splitlines()
    last = max(int(line) for line in announced if line.strip())
    found = contents(MinidbStore(path))
    assert found in (contents_after(last), contents_after(last + 1))
    save(path, pairs=[("next", b"1")])
    assert contents(MinidbStore(path)) == [*found, ("next", b"1")]
    assert hidden(path.parent) == []
