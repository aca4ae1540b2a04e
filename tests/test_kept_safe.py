"""Damage never gets a fresh checksum: what is converted or saved again is checked on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError
from tensorkeep.stores.file import FileStore

ARRAY = np.arange(1000.0)


def damaged(path: Path) -> Path:
    """Save a state and flip a bit of its only tensor."""
    tk.save({"w": ARRAY}, path)
    data = bytearray(path.read_bytes())
    at = data.index(np.float64(500).tobytes())
    data[at + 6] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("target", ["b.safetensors", "b.npz", "b.npy", "b.json"])
@pytest.mark.parametrize("source", ["a.safetensors", "a.npz"])
def test_damage_is_not_converted(source: str, target: str, tmp_path: Path) -> None:
    path = damaged(tmp_path / source)
    with pytest.raises(CorruptError, match="damaged"):
        tk.convert(path, tmp_path / target, lossy=True)
    with tk.open(path) as state, pytest.raises(CorruptError):
        tk.save(state, tmp_path / target, lossy=True)
    assert not (tmp_path / target).exists()


def test_an_index_deletes_only_shards_of_its_own(tmp_path: Path) -> None:
    tk.save({"w": np.ones(3)}, tmp_path / "model.safetensors", checksums=False)
    tk.save({"p": np.ones(3)}, tmp_path / "precious.safetensors", checksums=False)
    index = '{"weight_map": {"w": "model.safetensors", "p": "precious.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    tk.save({"w": np.zeros(3)}, tmp_path / "model.safetensors")
    assert tk.load(tmp_path / "model.safetensors")["w"].tolist() == [0, 0, 0]
    assert tk.load(tmp_path / "precious.safetensors")["p"].tolist() == [1, 1, 1]


def test_a_hub_cache_with_subfolders_opens(tmp_path: Path) -> None:
    blobs, unet = tmp_path / "blobs", tmp_path / "snapshots" / "rev" / "unet"
    blobs.mkdir()
    unet.mkdir(parents=True)
    tk.save({str(i): np.full(9, i) for i in range(3)}, blobs / "m.safetensors", max_shard_size=99)
    for file in list(blobs.iterdir()):
        (unet / file.name).symlink_to(f"../../../blobs/{file.name}")
    assert len(tk.load(unet / "m.safetensors.index.json")) == 3
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (unet / "m-00001-of-00003.safetensors").unlink()
    (blobs / "m-00001-of-00003.safetensors").rename(outside / "x.safetensors")
    (unet / "m-00001-of-00003.safetensors").symlink_to(outside / "x.safetensors")
    with pytest.raises(tk.TensorKeepError):
        tk.load(unet / "m.safetensors.index.json")


def test_threads_may_share_a_store(tmp_path: Path) -> None:

    store = FileStore(tmp_path)

    def save(number: int) -> None:
        tk.save({"n": number}, tk.Location(store, f"{number}.safetensors"), durable=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(60)))
    assert [tk.load(tmp_path / f"{n}.safetensors")["n"] for n in range(60)] == list(range(60))
