"""Opening, loading and converting."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.formats import WRITTEN
from tensorkeep.store import Location
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore

OLD: dict[str, Any] = {"w": np.arange(1000, dtype=np.float32), "n": 1}
NEW: dict[str, Any] = {"w": np.ones(3000, dtype=np.float32), "n": 2, "b": np.arange(7)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    tk.save(OLD, path, durable=False)
    return path


def listing(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


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
    for format in WRITTEN.values():
        assert format.encode is not None
        parameters = list(inspect.signature(format.encode).parameters.values())[2:]
        for parameter in parameters:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert f"{parameter.name}:" in (format.encode.__doc__ or "")
