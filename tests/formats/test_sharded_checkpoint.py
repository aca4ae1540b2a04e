"""Checkpoints whose tensors lie in pieces: whole tensors, of which slices read what they touch."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.distributed.partitions import partitions
from tests.distributed.sharding import CUTS, TREE, grid, matrices, save_sharded

import tensorkeep as tk
from tensorkeep.errors import ClosedError, CorruptError
from tensorkeep.formats.safetensors import sharded
from tensorkeep.formats.safetensors.manifest import (
    MANIFEST,
    File,
    Manifest,
    Piece,
    Sharded,
    parse_manifest,
    read_manifest,
)
from tensorkeep.store import Location
from tensorkeep.stores import locate
from tensorkeep.stores.file import FileStore
from tensorkeep.testing import CountingStore, assert_equal_states

KINDS = ["float32", "float64", "bfloat16", "bool", "complex128", "int4", "float4_e2m1fn", "uint2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_sharded(tmp_path / "run" / "step-7", matrices(), CUTS, skeleton=TREE)
    return tmp_path / "run" / "step-00000007"


def test_pieces_are_whole_tensors(folder: Path) -> None:
    expected = {"model": {n.partition(".")[2]: a for n, a in matrices().items()}, "step": 3}
    several: list[dict[str, Any]] = [
        {},
        {"copy": True},
        {"verify": True},
        {"copy": True, "verify": True},
    ]
    for options in several:
        assert_equal_states(tk.load(folder, **options), expected)
    with tk.open(folder) as state:
        assert list(state) == list(matrices())
        assert state.remarks == dict.fromkeys(CUTS, "in 4 pieces")
        assert state["model.rows"].shape == (10, 6)
        assert set(state.digests) == matrices().keys() - CUTS.keys()
        assert state.format == "checkpoint"
    found = tk.verify(folder)
    assert (found.ok, found.tensors, found.checked, found.unchecked) == (True, 6, 6, [])
    assert tk.diff(folder, folder).equal


def test_converting(folder: Path, tmp_path: Path) -> None:
    tk.convert(folder, tmp_path / "whole.safetensors")
    assert tk.diff(tmp_path / "whole.safetensors", folder).equal
    assert_equal_states(tk.load(tmp_path / "whole.safetensors"), tk.load(folder))


@given(st.data())
@settings(max_examples=30)
def test_any_partition_and_any_slice(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    kind = tk.dtypes.dtype(data.draw(st.sampled_from(KINDS)))
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind.numpy)
    cuts = data.draw(partitions(shape))
    index: Any = tuple(
        data.draw(
            st.one_of(
                st.integers(-size, size - 1),
                st.slices(size),
            )
        )
        for size in shape[: data.draw(st.integers(0, len(shape)))]
    )
    with tempfile.TemporaryDirectory() as folder:
        save_sharded(f"{folder}/step-1", {"w": array}, {"w": cuts}, ranks=2)
        with tk.open(f"{folder}/step-1") as state:
            tensor = state["w"]
            assert tensor.dtype is kind
            assert tensor.read() == tk.Tensor.of(array).read()
            assert_equal_states(tensor[index], np.asarray(array[index]))
            start = data.draw(st.integers(0, array.size - 1))
            stop = data.draw(st.integers(start + 1, array.size))
            assert tensor.elements(start, stop).tolist() == array.ravel()[start:stop].tolist()
            start = data.draw(st.integers(0, tensor.nbytes))
            stop = data.draw(st.integers(start, tensor.nbytes))
            part = tensor.source.read(tensor.offset + start, tensor.offset + stop)
            assert part == tk.Tensor.of(array).read()[start:stop]
        assert_equal_states(tk.load(f"{folder}/step-1", verify=True), {"w": array})


def read_of(store: CountingStore) -> dict[str, int]:
    """Give the bytes that were read of each file."""
    found: dict[str, int] = {}
    for key, start, stop in store.ranges:
        found[key] = found.get(key, 0) + stop - start
    return found


def test_only_the_pieces_that_are_touched_are_read(tmp_path: Path) -> None:
    array = np.arange(64 * 4096, dtype=np.float32).reshape(64, 4096)
    save_sharded(tmp_path / "step-1", {"w": array}, {"w": grid(array.shape, (1, 8))}, ranks=8)
    store = CountingStore(FileStore(tmp_path / "step-00000001"))
    with tk.open(Location(store)) as state:
        assert read_of(store).keys() == {MANIFEST, "state.json"}
        tensor = state["w"]
        assert (tensor.shape, tensor.nbytes) == (array.shape, array.nbytes)
        assert read_of(store).keys() == {MANIFEST, "state.json"}
        assert (tensor[10:12, 600:610] == array[10:12, 600:610]).all()
        touched = "model-rank00001-00001.safetensors"
        assert read_of(store).keys() == {MANIFEST, "state.json", touched}
        head = read_of(store)[touched]
        assert head < 10_000
        assert (tensor[10:12, 600:610] == array[10:12, 600:610]).all()
        assert read_of(store)[touched] - head <= 2 * 512 * 4
        assert (tensor[5] == array[5]).all()
        assert len(read_of(store)) == 2 + 8


def test_verifying_reads_each_byte_once(tmp_path: Path) -> None:
    array = np.arange(64 * 4096, dtype=np.float32).reshape(64, 4096)
    arrays = {"columns": array, "rows": array + 1, "whole": array[0] + 2}
    cuts = {"columns": grid(array.shape, (1, 4)), "rows": grid(array.shape, (4, 1))}
    save_sharded(tmp_path / "step-1", arrays, cuts)
    store = CountingStore(FileStore(tmp_path / "step-00000001"))
    several: list[dict[str, Any]] = [{}, {"dtype": "float64"}]
    for options in several:
        store.ranges.clear()
        found = tk.load(Location(store), verify=True, **options)
        assert all((found[name] == arrays[name]).all() for name in arrays)
        read = sum(stop - start for _, start, stop in store.ranges)
        assert read < sum(each.nbytes for each in arrays.values()) + 50_000


def test_many_files_need_few_open_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "_MOST_OPEN", 16)
    array = np.arange(100, dtype=np.int16)
    save_sharded(tmp_path / "step-1", {"w": array}, {"w": grid((100,), (100,))}, ranks=100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, hard))
    try:
        for _ in range(2):
            assert_equal_states(tk.load(tmp_path / "step-1", verify=True), {"w": array})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_damage_in_any_piece_is_found_and_named(folder: Path) -> None:
    manifest = read_manifest(locate(folder))
    for name, tensor in manifest.sharded.items():
        for piece in tensor.pieces:
            path = folder / piece.file
            good = path.read_bytes()
            bad = bytearray(good)
            bad[piece.stop - 1] ^= 4
            path.write_bytes(bad)
            found = tk.verify(folder)
            assert [row[0] for row in found.damaged] == [name]
            assert f"of {piece.file}" in found.damaged[0][1]
            assert str(list(piece.offsets)) in found.damaged[0][1]
            with pytest.raises(CorruptError, match="is damaged"):
                tk.load(folder, verify=True)
            path.write_bytes(good)
    assert tk.verify(folder).ok


def test_damage_to_headers_and_lengths_is_found_once_they_are_read(folder: Path) -> None:
    path = folder / "model-rank00001-00001.safetensors"
    good = path.read_bytes()
    for at in (0, 9, 40, 300):
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bad)
        with tk.open(folder) as state, pytest.raises(CorruptError, match="header"):
            state["model.rows"].read()
    path.write_bytes(good + b"x")
    with tk.open(folder) as state, pytest.raises(CorruptError, match="were saved"):
        state["model.rows"].read()
    path.unlink()
    with tk.open(folder) as state:
        assert (state["model.rows"][:3] == matrices()["model.rows"][:3]).all()
        with pytest.raises(CorruptError, match="lists it"):
            state["model.rows"].read()
    assert not tk.verify(folder).ok


def test_files_of_another_save_are_refused(tmp_path: Path) -> None:
    arrays = {"w": np.arange(8.0)}
    cuts = {"w": grid((8,), (2,))}
    save_sharded(tmp_path / "step-1", arrays, cuts, ranks=2)
    save_sharded(tmp_path / "step-2", {"w": np.arange(8.0) + 1}, cuts, ranks=2)
    name = "model-rank00001-00001.safetensors"
    (tmp_path / "step-00000001" / name).write_bytes(
        (tmp_path / "step-00000002" / name).read_bytes()
    )
    with tk.open(tmp_path / "step-1") as state, pytest.raises(CorruptError, match="its header"):
        state["w"].read()


def test_nothing_is_read_once_the_state_is_closed(folder: Path) -> None:
    state = tk.open(folder)
    array = state["model.rows"].numpy()
    state.close()
    assert (array == matrices()["model.rows"]).all()
    with pytest.raises(ClosedError):
        state["model.columns"].read()


def test_every_file_opens_by_itself(folder: Path) -> None:
    from safetensors.numpy import load_file

    for path in folder.glob("*.safetensors"):
        held = load_file(path)
        with tk.open(path) as state:
            boxes = json.loads(str(state.metadata["tensorkeep.pieces"]))
        assert boxes.keys() == held.keys()
        for inner, box in boxes.items():
            whole = matrices()[box["name"]]
            assert list(whole.shape) == box["shape"]
            index = tuple(
                slice(o, o + s) for o, s in zip(box["offsets"], held[inner].shape, strict=True)
            )
            assert (held[inner] == whole[index]).all()


# --- the manifest -------------------------------------------------------------------------------


def manifest_of(array: np.ndarray[Any, Any], cuts: Any, **fields: Any) -> Manifest:
    pieces, files, at = [], {}, 64
    for number, (offsets, sizes) in enumerate(cuts):
        nbytes = int(np.prod(sizes)) * array.itemsize
        file = f"model-rank{number:05}-00001.safetensors"
        files[file] = File(at + nbytes, f"{number:032x}")
        name = "w" if number % 3 else "w~1"
        piece = Piece(file, name, at, at + nbytes, f"{number:032x}", offsets, sizes)
        pieces.append(piece)
    kind = tk.dtypes.of_numpy(array.dtype)
    sharded = {"w": Sharded(kind, array.shape, pieces, ["x", None])}
    files["state.json"] = File(2, "0" * 32)
    return Manifest(step=3, time=1.5, files=files, sharded=sharded, **fields)


@given(st.data())
@settings(max_examples=40)
def test_what_is_written_is_read(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), max_size=4)))
    array = np.zeros(shape, ml_dtypes.bfloat16)
    given_one = manifest_of(array, data.draw(partitions(shape, 12)))
    document = given_one.dump()
    assert json.loads(document)["version"] == 2
    found = parse_manifest(document, "it")
    assert list(found.sharded["w"].pieces) == list(given_one.sharded["w"].pieces)
    assert found.sharded["w"].pieces[-1:] == list(given_one.sharded["w"].pieces)[-1:]
    assert found.sharded["w"].sharding == ["x", None]
    assert found.names == ("w",)
    assert found.dump() == document


def test_the_order_of_all_tensors_survives(tmp_path: Path) -> None:
    arrays = {name: np.arange(4) for name in ("z", "b", "a", "y")}
    cuts = {name: grid((4,), (2,)) for name in ("b", "y")}
    save_sharded(tmp_path / "step-1", arrays, cuts)
    with tk.open(tmp_path / "step-1") as state:
        assert list(state) == ["z", "b", "a", "y"]
    manifest = read_manifest(locate(tmp_path / "step-00000001"))
    assert (list(manifest.tensors), list(manifest.sharded)) == (["z", "a"], ["b", "y"])


def test_whole_tensors_alone_make_a_checkpoint_of_the_first_version(tmp_path: Path) -> None:
    save_sharded(tmp_path / "step-1", {"a": np.ones(3), "b": np.zeros(2)}, {})
    assert json.loads((tmp_path / "step-00000001" / MANIFEST).read_text())["version"] == 1
    assert_equal_states(tk.load(tmp_path / "step-1"), {"a": np.ones(3), "b": np.zeros(2)})


def test_many_thousand_pieces_are_read_in_no_time(tmp_path: Path) -> None:
    array = np.zeros((5_000, 2), np.int8)
    document = manifest_of(array, grid(array.shape, (5_000, 1))).dump()
    found = parse_manifest(document, "it")
    assert len(found.sharded["w"].pieces) == 5_000
    assert found.sharded["w"].pieces[3_777].offsets == (3_777, 0)
