"""Sharded checkpoints made into plain files: the same tensors, flat memory, damage found."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tests.distributed.partitions import partitions
from tests.distributed.sharding import CUTS, TREE, grid, matrices, save_sharded

import tensorkeep as tk
from tensorkeep.cli import main
from tensorkeep.distributed import consolidate
from tensorkeep.errors import ArgumentError, CorruptError, StoreError
from tensorkeep.formats.safetensors import streaming
from tensorkeep.formats.safetensors.manifest import read_manifest
from tensorkeep.formats.safetensors.sharded import ShardFile
from tensorkeep.store import Location
from tensorkeep.stores import locate
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states

ARRAYS = {**matrices(), "optimizer.m": np.arange(24.0).reshape(4, 6)}
TREE_OF_ALL: dict[str, Any] = {"tree": {**TREE["tree"], "optimizer": {"m": "$"}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cuts = {**CUTS, "optimizer.m": grid((4, 6), (2, 2))}
    save_sharded(tmp_path / "step-7", ARRAYS, cuts, skeleton=TREE_OF_ALL)
    return tmp_path / "step-00000007"


def model() -> dict[str, Any]:
    return {name.partition(".")[2]: array for name, array in matrices().items()}


def test_the_model_alone(folder: Path, tmp_path: Path) -> None:
    done = consolidate(folder, tmp_path / "out")
    assert done.left == ["optimizer"]
    assert done.tensors == len(model())
    assert_equal_states(load_file(tmp_path / "out" / "model.safetensors"), model())
    assert tk.verify(tmp_path / "out" / "model.safetensors").checked == len(model())


def test_shards_and_their_index(folder: Path, tmp_path: Path) -> None:
    consolidate(folder, tmp_path / "out", max_shard_size=700)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    found: dict[str, Any] = {}
    for file in set(index["weight_map"].values()):
        found |= load_file(tmp_path / "out" / file)
    assert_equal_states(found, model())


def test_everything(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    consolidate(
        folder, tmp_path / "a.safetensors", everything=True, progress=lambda *now: seen.append(now)
    )
    assert_equal_states(tk.load(tmp_path / "a.safetensors"), tk.load(folder))
    assert seen[-1][0] == seen[-1][1] == sum(array.nbytes for array in ARRAYS.values())
    store = MemoryStore()
    consolidate(folder, store, part="optimizer")
    consolidate(folder, Location(store, "x"), part="optimizer")
    assert store.data.keys() == {"optimizer.safetensors", "x/optimizer.safetensors"}
    assert_equal_states(
        tk.load(Location(store, "optimizer.safetensors")), {"m": ARRAYS["optimizer.m"]}
    )


def test_other_states_do_too(tmp_path: Path) -> None:
    tk.save({"model": {"w": np.ones(3)}, "step": 3}, tmp_path / "state.npz")
    consolidate(tmp_path / "state.npz", tmp_path / "out")
    assert_equal_states(load_file(tmp_path / "out" / "model.safetensors"), {"w": np.ones(3)})
    with pytest.raises(ArgumentError, match=r"no 'weights' in it\. It has model"):
        consolidate(tmp_path / "state.npz", tmp_path / "out", part="weights")
    with pytest.raises(StoreError):
        consolidate(tmp_path / "state.npz", tmp_path / "state.npz")


def test_no_checkpoint_is_written_into(tmp_path: Path) -> None:
    """Its own model.safetensors would be replaced, or its short name be taken by another folder."""
    with tk.Checkpointer(tmp_path, durable=False) as ck:
        ck.save(3, {"model": {"w": np.ones(3)}, "n": 4})
    folder = tmp_path / "step-00000003"
    for target in (
        folder,
        tmp_path / "step-3",
        folder / "model.safetensors",
        Location(FileStore(folder), "model.safetensors"),
    ):
        with pytest.raises(ArgumentError, match="is a checkpoint, which would no longer"):
            consolidate(folder, target)
    assert tk.verify(folder).ok
    assert len(list(tmp_path.glob("step-*"))) == 1
    consolidate(folder, tmp_path)
    assert_equal_states(load_file(tmp_path / "model.safetensors"), {"w": np.ones(3)})


@pytest.mark.parametrize("options", [{}, {"everything": True}])
def test_damage_stops_it(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    manifest = read_manifest(locate(folder))
    for piece in manifest.sharded["model.columns"].pieces:
        path = folder / piece.file
        good = path.read_bytes()
        bad = bytearray(good)
        bad[piece.stop - 3] ^= 16
        path.write_bytes(bad)
        with pytest.raises(CorruptError, match=rf"bytes {piece.start} to .* of {piece.file}"):
            consolidate(folder, tmp_path / "out", **options)
        assert not list((tmp_path / "out").iterdir())
        path.write_bytes(good)


@given(st.data())
@settings(max_examples=20)
def test_any_partition_is_checked_in_passing(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    kind = tk.dtypes.dtype(data.draw(st.sampled_from(["int16", "int4", "float64"])))
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind.numpy)
    size = data.draw(st.integers(1, 40))
    with tempfile.TemporaryDirectory() as folder:
        cuts = {"w": data.draw(partitions(shape))}
        save_sharded(f"{folder}/step-1", {"w": array}, cuts, ranks=2)
        with tk.open(f"{folder}/step-1") as state:
            (tensor,) = streamed_tensors(state)
            for _ in range(2):
                assert b"".join(tensor.pieces(size)) == bytes(tk.Tensor.of(array).read())


def streamed_tensors(state: tk.State) -> list[tk.Tensor]:
    return [tensor for _, tensor in streaming.streamed(state).items()]


def test_over_a_network_rows_are_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(64 * 64.0).reshape(64, 64)
    save_sharded(tmp_path / "step-1", {"w": array}, {"w": grid(array.shape, (2, 4))}, ranks=8)
    monkeypatch.setattr(ShardFile, "remote", property(lambda file: True))
    monkeypatch.setattr(streaming, "_BLOCK", 16 * 64 * 8)
    reads: list[int] = []
    read = ShardFile._read

    def counted(self: ShardFile, start: int, stop: int) -> memoryview:
        reads.append(stop - start)
        return read(self, start, stop)

    with tk.open(tmp_path / "step-1") as state:
        (tensor,) = streamed_tensors(state)
        monkeypatch.setattr(ShardFile, "_read", counted)
        assert b"".join(tensor.pieces(128)) == array.tobytes()
        assert reads == [16 * 16 * 8] * 16


def test_memory_is_flat(tmp_path: Path) -> None:
    array = np.zeros((4096, 4096), np.float32)
    save_sharded(tmp_path / "step-1", {"w": array}, {"w": grid(array.shape, (1, 4))})
    del array
    tracemalloc.start()
    try:
        consolidate(tmp_path / "step-1", tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str | Path) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["consolidate", *map(str, arguments)])
        assert not ended.value.code
        told = capsys.readouterr()
        return told.out, told.err

    out, err = run(folder, tmp_path / "out")
    assert "6 tensors" in out
    assert "left out: optimizer" in err
    assert_equal_states(load_file(tmp_path / "out" / "model.safetensors"), model())
    out, _ = run(folder, tmp_path / "b.safetensors", "--all", "--json")
    assert json.loads(out)["left"] == []
