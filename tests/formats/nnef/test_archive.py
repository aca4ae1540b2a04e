"""Archives of NNEF: what Python's tarfile and `nnef` make of ours, and what is made of theirs."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.nnef.networks import TEXT, arrays, read_by_nnef, same_graph, write_model

import tensorkeep as tk
from tensorkeep import formats, testing
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.formats import FORMATS
from tensorkeep.formats.nnef.gunzipped import Gunzipped
from tensorkeep.formats.nnef.tar import TarFolder
from tensorkeep.source import MemorySource
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, assert_equal_states


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "net")


def packed(folder: Path, mode: str = "w", prefix: str = "", **options: Any) -> bytes:
    """Pack a folder as tar does it, its files and folders in any order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=prefix or ".")
    return out.getvalue()


def members(files: dict[str, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def opened(data: bytes, key: str = "net.nnef.tgz") -> tk.State:
    return tk.open(Location(MemoryStore({key: data}), key))


@pytest.mark.parametrize("ending", [".nnef.tar", ".nnef.tgz", ".nnef.tar.gz"])
def test_what_is_written_tarfile_and_nnef_read(tmp_path: Path, model: Path, ending: str) -> None:
    target = tmp_path / f"net{ending}"
    with tk.open(model) as state:
        tk.save(state, target)
    with tarfile.open(target) as archive:
        infos = archive.getmembers()
        archive.extractall(tmp_path / "out", filter="data")
    labels = [f"{label}.dat" for label in arrays()]
    assert [info.name for info in infos] == ["graph.nnef", *labels]
    assert {(i.mtime, i.uid, i.gid, i.uname, i.mode) for i in infos} == {(0, 0, 0, "", 0o644)}
    assert_equal_states(read_by_nnef(tmp_path / "out"), arrays())
    assert same_graph(model, tmp_path / "out")
    with tk.open(target) as state:
        assert (state.format, state.dialect) == ("nnef-archive", "nnef")
        assert_equal_states(dict(state.items()), arrays())
        first = target.read_bytes()
        tk.save(state, target)
    assert target.read_bytes() == first


@pytest.mark.parametrize("prefix", ["", "net", "a/b"])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_tar_packs_is_read(model: Path, mode: str, format: int, prefix: str) -> None:
    with opened(packed(model, mode, prefix, format=format)) as state:
        assert_equal_states(dict(state.items()), arrays())


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_those_beyond_ascii(tmp_path: Path, format: int) -> None:
    value = {"x" * 200 + "/" + "y" * 200: np.ones(2), "ü/ß": np.zeros(3, np.int8)}
    tk.save(value, tmp_path / "state.nnef.tar")
    assert_equal_states(tk.load(tmp_path / "state.nnef.tar"), value)
    with tarfile.open(tmp_path / "state.nnef.tar") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "out", filter="data")
    assert f"{'x' * 200}/{'y' * 200}.dat" in names
    assert_equal_states(tk.load(tmp_path / "out"), value)
    with opened(packed(tmp_path / "out", format=format)) as state:
        assert set(state) == set(value)


def test_a_plain_archive_is_read_where_it_lies(tmp_path: Path) -> None:
    value = {f"w{i}": np.full((1000, 100), i, np.float32) for i in range(20)}
    tk.save(value, tmp_path / "state.nnef.tar")
    data = (tmp_path / "state.nnef.tar").read_bytes()
    store = CountingStore(MemoryStore({"state.nnef.tar": data}))
    with tk.open(Location(store, "state.nnef.tar")) as state:
        assert store.bytes_read < 60_000
        before = store.bytes_read
        assert state["w7"][500, 3] == 7
        assert store.bytes_read - before == 4
    with tk.open(tmp_path / "state.nnef.tar") as state:
        tensor = state["w3"]
        assert tensor.source.mapped
        assert tensor.numpy().ctypes.data % 64 == 0  # where it can be mapped as it is
    testing.check_laziness(FORMATS["nnef-archive"], compress=False)
    testing.check_slices(FORMATS["nnef-archive"], compress=False)


def test_a_compressed_archive_is_unpacked_in_little_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(1 << 19)
    value = {f"w{i}": np.frombuffer(noise * 6, np.uint8) for i in range(10)}
    tk.save(value, tmp_path / "state.nnef.tgz", checksums=False)
    tracemalloc.start()
    with tk.open(tmp_path / "state.nnef.tgz") as state:
        assert bytes(state["w9"][-10:]) == noise[-10:]
        assert bytes(state["w2"][5:20]) == noise[5:20]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        for name in reversed(list(state)):
            assert bytes(state[name].read()) == noise * 6
    assert peak < 12 << 20


def test_any_place_of_a_gzip_file_is_read() -> None:
    pick = random.Random(4)
    data = np.random.default_rng(1).integers(0, 9, 5_000_000).astype(np.uint8).tobytes()
    packed = gzip.compress(data[:2_000_000], 1) + gzip.compress(data[2_000_000:], 1) + bytes(100)
    source = Gunzipped(MemorySource(packed))
    assert bytes(source.read(10, 20)) == data[10:20]
    source.finish()
    assert source.size == len(data)
    for _ in range(60):
        start = pick.randrange(len(data))
        stop = min(len(data), start + pick.choice([0, 1, 1000, 300_000]))
        assert bytes(source.read(start, stop)) == data[start:stop]
    with pytest.raises(CorruptError, match="bytes 0 to 5000001 were asked for"):
        source.read(0, len(data) + 1)


def test_equal_states_give_equal_archives(model: Path) -> None:
    for compress in (True, False):
        made = []
        for _ in range(2):
            store = MemoryStore()
            with tk.open(model) as state:
                tk.save(state, Location(store, "a.nnef.tgz"), compress=compress, checksums=True)
            made.append(store.data["a.nnef.tgz"])
        assert made[0] == made[1]
        assert made[0].startswith(b"\x1f\x8b") is compress
        with opened(made[0]) as state:
            assert_equal_states(dict(state.items()), arrays())


def changed(data: bytes, by: Callable[[int], bytes], step: int) -> list[bytes]:
    return [by(at) for at in range(0, len(data), step)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_truncations_and_flips_of_foreign_archives(model: Path, mode: str) -> None:
    data = packed(model, mode, format=tarfile.USTAR_FORMAT)
    if mode == "w":
        data = data[: data.rindex(b"steps.dat") + 2048]
    cut = changed(data, lambda at: data[:at], 31 if mode == "w" else 1)
    flip = changed(
        data,
        lambda at: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
        17 if mode == "w" else 3,
    )
    for damaged in cut + flip:
        try:
            with opened(damaged) as state:
                _ = {name: tensor.numpy() for name, tensor in state.items()}
        except TensorKeepError:
            continue


def test_archives_that_are_no_models(tmp_path: Path) -> None:
    for data in (members({"a.txt": b"x"}), members({"w.dat": b"no tensor"}), bytes(1024)):
        for whole in (data, gzip.compress(data)):
            location = Location(MemoryStore({"a.bin": whole}), "a.bin")
            assert not FORMATS["nnef-archive"].accepts(location)
    with pytest.raises(UnsupportedError, match="is gzip-compressed; unpack it first"):
        opened(gzip.compress(members({"a.txt": b"x"})))
    with pytest.raises(CorruptError, match=r"holds no graph\.nnef"):
        opened(members({"a.txt": b"x"}), "a.nnef.tar")


def test_archives_are_known_by_tensors_that_come_first(model: Path) -> None:
    data = {
        str(path.relative_to(model)): path.read_bytes()
        for path in sorted(model.rglob("*"), reverse=True)
        if path.is_file()
    }
    assert next(iter(data)) == "steps.dat"
    for whole in (members(data), gzip.compress(members(data))):
        location = Location(MemoryStore({"model": whole}), "model")
        assert formats.detect(location).name == "nnef-archive"
        assert_equal_states(dict(tk.open(location).items()), arrays())


def test_what_lacks_or_has_too_many_texts(model: Path) -> None:
    tensor = (model / "steps.dat").read_bytes()
    with pytest.raises(CorruptError, match=r"holds no graph\.nnef"):
        opened(members({"steps.dat": tensor}))
    two = members({"a/graph.nnef": TEXT.encode(), "b/graph.nnef": TEXT.encode()})
    with pytest.raises(CorruptError, match=r"holds 2 models: a/graph\.nnef, b/graph\.nnef"):
        opened(two)
    with opened(members({"graph.nnef": TEXT.encode(), "steps.dat": tensor})) as state:
        assert state["steps"].numpy().tolist() == [-3, 2**40]
        assert state.remarks["conv1/filter"] == "no data"
        with pytest.raises(MissingError, match="has no data"):
            state["conv1/filter"].numpy()


def test_members_of_an_archive_are_read_only(model: Path) -> None:
    folder = TarFolder(MemorySource(packed(model)))
    assert "graph.nnef" in list(folder.keys())
    with pytest.raises(MissingError, match="there is no member 'other'"):
        folder.get("other")
    fixed = pytest.raises(ArgumentError, match="is read here, not written")
    with fixed:
        folder.put("a", [])
    with fixed:
        folder.delete("a")
    with fixed:
        folder.commit()
    folder.rollback()


def test_saving_over_the_archive_that_is_open(tmp_path: Path) -> None:
    value = {"w": np.arange(100_000, dtype=np.float32), "b": np.ones(3, bool)}
    for name in ("state.nnef.tar", "state.nnef.tgz"):
        tk.save(value, tmp_path / name)
        with tk.open(tmp_path / name) as state:
            tk.save(state, tmp_path / name, metadata={"epoch": 1})
        assert_equal_states(tk.load(tmp_path / name, verify=True), value)
    assert not [name for name in os.listdir(tmp_path) if not name.startswith("state")]
