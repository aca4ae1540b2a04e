"""The simulated disk: what is wrong is caught, what is right never fails, every call is met."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep import syscalls
from tensorkeep.testing import disk
from tensorkeep.testing.disk.log import Model

LINUX = sys.platform == "linux"
CONTENTS = [(b"old", b"newer"), (b"o" * 5000, b"n" * 3000), (b"", b"n" * 1500), (b"x" * 600, b"")]
MODELS: list[Model] = ["posix", "ordered"]


def in_place(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def create_synced(path: Path, data: bytes, *, file: bool = True) -> Path:
    temporary = path.with_name("temporary")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for start in range(0, len(data), 1000):
        os.pwritev(fd, [data[start : start + 400], data[start + 400 : start + 1000]], start)
    if file:
        os.fsync(fd)
    os.close(fd)
    return temporary


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def without_sync(path: Path, data: bytes) -> None:
    os.replace(create_synced(path, data, file=False), path)
    sync_folder(path.parent)


def without_folder_sync(path: Path, data: bytes) -> None:
    os.replace(create_synced(path, data), path)


def sound(path: Path, data: bytes) -> None:
    os.replace(create_synced(path, data), path)
    sync_folder(path.parent)


def through_a_link(path: Path, data: bytes) -> None:
    """Replace by way of a hard link under another name."""
    other = path.with_name("other")
    temporary = create_synced(path, data)
    os.link(temporary, other)
    os.unlink(temporary)
    other.rename(path)
    sync_folder(path.parent)


def broken(
    root: Path, write: Callable[[Path, bytes], None], old: bytes, new: bytes, model: Model
) -> list[str]:
    """Give the power cuts that a writer does not survive."""
    path = root / "state"
    path.write_bytes(old)
    with disk.recording(root) as log:
        write(path, new)
        log.mark("saved")
    problems = []
    for image, marks in log.crash_images(model=model):
        state = image.path / "state"
        found = state.read_bytes() if state.exists() else None
        if found != new and (found != old or marks):
            problems.append(f"{image}: {found!r}")
    return problems


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("old", "new"), CONTENTS)
@pytest.mark.parametrize("write", [sound, through_a_link])
def test_a_sound_writer_never_fails(
    write: Callable[[Path, bytes], None], old: bytes, new: bytes, model: Model, tmp_path: Path
) -> None:
    assert broken(tmp_path, write, old, new, model) == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("old", "new"), CONTENTS[:3])
@pytest.mark.parametrize("write", [in_place, without_sync, without_folder_sync])
def test_a_broken_writer_is_caught(
    write: Callable[[Path, bytes], None], old: bytes, new: bytes, model: Model, tmp_path: Path
) -> None:
    assert broken(tmp_path, write, old, new, model)


def test_what_is_told_of_a_power_cut(tmp_path: Path) -> None:
    told = broken(tmp_path, without_sync, b"old", b"new", "posix")
    assert any("without: write 3 bytes at 0 of temporary: " in text for text in told)
    cut = "a power cut after 5 calls without: "
    assert broken(tmp_path, without_folder_sync, b"old", b"new", "ordered") == [
        f"{cut}replace temporary state: b'old'",
        f"{cut}create temporary; replace temporary state: b'old'",
    ]


def images(log: disk.Recording, model: Model = "posix", point: int | None = None) -> set[Any]:
    """Give what power cuts leave at a point, the last one if not told: names and bytes."""
    points = [len(log.calls) if point is None else point]
    found = set()
    for image, _ in log.crash_images(model=model, per_point=300, points=points):
        files = sorted(image.path.rglob("*"))
        shown = [(f.relative_to(image.path), f.read_bytes() if f.is_file() else b"") for f in files]
        found.add(tuple((str(name), data) for name, data in shown))
    return found


def names(found: set[Any]) -> set[str]:
    return {" ".join(name for name, _ in files) for files in found}


def test_what_may_become_of_a_write(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with disk.recording(tmp_path) as log:
        fd = os.open(tmp_path / "a", os.O_RDWR)
        os.pwrite(fd, b"xyz", 3)
        os.ftruncate(fd, 8)
        os.close(fd)
    found = {files[0][1] for files in images(log)}
    assert found == {
        *(b"12345", b"12345\0", b"123xyz"),
        *(b"12345\0\0\0", b"123xyz\0\0"),
    }


def test_a_torn_write_ends_with_a_sector(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 3000)
    with disk.recording(tmp_path) as log:
        fd = os.open(tmp_path / "a", os.O_RDWR)
        os.pwrite(fd, b"2" * 2000, 700)
        os.close(fd)
    found = set()
    for seed in range(40):
        for image, _ in log.crash_images(seed=seed):
            data = (image.path / "a").read_bytes()
            assert len(data) == 3000
            cuts = [at for at in range(1, 3000) if data[at] != data[at - 1]]
            assert all(cut in (700, 2700) or cut % 512 == 0 for cut in cuts)
            found.add(data)
    assert len(found) > 6


def test_what_may_become_of_names(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with disk.recording(tmp_path) as log:
        for name in "ab":
            (tmp_path / name).touch()
        log.mark("made")
        sync_folder(tmp_path)
        (tmp_path / "f" / "c").touch()
        os.rename(tmp_path / "a", tmp_path / "d")
        (tmp_path / "b").unlink()
    assert names(images(log, point=2)) == {"f", "a f", "b f", "a b f"}
    assert names(images(log, "ordered", point=2)) == {"f", "a f", "a b f"}
    assert len(images(log)) == 8
    assert names(images(log, "ordered")) == {"a b f", "a b f f/c", "b d f f/c", "d f f/c"}


def test_a_rename_to_another_folder_needs_both_synced(tmp_path: Path) -> None:
    for name in "fg":
        (tmp_path / name).mkdir()
    (tmp_path / "f" / "a").touch()
    with disk.recording(tmp_path) as log:
        os.rename(tmp_path / "f" / "a", tmp_path / "g" / "b")
        sync_folder(tmp_path / "g")
        sync_folder(tmp_path / "f")
    assert names(images(log, point=2)) == {"f f/a g", "f g g/b"}
    assert names(images(log, "ordered", point=2)) == names(images(log)) == {"f g g/b"}


def test_folders_stay_whole(tmp_path: Path) -> None:
    """No folder has two names or none, whatever is lost, and those that go are empty."""
    for name in ("a", "a/b", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"in {os.path.basename(name)}").touch()
    with disk.recording(tmp_path) as log:
        os.rename(tmp_path / "a" / "b", tmp_path / "b")
        os.rename(tmp_path / "a", tmp_path / "b" / "a")
        os.rename(tmp_path / "old", tmp_path / "older")
        os.rename(tmp_path / "b", tmp_path / "old")
        os.rename(tmp_path / "older" / "in old", tmp_path / "saved")
        (tmp_path / "older").rmdir()
        sync_folder(tmp_path)
    for image, _ in log.crash_images(per_point=50):
        left = [p.name for p in image.path.rglob("*") if p.is_file()]
        assert len(left) == 3, str(image)
        assert set(left) in ({"in a", "in b", "in old"}, {"in a", "in b", "saved"})


def test_links_share_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    os.link(tmp_path / "a", tmp_path / "b")
    with disk.recording(tmp_path) as log:
        os.link(tmp_path / "b", tmp_path / "c")
        (tmp_path / "s").symlink_to("a")
        sync_folder(tmp_path)
        fd = os.open(tmp_path / "c", os.O_WRONLY)
        os.pwrite(fd, b"new", 0)
        os.close(fd)
    kinds = set()
    for image, _ in log.crash_images(points=[3, 4]):
        files = [image.path / name for name in "abc"]
        assert all(f.samefile(files[0]) for f in files)
        assert os.readlink(image.path / "s") == "a"
        kinds.add((image.path / "s").read_bytes())
    assert kinds == {b"old", b"new"}


def test_every_way_to_write_is_seen(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").mkdir()
    (outside / "f" / "x").write_bytes(b"x" * 100)
    (outside / "f" / "y").symlink_to("x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "was").write_bytes(b"there")
    with disk.recording(root) as log:
        (root / "text").write_text("one\ntwo\n")
        with (root / "text").open("a") as file:
            file.write("three")
        with open(root / "text", "r+b") as both:
            both.seek(2)
            both.write(b"-")
            both.truncate(7)
        os.truncate(root / "was", 2)
        os.makedirs(root / "d" / "e")
        shutil.copytree(outside / "f", root / "d" / "f", symlinks=True)
        os.rename(outside / "f", root / "moved")
        (root / "d" / "e" / "z").touch()
        shutil.rmtree(root / "d" / "f")
        os.rename(root / "d", outside / "d")
        with tempfile.NamedTemporaryFile(dir=root, delete=False) as named:
            named.write(b"named")
        with tempfile.TemporaryFile(dir=root) as unnamed:
            unnamed.write(b"nobody sees it")
        fd = os.open(".", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        with contextlib.chdir(root), open("relative", "wb") as file_:
            file_.write(b"r")
        fd = os.open(root, os.O_RDONLY)
        os.mkdir("by fd", dir_fd=fd)
        inner = os.open("by fd/file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.writev(inner, [b"1", b"23"])
        os.write(inner, b"45")
        os.close(inner)
        os.rename("by fd", "renamed", src_dir_fd=fd, dst_dir_fd=fd)
        os.rename(root / "was", root / "was")
        os.close(fd)
    assert (root / "text").read_bytes() == b"on-\ntwo"
    assert not any("outside" in call for call in log.calls)
    *_, (image, _) = log.crash_images(points=1, per_point=2, model="ordered")
    assert image.point == len(log.calls)


@pytest.mark.skipif(not LINUX, reason="what Linux has")
def test_what_linux_has_is_seen(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"0123456789")
    with disk.recording(tmp_path) as log:
        source = os.open(tmp_path / "from", os.O_RDONLY)
        into = os.open(tmp_path / "into", os.O_RDWR | os.O_CREAT)
        assert os.copy_file_range(source, into, 4, 3, 5) == 4
        assert os.copy_file_range(source, into, 2) == 2
        assert os.sendfile(into, source, None, 2) == 2
        syscalls.reserve(into, 50)
        os.posix_fallocate(into, 0, 60)
        os.close(into)
        os.close(source)
        with contextlib.suppress(OSError):  # a filesystem that has no files without a name
            fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
            os.write(fd, b"named later")
            os.link(f"/proc/self/fd/{fd}", tmp_path / "later", follow_symlinks=True)
            os.close(fd)
    assert (tmp_path / "into").read_bytes() == b"0123\0" + b"3456" + bytes(51)
    image, _ = next(log.crash_images(points=1))
    assert (image.point, image.lost) == (len(log.calls), ())


@pytest.mark.skipif(not LINUX, reason="what Linux has")
def test_swapped_names_are_swapped_or_not(tmp_path: Path) -> None:
    ends = [-100, os.fsencode(tmp_path / "a"), -100, os.fsencode(tmp_path / "b")]
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").mkdir()
    with disk.recording(tmp_path) as log, disk.failing(tmp_path, at=2) as faults:
        libc = syscalls._libc()
        if libc.renameat2(*ends, 2) != 0:
            pytest.skip("a filesystem that swaps no names")
        assert libc.renameat2(*ends, 1) == -1
        assert libc.renameat2(*ends, 2) == -1
        assert ctypes.get_errno() == errno.ENOSPC
        assert libc.renameat2(*ends[:3], os.fsencode(tmp_path / "c"), 1) == 0
    assert faults.hits == ["swap"]
    assert log.calls == ["swap a b", "rename a c"]
    assert names(images(log)) == {"a b", "b c"}


def test_a_clone_is_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few filesystems clone, so the kernel's part is played here."""
    pwrite, ftruncate = os.pwrite, os.ftruncate

    def clone(fd: int, request: int, source: int) -> int:
        ftruncate(fd, pwrite(fd, os.pread(source, 99, 0), 0))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    (tmp_path / "from").write_bytes(b"123")
    (tmp_path / "into").write_bytes(b"abcdef")
    with disk.recording(tmp_path) as log, disk.failing(tmp_path, at=1):
        source, into = (
            os.open(tmp_path / "from", os.O_RDONLY),
            os.open(tmp_path / "into", os.O_RDWR),
        )
        fcntl.ioctl(into, 0x40049409, source)
        with pytest.raises(OSError, match="No space"):
            fcntl.ioctl(into, 0x40049409, source)
        os.close(source)
        os.close(into)
    assert log.calls == ["write 3 bytes at 0 of into", "truncate into to 3 bytes"]


