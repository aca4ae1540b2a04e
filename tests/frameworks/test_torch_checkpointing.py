"""Meta's torch_checkpointing, saving and loading through our storage."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server

import tensorkeep as tk
from tensorkeep.errors import MissingError

pytestmark = pytest.mark.frameworks


def _storage() -> Any:
    from tensorkeep.distributed.torch_checkpointing import StorageConfig

    return StorageConfig().create_storage()


def _save_and_load(base: str) -> None:
    import torch
    import torch_checkpointing as engine
    from torch_checkpointing.builder import make_sync_checkpoint_saver
    from torch_checkpointing.checkpoint_layout import (
        JsonSerialization,
        LayoutInfo,
        SafetensorsSerialization,
    )

    from tensorkeep.distributed.torch_checkpointing import StorageConfig

    class Training(engine.CheckpointBase):  # type: ignore[misc]
        def __init__(self, weights: Any, moments: Any, step: int) -> None:
            self.values = {"model": weights, "optimizer": moments, "step": {"step": step}}

        def get_items(self) -> dict[str, Any]:
            layouts = {
                "model": LayoutInfo("model.safetensors", SafetensorsSerialization()),
                "optimizer": None,  # torch.save
                "step": LayoutInfo("step.json", JsonSerialization()),
            }
            return {
                name: engine.CheckpointItem(value, layout=layouts[name])
                for name, value in self.values.items()
            }

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.values = state_dict

    config = pickle.loads(pickle.dumps(StorageConfig()))  # as a process of its own gets it
    saver = make_sync_checkpoint_saver(storage_config=config)
    weights, moments = {"w": torch.randn(30, 40)}, {"m": torch.arange(1000.0)}
    saver.save(f"{base}/step-7", Training(weights, moments, 7))
    saver.close()
    rank = engine.RankInfo(global_world_size=1, global_rank=0, role_rank=0, role_world_size=1)
    reader = engine.CheckpointReader(rank_info=rank, storage_config=config)
    found = Training({"w": torch.zeros(30, 40)}, {"m": torch.zeros(1000)}, 0)
    engine.CheckpointLoader(reader=reader).load(f"{base}/step-7", found)
    assert torch.equal(found.values["model"]["w"], weights["w"])
    assert torch.equal(found.values["optimizer"]["m"], moments["m"])
    assert found.values["step"] == {"step": 7}
    storage = config.create_storage()
    assert storage.ls(Path(base)) == ["step-7"]
    model = Path(f"{base}/step-7/model.safetensors")
    assert storage.remap_path(model) == f"{base}/step-7/model.safetensors"
    assert storage.getsize(model) == len(storage.read(model)) > 4800
    assert list(tk.load(f"{base}/step-7/model.safetensors")) == ["w"]


def test_the_engine_on_a_disk(tmp_path: Path) -> None:
    _save_and_load(str(tmp_path))


def test_the_engine_on_a_bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    base = bucket.url("run")
    _save_and_load(base)
    storage = _storage()
    one, other = Path(f"{base}/step-7"), Path(f"{base}/step-8")
    storage.write(other / "note.json", b"{}")
    with pytest.raises(FileExistsError):
        storage.rename(one, other)
    storage.delete(other / "note.json")
    assert not storage.exists(other)
    storage.rename(one, other, is_directory=True)
    assert storage.ls(Path(base)) == ["step-8"]
    assert storage.isdir(other)
    storage.rmdir(other)
    assert not storage.exists(other)
    with pytest.raises(MissingError):
        storage.getsize(other / "note.json")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    storage, path = _storage(), tmp_path / "a.bin"
    storage.write(path, b"old")

    def stop() -> None:
        with storage.stream_write(path) as stream:
            stream.write(b"x" * (9 << 20))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        stop()
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert storage.read(path) == b"old"
    with storage.stream_write(path) as stream:
        for i in range(20):
            stream.write(bytes([i]) * (1 << 20))
    assert path.stat().st_size == 20 << 20
    with storage.stream_read(path) as stream:
        assert stream.seek(19 << 20) == 19 << 20
        assert stream.read(2) == b"\x13\x13"


def test_renaming_never_replaces_more_than_a_file(tmp_path: Path) -> None:
    storage = _storage()
    full, empty, file = tmp_path / "full", tmp_path / "empty", tmp_path / "file"
    for folder in (full, empty, tmp_path / "new"):
        storage.mkdir(folder)
    for path in (full / "x", tmp_path / "new" / "x", file):
        storage.write(path, path.name.encode())
    for source, target in ((tmp_path / "new", full), (tmp_path / "new", file), (file, empty)):
        with pytest.raises(OSError, match=r"Errno"):
            storage.rename(source, target)
    storage.rename(tmp_path / "new", empty)
    assert storage.ls(empty) == ["x"]
    storage.rename(file, full / "x")
    assert storage.read(full / "x") == b"file"
