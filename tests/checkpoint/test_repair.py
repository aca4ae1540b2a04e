"""What repair makes sound again, and what it says of the rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.checkpoint.disk import DiskFolder as Folder
from tensorkeep.checkpoint.repair import repair
from tensorkeep.checkpoint.retention import check
from tensorkeep.errors import MissingError, StoreError
from tensorkeep.formats.safetensors.manifest import MANIFEST, Manifest, read_manifest
from tensorkeep.stores import locate

STEPS = (100, 200, 300)


def _state(step: int) -> dict[str, Any]:
    return {
        "model": {
            "frozen": np.arange(300_000, dtype=np.float32),
            "w": np.full(100_000, step, np.float32),
            "a": np.full(7, step),
        },
        "optimizer": {"m": np.full(5, step, np.float64), "lr": 1 / step},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Give a run of three checkpoints, whose frozen shard is one file."""
    with tk.Checkpointer(tmp_path / "run", max_shard_size="300kB") as ck:
        for step in STEPS:
            ck.save(step, _state(step))
    return tmp_path / "run"


def _step(run: Path, step: int) -> Path:
    return run / f"step-{step:08}"


def _manifest(run: Path, step: int) -> Manifest:
    return read_manifest(locate(_step(run, step)))


def _file_of(run: Path, step: int, name: str) -> Path:
    return _step(run, step) / _manifest(run, step).tensors[name].file


def _damage(run: Path, step: int, name: str) -> None:
    entry = _manifest(run, step).tensors[name]
    with open(_step(run, step) / entry.file, "r+b") as file:
        file.seek(entry.start)
        byte = file.read(1)[0]
        file.seek(entry.start)
        file.write(bytes([byte ^ 1]))


def _bytes(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and ".tensorkeep" not in path.parts
    }


def test_sound_ones_stay_as_they_are(run: Path) -> None:
    before = _bytes(run)
    assert repair(run) == []
    assert repair(run, dry_run=True) == []
    assert _bytes(run) == before


@pytest.mark.parametrize("how", ["missing", "empty", "damaged", "a folder"])
@pytest.mark.parametrize("step", STEPS)
def test_an_index_is_rebuilt_to_the_byte(run: Path, step: int, how: str) -> None:
    before = _bytes(run)
    index = _step(run, step) / "model.safetensors.index.json"
    data = bytearray(index.read_bytes())
    index.unlink()
    if how == "empty":
        index.touch()
    elif how == "damaged":
        data[40] ^= 1
        index.write_bytes(data)
    elif how == "a folder":
        index.mkdir()
        (found,) = repair(run)
        assert not found.repaired
        assert "is a folder" in found.problem or "is no file" in found.problem
        return
    (found,) = repair(run, dry_run=True)
    assert (found.step, found.action) == (step, "rebuilt from the manifest")
    assert _bytes(run) != before
    (done,) = repair(run)
    assert done == found
    assert _bytes(run) == before
    assert tk.verify(_step(run, step)).ok
    assert tk.checkpoints(run)[STEPS.index(step)].verified > 0
    assert repair(run) == []


def test_an_index_over_a_shared_file_of_another_order_is_rebuilt(tmp_path: Path) -> None:
    run = tmp_path / "run"
    frozen = {name: np.arange(150_000, dtype=np.float32) for name in ("b", "a")}
    with tk.Checkpointer(run, max_shard_size="2MB") as ck:
        for step, names in ((1, "ba"), (2, "ba"), (3, "ab")):
            model = {name: frozen[name] for name in names} | {"w": np.full(9, step)}
            ck.save(step, {"model": model})
    index = _step(run, 3) / "model.safetensors.index.json"
    data = index.read_bytes()
    assert _file_of(run, 3, "model.a").stat().st_nlink > 1
    index.unlink()
    (found,) = repair(run)
    assert found.repaired
    assert index.read_bytes() == data


def test_state_json_that_another_one_has_too_is_taken_from_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with tk.Checkpointer(run, rng=False) as ck:
        for step in (1, 2):
            ck.save(step, {"w": np.full(3, step), "lr": 0.1})
    (_step(run, 1) / "state.json").unlink()
    (found,) = repair(run)
    assert found.repaired
    assert tk.load(_step(run, 1))["lr"] == 0.1


