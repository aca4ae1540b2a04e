"""Every byte of a checkpoint: a flipped bit or a cut anywhere is found, and where it is is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.checkpoint import Checkpointer

NAME = "step-00000007"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of two parts, one of them in two shards with an index."""
    root = tmp_path_factory.mktemp("run")
    state = {
        "model": {"a": np.arange(5, dtype=np.int8), "b": np.ones(3, np.float32)},
        "optimizer": {"m": np.array(["a", "ü"], object)},
        "lr": 0.1,
    }
    with Checkpointer(root, durable=False, rng=False, max_shard_size=8) as ck:
        ck.save(7, state, metrics={"loss": 0.5}, metadata={"a": [1]})
    names = {path.name for path in (root / NAME).iterdir()}
    assert "model-00002-of-00002.safetensors" in names
    assert "model.safetensors.index.json" in names
    return root / NAME


FILES = [
    "MANIFEST.json",
    "state.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "optimizer",
]


def damages(folder: Path) -> str:
    """Say what verify finds; empty where it finds nothing."""
    try:
        found = tk.verify(folder, format="checkpoint")
    except errors.TensorKeepError as error:
        return str(error)
    return "" if found.ok else str(found.damaged)


@pytest.mark.parametrize("name", FILES)
def test_every_byte_counts(name: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / NAME
    shutil.copytree(folder, copy)
    for path in sorted(copy.glob(f"{name}*")):
        data = path.read_bytes()
        unseen, unnamed = [], []
        for at in range(len(data)):
            bad = bytearray(data)
            bad[at] ^= 1 << at % 8
            path.write_bytes(bad)
            told = damages(copy)
            if not told:
                unseen.append(at)
            elif path.name not in told:
                unnamed.append((at, told))
        assert unseen == [], f"{path.name}: flipped bits that nobody sees"
        assert unnamed == [], f"{path.name} is not named"
        for size in sorted({0, 1, 7, 8, 9, len(data) // 2, len(data) - 2, len(data) - 1}):
            path.write_bytes(data[:size])
            assert path.name in damages(copy), f"{path.name} cut to {size}"
        path.write_bytes(data + b"\0")
        assert path.name in damages(copy), f"{path.name} has become longer"
        path.unlink()
        assert path.name in damages(copy), "it is gone"
        path.write_bytes(data)
        assert damages(copy) == ""


def test_the_files_of_the_test_are_all(folder: Path) -> None:
    for path in folder.iterdir():
        assert any(path.name.startswith(name) for name in FILES)


def test_what_is_beside_is_no_damage(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / NAME
    shutil.copytree(folder, copy)
    (copy / "notes.txt").write_text("mine")
    (copy / ".hidden").write_text("")
    (copy / "sub").mkdir()
    (copy / "sub" / "model.safetensors").write_text("not one")
    (copy / "extra.safetensors").write_text("not one")
    assert tk.verify(copy).ok
    assert Checkpointer(tmp_path, read_only=True).restore() is not None


@pytest.mark.parametrize("suffix", ["", "/"])
def test_a_sound_one_is_sound(suffix: str, folder: Path) -> None:
    found = tk.verify(f"{folder}{suffix}")
    assert found.ok
    assert found.checked == found.tensors == 3
