"""Saving: what is left on the disk, above all when it fails."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.store import Location
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore

OLD: dict[str, Any] = {"w": np.arange(1000, dtype=np.float32), "n": 1}
NEW: dict[str, Any] = {"w": np.ones(3000, dtype=np.float32), "n": 2, "b": np.arange(7)}

Options = tuple[dict[str, Any], ...]
FORMAT_OPTIONS: Options = ({}, {"format": "safetensors"})
SHARD_OPTIONS: Options = ({}, {"max_shard_size": 5000})
CHECKSUM_OPTIONS: Options = ({}, {"checksums": False})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    tk.save(OLD, path, durable=False)
    return path


def listing(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def is_old(path: Path) -> None:
    testing.assert_equal_states(tk.load(path, verify=True), OLD)
    assert listing(path) == [path.name]


@pytest.mark.parametrize("copy", [False, True])
def test_saving_over_what_was_loaded(copy: bool, path: Path) -> None:
    for number in range(3):
        found = tk.load(path, copy=copy)
        found["w"] += 1
        tk.save(found, path)
        assert tk.load(path, verify=True)["w"][0] == number + 1
    assert listing(path) == [path.name]


def test_saving_an_open_state_over_itself(path: Path) -> None:
    with tk.open(path) as state:
        tk.save(state, path)
        tk.save(state, path, metadata={"again": True})
        assert state["w"][1] == 1
    testing.assert_equal_states(tk.load(path), OLD)
    tk.convert(path, path)
    testing.assert_equal_states(tk.load(path), OLD)
    assert tk.open(path).metadata == {"again": True}


def test_options_and_formats(path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="checksums"):
        tk.save(OLD, path, checksum=True)
    with pytest.raises(errors.ArgumentError, match=r"\.safetensors"):
        tk.save(OLD, path.with_suffix(".data"))
    tk.save(OLD, path.with_suffix(".data"), format="safetensors")
    testing.assert_equal_states(tk.load(path.with_suffix(".data")), OLD)
    testing.assert_equal_states(tk.load(path, format="safetensors"), OLD)


def test_metadata(path: Path) -> None:
    metadata: dict[str, Any] = {
        "text": "ü",
        "number": 1.5,
        "list": [1, None, {"a": True}],
        "large": 2**70,
    }
    tk.save(OLD, path, metadata=metadata)
    with tk.open(path) as state:
        testing.assert_equal_states(state.metadata, metadata)
        tk.save(state, path, metadata={"text": "new"})
    assert tk.open(path).metadata == {**metadata, "text": "new"}
    testing.assert_equal_states(tk.load(path), OLD)


def deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


BAD_METADATA: dict[str, Any] = {
    "number": 3,
    "list": [1],
    "text": "abc",
    "number as key": {1: 2},
    "number as inner key": {"a": {1: 2}},
    "array": {"a": np.zeros(2)},
    "NumPy number": {"a": np.float32(1)},
    "bytes": {"a": b"x"},
    "tuple": {"a": (1, 2)},
    "set": {"a": {1}},
    "NaN": {"a": float("nan")},
    "object": {"a": object()},
    "half a surrogate": {"a": "\ud800"},
    "half a surrogate as key": {"\ud800": 1},
    "deep": {"a": deep()},
    "huge number": {"a": 10**6000},
}


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA)
def test_metadata_that_is_not_json(metadata: Any, path: Path) -> None:
    """It is refused, or it comes back as it was: nothing is changed on the way."""
    saves: list[Callable[[], Any]] = [lambda: tk.save(OLD, path, metadata=metadata)]
    if isinstance(metadata, dict):
        saves.append(lambda: tk.save(tk.State({}, metadata=metadata), path))
    for save in saves:
        try:
            save()
        except tk.TensorKeepError:
            is_old(path)
        else:
            testing.assert_equal_states(tk.open(path).metadata, metadata)
            tk.save(OLD, path)


NOT_TEXT = {"half": "\ud800", "pair": "a\ud800\udc00", "byte": "\udcff"}


@pytest.mark.parametrize("name", NOT_TEXT.values(), ids=NOT_TEXT)
def test_states_with_names_that_are_not_text(name: str, path: Path) -> None:
    try:
        tk.save(tk.State({name: tk.Tensor.of(np.ones(2))}), path)
    except tk.TensorKeepError:
        is_old(path)
    else:
        assert list(tk.load(path)) == [name]


def test_the_mode_of_a_file_is_kept(path: Path) -> None:
    for mode in (0o600, 0o664, 0o444):
        path.chmod(mode)
        tk.save(NEW, path)
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_follows_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        tk.save(NEW, tmp_path / "new.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.safetensors").stat().st_mode) == 0o666 & ~umask


def test_a_link_stays_a_link(path: Path) -> None:
    folder = path.parent / "links"
    folder.mkdir()
    link = folder / "latest.safetensors"
    link.symlink_to(Path("..") / path.name)
    tk.save(NEW, link)
    assert link.is_symlink()
    testing.assert_equal_states(tk.load(path), NEW)
    testing.assert_equal_states(tk.load(link), NEW)
    assert listing(link) == [link.name]
    dangling = folder / "next.safetensors"
    dangling.symlink_to("real.safetensors")
    tk.save(OLD, dangling)
    assert dangling.is_symlink()
    testing.assert_equal_states(tk.load(folder / "real.safetensors"), OLD)


def test_a_hard_link_keeps_the_old_state(path: Path) -> None:
    other = path.with_name("kept.safetensors")
    os.link(path, other)
    tk.save(NEW, path)
    testing.assert_equal_states(tk.load(other), OLD)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    path.symlink_to("pipe")


# Never a real device here: a save that gets this wrong would replace it for the whole machine.
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, link_to_pipe])
def test_what_is_no_file_is_not_replaced(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    make(path)
    before = {p.name: (p.lstat().st_ino, p.lstat().st_mode) for p in tmp_path.iterdir()}
    with pytest.raises(tk.TensorKeepError):
        tk.save(NEW, path)
    assert {p.name: (p.lstat().st_ino, p.lstat().st_mode) for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "name",
    [
        "",
        "no/folder.safetensors",
        "x" * 300 + ".safetensors",
        "a\0.safetensors",
        "\ud800.safetensors",
        "file.safetensors/inside.safetensors",
        "d/" * 3000 + "x.safetensors",
    ],
)
def test_places_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"")
    target = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(tk.TensorKeepError):
        tk.save(NEW, target)
    assert os.listdir(tmp_path) == ["file.safetensors"]


def test_folders_that_may_not_be_written(unprivileged: Path) -> None:
    folder = unprivileged / "folder"
    folder.mkdir()
    tk.save(OLD, folder / "state.safetensors")
    for mode in (0o555, 0o333, 0o000):
        folder.chmod(mode)
        try:
            tk.save(NEW, folder / "state.safetensors")
        except tk.TensorKeepError:
            folder.chmod(0o755)
            is_old(folder / "state.safetensors")
        finally:
            folder.chmod(0o755)
    assert listing(folder / "state.safetensors") == ["state.safetensors"]


def test_a_folder_or_a_store_is_no_file(tmp_path: Path) -> None:
    for target in (tmp_path, f"{tmp_path}/", MemoryStore(), FileStore(tmp_path)):
        for options in FORMAT_OPTIONS:
            with pytest.raises(tk.TensorKeepError):
                tk.save(NEW, target, **options)
    assert os.listdir(tmp_path) == []


# --- failures -----------------------------------------------------------------------------------


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow over 8 KiB: the portable way to a disk that is full.

    Not a fixture: what the tests' own output goes to may be a longer file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_that_grows_too_large(durable: bool, path: Path) -> None:
    large = r"state\.safetensors.*File too large"
    with pytest.raises(errors.StoreError, match=large) as caught, small_files():
        tk.save(NEW, path, durable=durable)
    assert caught.value.errno == errno.EFBIG
    is_old(path)
    with pytest.raises(errors.StoreError), small_files():
        tk.save({"a": OLD, **NEW}, path, max_shard_size=6000)
    is_old(path)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small filesystem is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "300kB"}], ids=["one", "shards"])
def test_a_disk_that_is_full(full_disk: Path, durable: bool, options: dict[str, Any]) -> None:
    path = full_disk / "state.safetensors"
    tk.save(OLD, path)
    large = {str(i): np.zeros(100_000, np.uint8) for i in range(20)}
    with pytest.raises(errors.StoreError, match=r"No space left.*bytes are needed|free") as caught:
        tk.save(large, path, durable=durable, **options)
    assert caught.value.errno == errno.ENOSPC
    is_old(path)
    tk.save(NEW, path)
    testing.assert_equal_states(tk.load(path, verify=True), NEW)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
def test_an_interrupt_leaves_nothing(error: type[BaseException], path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise error

    for options in SHARD_OPTIONS:
        with pytest.raises(error):
            tk.save(NEW, path, progress=interrupt, **options)
        is_old(path)
    with pytest.raises(error):
        tk.load(path, copy=True, progress=interrupt)
    with pytest.raises(error):
        tk.convert(path, path, progress=interrupt)
    is_old(path)


def test_a_signal_in_the_middle_leaves_nothing(path: Path) -> None:
    """A real SIGINT, at the moments when the save calls back and between them."""
    for at in range(3):
        calls = iter(range(100))

        def report(done: int, total: int, calls: Iterator[int] = calls, at: int = at) -> None:
            if next(calls) == at:
                signal.raise_signal(signal.SIGINT)

        large = {str(i): np.zeros(9 << 20, np.uint8) for i in range(3)}
        with pytest.raises(KeyboardInterrupt):
            tk.save(large, path, progress=report, durable=False)
        is_old(path)


def test_a_source_that_fails_while_it_is_saved(path: Path) -> None:
    class Broken(tk.Source):
        def _read(self, start: int, stop: int) -> memoryview:
            raise kind("the source failed", where="elsewhere")

    for kind in (errors.CorruptError, errors.StoreError, errors.UnsafeError, errors.MissingError):
        tensor = tk.Tensor(tk.dtype("uint8"), (100,), Broken(100, "elsewhere"))
        for options in CHECKSUM_OPTIONS:
            with pytest.raises(kind, match="the source failed"):
                tk.save(tk.State({"w": tensor}), path, **options)
            is_old(path)


def test_open_files_are_given_back(path: Path) -> None:
    def count() -> int:
        gc.collect()
        kinds = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                kinds.append(os.readlink(f"/proc/self/fd/{fd}"))
        # Connections of other tests are kept a while, and then closed.
        return sum(not kind.startswith("socket:") for kind in kinds)

    before = count()
    for _ in range(10):
        tk.load(path)
        tk.save(OLD, path)
        with tk.open(path):
            pass
        for wrong in (path.with_name("missing.safetensors"), path.parent / "x"):
            with pytest.raises(errors.MissingError):
                tk.load(wrong)
        with pytest.raises(errors.MissingError):
            tk.load(path, names="missing")
        with pytest.raises(errors.ArgumentError):
            tk.save(OLD, path, align=3)
    assert count() == before


def test_metadata_does_not_hide_damage(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.arange(1000.0))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with tk.open(tmp_path / "a.npz") as state, pytest.raises(errors.CorruptError):
        tk.save(state, tmp_path / "b.safetensors", metadata={"epoch": 1})
    assert not (tmp_path / "b.safetensors").exists()


def test_metadata_that_is_no_dict(tmp_path: Path) -> None:
    wrongs: tuple[Any, ...] = ([], "x", 3)
    for wrong in wrongs:
        with pytest.raises(errors.UnsupportedError, match="metadata"):
            tk.save({}, tmp_path / "a.safetensors", metadata=wrong)


def test_a_location_is_opened_anew_each_time(tmp_path: Path) -> None:
    for store in (MemoryStore(), FileStore(tmp_path)):
        place = Location(store, "a.npz")
        tk.save({"w": np.zeros(3)}, place)
        before = tk.open(place)
        tk.save({"w": np.ones(3)}, place)
        after = tk.open(place)
        before.close()
        assert after["w"].numpy().tolist() == [1, 1, 1]
        after.close()