def test_a_shared_file_that_was_copied_is_linked_again(run: Path, tmp_path: Path) -> None:
    name = "model.frozen"
    shared = _file_of(run, 200, name)
    copy = tmp_path / "copy"
    shutil.copy(shared, copy)
    os.replace(copy, shared)
    before = _bytes(run)
    _damage(run, 200, name)
    (found,) = repair(run, dry_run=True)
    assert not tk.verify(_step(run, 200)).ok
    (done,) = repair(run)
    assert done == found
    assert done.action == f"replaced by the sound copy {_file_of(run, 100, name)}"
    assert "is damaged in bytes" in done.problem
    assert _bytes(run) == before
    assert shared.stat().st_ino == _file_of(run, 100, name).stat().st_ino


def test_a_truncated_and_a_missing_file_are_linked_again(run: Path, tmp_path: Path) -> None:
    before = _bytes(run)
    _file_of(run, 100, "model.frozen").unlink()
    shared = _file_of(run, 300, "model.frozen")
    shutil.copy(shared, tmp_path / "copy")
    os.truncate(tmp_path / "copy", 1000)
    os.replace(tmp_path / "copy", shared)
    assert [one.step for one in repair(run)] == [100, 300]
    assert _bytes(run) == before


def test_damage_in_a_file_that_all_share_is_beyond_repair(run: Path) -> None:
    _damage(run, 100, "model.frozen")
    before = _bytes(run)
    found = repair(run)
    assert [(one.step, one.lost, one.repaired) for one in found] == [
        (step, ["model.frozen"], False) for step in STEPS
    ]
    assert _bytes(run) == before


def test_a_damaged_tensor_is_named_and_the_rest_is_sound(run: Path) -> None:
    _damage(run, 200, "model.w")
    (found,) = repair(run)
    assert found.lost == ["model.w"]
    assert found.sound == ["model.frozen", "model.a", "optimizer.m"]
    assert "restore 200 --to FILE --names" in found.cure
    assert found.problem.endswith("; 1 of 4 tensors is lost")


def test_the_mark_of_a_damaged_one_goes(run: Path) -> None:
    assert check(Folder(run), 200)
    assert tk.checkpoints(run)[1].verified
    _damage(run, 200, "model.w")
    repair(run, dry_run=True)
    assert tk.checkpoints(run)[1].verified
    repair(run)
    assert not tk.checkpoints(run)[1].verified


def test_a_truncated_shard_leaves_the_others(run: Path, tmp_path: Path) -> None:
    os.truncate(_file_of(run, 200, "model.w"), 1000)
    (found,) = repair(run)
    assert "model.w" in found.lost
    assert "model.frozen" in found.sound
    assert "tensorkeep convert" in found.cure
    first = found.cure.split("convert ")[1].split()[0]
    tk.convert(first, tmp_path / "rescued.npz")


def test_a_lost_state_is_told(run: Path) -> None:
    (_step(run, 200) / "state.json").unlink()
    (found,) = repair(run)
    assert "the numbers, the text and the nesting are lost" in found.problem
    assert found.lost == []
    assert "tensorkeep convert" in found.cure


def test_a_lost_manifest_leaves_the_files(run: Path) -> None:
    manifest = _step(run, 200) / MANIFEST
    data = bytearray(manifest.read_bytes())
    data[200] ^= 1
    manifest.write_bytes(data)
    (found,) = repair(run)
    assert not found.repaired
    assert {"frozen", "w", "a", "m"} <= set(found.sound)
    manifest.unlink()
    (found,) = repair(run)
    assert "has no MANIFEST.json" in found.problem
    shutil.rmtree(_step(run, 200))
    _step(run, 200).mkdir()
    (found,) = repair(run)
    assert found.cure == "Remove it."


def test_leftovers_of_dead_writers(run: Path) -> None:
    left = run / ".step-00000400.deadbeef.tensorkeep.tmp"
    left.mkdir()
    aside = run / ".step-00000100.aside"
    _step(run, 100).rename(aside)
    assert [one.repaired for one in repair(run, dry_run=True)] == [True, True]
    assert left.exists()
    found = repair(run)
    assert {one.where for one in found} == {str(left), str(aside)}
    assert not left.exists()
    assert tk.verify(_step(run, 100)).ok


def test_the_lock_is_taken(run: Path) -> None:
    with tk.Checkpointer(run):
        with pytest.raises(StoreError, match="another Checkpointer"):
            repair(run)
        assert repair(run, dry_run=True) == []
    assert repair(run) == []


def test_no_such_folder_and_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        repair(tmp_path / "none")
    assert repair(tmp_path) == []
    assert not any(tmp_path.iterdir())


def test_progress(run: Path) -> None:
    calls: list[tuple[int, int]] = []
    repair(run, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0
