from __future__ import annotations

import errno
import gc
import inspect
import io
import os
import resource
import shutil
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
from tensorkeep.formats import FORMATS
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
    tk.save(OLD, path)
    return path


def listing(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def is_old(path: Path) -> None:
    testing.assert_equal_states(tk.load(path, verify=True), OLD)
    assert listing(path) == [path.name]


# --- where things are ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, os.fsencode, lambda p: f"file://{p}"])
def test_ways_to_name_a_file(kind: Callable[[Any], Any], path: Path) -> None:
    testing.assert_equal_states(tk.load(kind(path)), OLD)
    other = path.with_name("other.safetensors")
    tk.save(NEW, kind(other))
    testing.assert_equal_states(tk.load(other), NEW)


def test_relative_paths(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    for name in (path.name, f"./{path.name}", f"../{path.parent.name}/{path.name}"):
        assert tk.load(name)["n"] == 1
        tk.save(OLD, name)
    assert listing(path) == [path.name]
    assert tk.load(".")["n"] == 1


def test_stores_and_locations(tmp_path: Path) -> None:
    for store in (MemoryStore(), FileStore(tmp_path)):
        location = Location(store, "state.safetensors")
        tk.save(OLD, location)
        testing.assert_equal_states(tk.load(Location(store, "state.safetensors")), OLD)
        testing.assert_equal_states(tk.load(store), OLD)


def test_odd_file_names(tmp_path: Path) -> None:
    stems = [
        " ",
        "ünï",
        "a\nb",
        "-rf",
        "~",
        "*?[x]",
        "%s{}",
        "x" * 243,
        "ü" * 121,
        ".hidden",
        "a.b.c",
    ]
    names = [f"{stem}.safetensors" for stem in stems]
    for number, name in enumerate(names):
        for _ in range(2):
            tk.save({"n": number}, tmp_path / name)
        assert tk.load(tmp_path / name) == {"n": number}
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    name: Any = os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"
    tk.save(OLD, name)
    tk.save(OLD, name)
    testing.assert_equal_states(tk.load(name), OLD)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe.safetensors"]


# --- load ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", [False, True])
def test_arrays_are_writable_and_the_file_stays(copy: bool, path: Path) -> None:
    before = path.read_bytes()
    first, second = tk.load(path, copy=copy), tk.load(path, copy=copy)
    first["w"][:] = -1
    assert second["w"].tolist() == OLD["w"].tolist()
    del first
    gc.collect()
    assert path.read_bytes() == before
    testing.assert_equal_states(tk.load(path), OLD)


def test_maps_and_copies(path: Path) -> None:
    """A map sees nothing of the file until it is touched; a copy has everything at once."""
    size = os.path.getsize(path)
    lazy, fresh = tk.load(path), tk.load(path, copy=True)
    with path.open("r+b") as file:
        file.seek(size - 4000)
        file.write(b"\0" * 4000)
    assert fresh["w"].tolist() == OLD["w"].tolist()
    assert lazy["w"].tolist() == [0] * 1000


def test_arrays_outlive_the_file(path: Path) -> None:
    found = tk.load(path)
    path.unlink()
    shutil.rmtree(path.parent)
    testing.assert_equal_states(found, OLD)


def test_after_the_file_was_replaced(path: Path) -> None:
    old, state = tk.load(path), tk.open(path)
    tk.save(NEW, path)
    testing.assert_equal_states(old, OLD)
    assert state["w"][:3].tolist() == [0, 1, 2]
    state.close()
    testing.assert_equal_states(tk.load(path), NEW)


def test_names(path: Path) -> None:
    nested = {"dec": {"w": np.ones(2), "b": np.zeros(2)}, "enc": [np.ones(3)], "n": 3}
    tk.save(nested, path)
    assert list(tk.load(path, names="enc.*")) == ["enc.0"]
    assert sorted(tk.load(path, names=["*.w", "enc.0"])) == ["dec.w", "enc.0"]
    assert tk.load(path, names=[]) == {}
    assert tk.load(path, names="dec.w", copy=True, verify=True)["dec.w"].tolist() == [1, 1]
    for wrong in ("encoder.*", ["dec.w", "x"]):
        with pytest.raises(errors.MissingError):
            tk.load(path, names=wrong)


def test_names_read_only_what_they_name() -> None:
    store = testing.CountingStore(MemoryStore())
    tk.save({"a": np.zeros(100_000), "b": np.ones(3)}, Location(store, "s.safetensors"))
    store.ranges.clear()
    assert tk.load(store, names="b", verify=True)["b"].tolist() == [1, 1, 1]
    assert store.bytes_read < 10_000


def test_verifying_some_large_tensors(path: Path) -> None:
    """What lies between the tensors that are read is not part of their digests."""
    large = {name: np.full(3 << 20, i, np.float32) for i, name in enumerate("ace")}
    tk.save({**large, "b": np.ones(5, np.float32), "d": np.ones(5, np.float32)}, path)
    for names in ("[ace]", ["a", "c"], ["a", "d", "e"], "*"):
        for copy in (False, True):
            found = tk.load(path, names=names, copy=copy, verify=True)
            assert all(array.flags.writeable for array in found.values())


@pytest.mark.parametrize("target", ["float16", "bfloat16", np.float64, "float8_e5m2"])
def test_casting(target: Any, path: Path) -> None:
    state = {
        "f": np.array([1, 2, 3], np.float32),
        "d": [np.ones(2)],
        "i": np.arange(3),
        "s": "x",
        "n": 0.1,
    }
    tk.save(state, path)
    for copy in (False, True):
        found = tk.load(path, dtype=target, copy=copy, verify=True)
        wanted = tk.dtype(target).numpy
        assert found["f"].dtype == found["d"][0].dtype == wanted
        assert found["f"].astype(float).tolist() == [1, 2, 3]
        assert (found["i"].dtype, found["s"], found["n"]) == (np.int64, "x", 0.1)
        assert found["f"].flags.writeable


def test_casting_beyond_a_type_is_quiet(path: Path) -> None:
    tk.save({"w": np.array([1e30, -1e30, 1e-30], np.float32)}, path)
    assert tk.load(path, dtype="float16")["w"].tolist() == [np.inf, -np.inf, 0]


@pytest.mark.parametrize("copy", [False, True])
def test_verifying(copy: bool, path: Path) -> None:
    testing.assert_equal_states(tk.load(path, verify=True, copy=copy), OLD)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert tk.load(path, copy=copy)["n"] == 1
    with pytest.raises(errors.CorruptError, match="'w' is damaged"):
        tk.load(path, verify=True, copy=copy)
    with pytest.raises(errors.CorruptError, match="'w' is damaged"):
        tk.convert(path, path.with_name("other.safetensors"))
    tk.save(OLD, path, checksums=False)
    with pytest.raises(errors.UnsupportedError, match="checksums=True"):
        tk.load(path, verify=True)


def test_progress(path: Path) -> None:
    reports: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        reports.append((done, total))

    for call in (
        lambda: tk.save(NEW, path, progress=report),
        lambda: tk.load(path, copy=True, progress=report),
        lambda: tk.convert(path, path.with_name("b.safetensors"), progress=report),
    ):
        reports.clear()
        call()
        total = NEW["w"].nbytes + NEW["b"].nbytes
        assert reports[-1] == (total, total)
        assert [done for done, _ in reports] == sorted(done for done, _ in reports)


# --- save ---------------------------------------------------------------------------------------


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
        tk.save(OLD, path.with_suffix(".bin"))
    tk.save(OLD, path.with_suffix(".bin"), format="safetensors")
    testing.assert_equal_states(tk.load(path.with_suffix(".bin")), OLD)
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


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow over 8 KiB: the portable way to a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.usefixtures("small_files")
def test_a_file_that_grows_too_large(durable: bool, path: Path) -> None:
    with pytest.raises(errors.StoreError, match=r"state\.safetensors.*File too large") as caught:
        tk.save(NEW, path, durable=durable)
    assert caught.value.errno == errno.EFBIG
    is_old(path)
    with pytest.raises(errors.StoreError):
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
        return len(os.listdir("/proc/self/fd"))

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


# --- arguments ----------------------------------------------------------------------------------

load: Any = tk.load
save: Any = tk.save
open_: Any = tk.open
convert: Any = tk.convert

WRONG_ARGUMENTS: dict[str, Callable[[Path], Any]] = {
    "load nothing": lambda p: load(None),
    "load a number": lambda p: load(3),
    "load a list": lambda p: load([p]),
    "load a state": lambda p: load(OLD),
    "load an open file": lambda p: load(io.BytesIO(p.read_bytes())),
    "load an unknown store": lambda p: load("ftp://host/file"),
    "load an unknown format": lambda p: load(p, format="pickle"),
    "load a format that is no text": lambda p: load(p, format=3),
    "load a list of formats": lambda p: load(p, format=["npz"]),
    "load with an unknown framework": lambda p: load(p, framework="theano"),
    "load with a list": lambda p: load(p, framework=["numpy"]),
    "load with a module": lambda p: load(p, framework=np),
    "load a number as names": lambda p: load(p, names=3),
    "load numbers as names": lambda p: load(p, names=[0]),
    "load bytes as names": lambda p: load(p, names=b"w"),
    "load onto a device": lambda p: load(p, device="cuda"),
    "load NumPy onto a device": lambda p: load(p, framework="numpy", device="cuda:0"),
    "load to an unknown type": lambda p: load(p, dtype="float99"),
    "load to integers": lambda p: load(p, dtype="int8"),
    "load to objects": lambda p: load(p, dtype=object),
    "load to a number": lambda p: load(p, dtype=16),
    "load to a broken type": lambda p: load(p, dtype="(2,"),
    "load with a progress bar": lambda p: load(p, progress=True, copy=True),
    "open nothing": lambda p: open_(None),
    "open an unknown format": lambda p: open_(p, format="zip"),
    "save nowhere": lambda p: save(OLD, None),
    "save to a number": lambda p: save(OLD, 3),
    "save the other way round": lambda p: save(str(p), OLD),
    "save to an unknown ending": lambda p: save(OLD, p.with_suffix(".xyz")),
    "save without an ending": lambda p: save(OLD, p.with_suffix("")),
    "save to an unknown format": lambda p: save(OLD, p, format="pickle"),
    "save to a format that is no text": lambda p: save(OLD, p, format=3),
    "save to an unknown store": lambda p: save(OLD, "s3://bucket/state.safetensors"),
    "save with an unknown option": lambda p: save(OLD, p, compression=9),
    "save with a typo": lambda p: save(OLD, p, max_shard_sizes="5GB"),
    "save with a progress bar": lambda p: save(OLD, p, progress=True),
    "save metadata that is no mapping": lambda p: save(OLD, p, metadata=3),
    "align to 3": lambda p: save(OLD, p, align=3),
    "align to 0": lambda p: save(OLD, p, align=0),
    "align backwards": lambda p: save(OLD, p, align=-8),
    "align to text": lambda p: save(OLD, p, align="64"),
    "align to half a byte": lambda p: save(OLD, p, align=8.5),
    "align to nothing": lambda p: save(OLD, p, align=None),
    "align to a terabyte": lambda p: save(OLD, p, align=1 << 40),
    "align to all there is": lambda p: save(OLD, p, align=1 << 70),
    "shards of nothing": lambda p: save(OLD, p, max_shard_size=0),
    "shards of less": lambda p: save(OLD, p, max_shard_size=-5),
    "shards of zero bytes": lambda p: save(OLD, p, max_shard_size="0GB"),
    "shards of text": lambda p: save(OLD, p, max_shard_size="big"),
    "shards of unknown units": lambda p: save(OLD, p, max_shard_size="5 parsec"),
    "shards of a list": lambda p: save(OLD, p, max_shard_size=[5]),
    "shards of endless size": lambda p: save(OLD, p, max_shard_size="9" * 400 + "GB"),
    "convert nothing": lambda p: convert(None, p),
    "convert to nothing": lambda p: convert(p, None),
    "convert to an unknown ending": lambda p: convert(p, p.with_suffix(".xyz")),
    "convert with a typo": lambda p: convert(p, p, checksum=True),
    "convert a number of names": lambda p: convert(p, p, names=3),
}


@pytest.mark.parametrize("call", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments(call: Callable[[Path], Any], path: Path) -> None:
    with pytest.raises((errors.ArgumentError, errors.UnsupportedError)) as caught:
        call(path)
    assert caught.value.problem
    is_old(path)


def test_wrong_arguments_have_a_cure(path: Path) -> None:
    without = []
    for name, call in WRONG_ARGUMENTS.items():
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call(path)
        if not getattr(caught.value, "cure", ""):
            without.append(name)
    assert without == []


# --- convert ------------------------------------------------------------------------------------


def test_converting_keeps_everything(path: Path) -> None:
    state = {"a": [np.ones(2), (np.float32(1), None)], "t": "x"}
    tk.save(state, path, metadata={"epoch": 3})
    other = path.with_name("other.safetensors")
    assert tk.convert(path, other) == []
    testing.assert_equal_states(tk.load(other, verify=True), state)
    assert tk.open(other).metadata == {"epoch": 3}
    assert other.read_bytes() == path.read_bytes()


def test_converting_some(path: Path) -> None:
    tk.save({"a": {"w": np.ones(2), "b": np.zeros(2)}, "c": np.ones(1)}, path)
    other = path.with_name("other.safetensors")
    tk.convert(path, other, names="a.*")
    assert sorted(tk.load(other, verify=True)) == ["a.b", "a.w"]
    with pytest.raises(errors.MissingError):
        tk.convert(path, other, names="missing")
    assert sorted(tk.load(other)) == ["a.b", "a.w"]


def test_options_are_documented() -> None:
    """What `save` passes on are keyword arguments that the encoder explains."""
    for format in FORMATS.values():
        parameters = list(inspect.signature(format.encode).parameters.values())[2:]
        for parameter in parameters:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert f"{parameter.name}:" in (format.encode.__doc__ or "")