def behind(root: Path) -> None:
    """Write as other libraries do, and remove it."""
    with disk.recording(root):
        with io.FileIO(root / "a", "w") as file:
            file.write(b"1")
        os.rename(root / "a", root / "b")
        os.remove(root / "b")


def in_a_known_file(root: Path) -> None:
    with disk.recording(root), open(root / "a", "wb") as file:
        np.ones(3).tofile(file)  # NumPy writes in C


def before_an_open(root: Path) -> None:
    """Write as other libraries do, and sync it as ours does."""
    with disk.recording(root):
        with io.FileIO(root / "a", "w") as file:
            file.write(b"1")
        fd = os.open(root / "a", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def in_another_process(root: Path) -> None:
    with disk.recording(root):
        subprocess.run(["touch", root / "a"], check=True)


@pytest.mark.parametrize("write", [behind, in_a_known_file, before_an_open, in_another_process])
def test_what_writes_behind_the_recorder_is_noticed(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="behind the recorder's back: see a"):
        write(tmp_path)


def fail_inside(root: Path) -> None:
    with disk.recording(root), disk.failing(root, at=9):
        (root / "a").mkdir()
        np.ones(3).tofile(root / "b")  # of which an error does not tell
        raise KeyError


def test_everything_is_put_back(tmp_path: Path) -> None:
    before = os.open, os.fsync, open, fcntl.ioctl, syscalls._libc
    with disk.failing(tmp_path):
        during = os.open, os.fsync, open, fcntl.ioctl, syscalls._libc
    with pytest.raises(KeyError):
        fail_inside(tmp_path)
    assert before == (os.open, os.fsync, open, fcntl.ioctl, syscalls._libc)
    assert not set(before) & set(during)


def test_calls_of_threads_are_met(tmp_path: Path) -> None:
    def write(number: int) -> int:
        try:
            sound(tmp_path / str(number) / "state", bytes([number]) * 2500)
        except OSError:
            return 1
        return 0

    for number in range(8):
        (tmp_path / str(number)).mkdir()
    with disk.recording(tmp_path) as log, disk.failing(tmp_path, at=20) as faults:
        started = threading.Event()

        def mark() -> None:
            started.wait()
            log.mark("background")

        background = threading.Thread(target=mark)
        background.start()
        with ThreadPoolExecutor(4) as pool:
            failed = sum(pool.map(write, range(8)))
        started.set()
        background.join()
    assert failed == len(faults.hits) == 1
    assert log.calls[-1] == "mark 'background'"
    for image, _ in log.crash_images(points=20):
        for state in image.path.glob("*/state"):
            assert state.read_bytes() == bytes([int(state.parent.name)]) * 2500


def test_points_and_chance(tmp_path: Path) -> None:
    with disk.recording(tmp_path) as log:
        for name in "abcdefgh":
            (tmp_path / name).write_bytes(b"1")
    told = [str(image) for image, _ in log.crash_images(points=5, seed=1)]
    assert told == [str(image) for image, _ in log.crash_images(points=5, seed=1)]
    assert told != [str(image) for image, _ in log.crash_images(points=5, seed=2)]
    assert len({image.point for image, _ in log.crash_images(points=5)}) <= 5
    sizes = [len(os.listdir(image.path)) for image, _ in log.crash_images(points=1)]
    assert sizes[:2] == [8, 0]
