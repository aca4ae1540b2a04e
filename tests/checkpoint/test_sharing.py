"""What a checkpoint shares with the one before, and that sharing never makes it wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import syscalls, testing
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.errors import CorruptError
from tensorkeep.formats.safetensors.manifest import Manifest, read_manifest
from tensorkeep.stores import locate

BIG = 400_000  # float32 elements: more than is worth a shard of its own


def saver(folder: Path, **options: Any) -> Checkpointer:
    return Checkpointer(folder, durable=False, rng=False, **options)


def state(number: int) -> dict[str, Any]:
    """Make a state most of which never changes."""
    frozen = {f"f{i}": np.full(BIG, i, np.float32) for i in range(3)}
    moving = {"w": np.full(BIG // 3, number, np.float32), "b": np.full(3, number)}
    return {"model": {**frozen, **moving}, "optimizer": {"m": np.full(BIG // 9, number)}}


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:08}"


def inodes(root: Path, step: int) -> dict[int, str]:
    return {path.stat().st_ino: path.name for path in folder_of(root, step).glob("*.safetensors")}


def manifest(root: Path, step: int) -> Manifest:
    return read_manifest(locate(folder_of(root, step)))


def check(root: Path, step: int, expected: Any) -> None:
    """Check a checkpoint against what was saved, by a process that knows nothing."""
    assert tk.verify(folder_of(root, step)).ok
    testing.assert_equal_states(tk.load(folder_of(root, step), verify=True), expected)


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("background", [False, True])
def test_the_third_save_writes_only_what_changes(background: bool, tmp_path: Path) -> None:
    with saver(tmp_path, background=background) as ck:
        for step in (1, 2, 3, 4):
            given = state(step)
            saving = ck.save(step, given)
            for part in given.values():
                for array in part.values():
                    array[:] = -1
            saving.wait()
            check(tmp_path, step, state(step))
        assert saving.shared > 0.8 * saving.total
        assert saving.written < 0.2 * saving.total
    shared = set(inodes(tmp_path, 3)) & set(inodes(tmp_path, 4))
    assert len(shared) == 1
    for path in folder_of(tmp_path, 4).glob("*.safetensors"):
        assert path.stat().st_nlink == (3 if path.stat().st_ino in shared else 1)
    assert [manifest(tmp_path, step).parent for step in (1, 2)] == [None, "step-00000001"]


def test_deleting_the_parent_keeps_the_child(tmp_path: Path) -> None:
    with saver(tmp_path, keep="last=1") as ck:
        for step in (1, 2, 3, 4):
            ck.save(step, state(step))
    assert [row.step for row in tk.checkpoints(tmp_path)] == [4]
    check(tmp_path, 4, state(4))


@pytest.mark.parametrize("background", [False, True])
def test_a_filesystem_that_cannot_share(
    background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(syscalls, "clone", refuse)
    with saver(tmp_path, background=background) as ck:
        for step in (1, 2, 3, 4):
            given = state(step)
            saving = ck.save(step, given)
            given["model"]["f0"][:] = -1
            saving.wait()
            assert saving.shared == 0
            check(tmp_path, step, state(step))


def test_damage_is_not_copied_where_files_cannot_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk damages a file after it was last read: its copy must not count as sound."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(syscalls, "clone", refuse)
    with saver(tmp_path) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step))
        (name,) = {e.file for n, e in manifest(tmp_path, 3).tensors.items() if n == "model.f0"}
        flip(folder_of(tmp_path, 3) / name)
        try:
            ck.save(4, state(4))
        except tk.TensorKeepError:
            return
    loaded = tk.load(folder_of(tmp_path, 4))
    sound = tk.verify(folder_of(tmp_path, 4)).ok
    same = all(np.array_equal(loaded["model"][f"f{i}"], np.full(BIG, i)) for i in range(3))
    assert same or not sound, "damaged values passed for what was saved"


def test_damage_before_a_new_process_saves_is_not_shared(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step))
    shared = set(inodes(tmp_path, 2)) & set(inodes(tmp_path, 3))
    (name,) = (inodes(tmp_path, 3)[inode] for inode in shared)
    flip(folder_of(tmp_path, 3) / name)
    with saver(tmp_path) as ck:
        assert ck.save(4, state(4)).shared == 0
    check(tmp_path, 4, state(4))
    assert not tk.verify(folder_of(tmp_path, 3)).ok


def test_damage_that_restoring_meets_is_not_shared(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step))
        for path in folder_of(tmp_path, 3).glob("*.safetensors"):
            flip(path)
        with pytest.warns(RuntimeWarning, match="skipped"):
            found = ck.restore()
        assert found is not None
        assert found.step == 1  # the second shares a file with the third
        ck.save(4, state(4))
    check(tmp_path, 4, state(4))


def test_a_shared_file_that_is_gone_is_written_again(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step))
        for path in folder_of(tmp_path, 3).glob("*.safetensors"):
            path.unlink()
        ck.save(4, state(4))
    check(tmp_path, 4, state(4))


def test_what_restoring_has_read_is_shared_at_once(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for step in (1, 2):
            ck.save(step, state(step))
    with saver(tmp_path) as ck:
        assert ck.restore() is not None
        assert ck.save(3, state(3)).shared > 0
    check(tmp_path, 3, state(3))


def test_tensors_that_go_back_and_forth(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for step in range(8):
            given = state(step % 2)
            given["model"]["f1"][:] = step // 2 % 2
            given["optimizer"]["m"][0] = step // 4
            ck.save(step, given)
            check(tmp_path, step, given)


@pytest.mark.parametrize("change", ["dtype", "shape", "kind", "bits", "less", "more", "scalar"])
def test_changes_under_the_same_name(change: str, tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(0))
        given = state(0)
        model = given["model"]
        if change == "dtype":
            model["f0"] = model["f0"].view(np.int32)
        elif change == "shape":
            model["f0"] = model["f0"].reshape(2, -1)
        elif change == "kind":
            model["f0"] = model["f0"].tolist()[:3]
        elif change == "bits":
            model["f0"][-1] = -0.0
        elif change == "less":
            del model["f0"]
        elif change == "more":
            model["f9"] = np.ones(3)
        else:
            given["n"] = 3
        ck.save(4, given)
        check(tmp_path, 4, given)
        ck.save(5, given)
        check(tmp_path, 5, given)


def test_names_that_are_exchanged(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        given = state(0)
        for step in (1, 2, 3):
            ck.save(step, given)
        model = given["model"]
        model["f0"], model["f1"] = model["f1"], model["f0"]
        ck.save(4, given)
        check(tmp_path, 4, given)
        given = {"teacher": model, "student": state(1)["model"]}
        ck.save(5, given)
        check(tmp_path, 5, given)
        given["teacher"], given["student"] = given["student"], given["teacher"]
        ck.save(6, given)
        check(tmp_path, 6, given)


def test_parts_whose_names_differ_by_capitals_trade_places(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        one, other = state(1)["model"], state(2)["model"]
        ck.save(1, {"model": one, "Model": other})
        ck.save(2, {"Model": other, "model": one})
        check(tmp_path, 2, {"Model": other, "model": one})
        ck.save(3, {"Model": other})
        check(tmp_path, 3, {"Model": other})


@pytest.mark.parametrize("limit", [1, 2_000_000, "4MB"])
def test_shards_of_any_size_are_shared(limit: int | str, tmp_path: Path) -> None:
    with saver(tmp_path, max_shard_size=limit) as ck:
        for step in (1, 2, 3):
            saving = ck.save(step, state(step))
            check(tmp_path, step, state(step))
        assert saving.shared > 0.8 * saving.total
        index = folder_of(tmp_path, 3) / "model.safetensors.index.json"
        testing.assert_equal_states(dict(tk.load(index, verify=True)), state(3)["model"])


def test_overwriting_the_parent_with_its_child(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for number in (1, 2, 3):
            saving = ck.save(7, state(number), overwrite=True)
            check(tmp_path, 7, state(number))
        assert saving.shared > 0
    assert len(tk.checkpoints(tmp_path)) == 1


def test_the_size_that_is_shared_is_listed(tmp_path: Path) -> None:
    with saver(tmp_path) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step))
        first, second, third = ck.checkpoints()
    assert 0 < second.shared == third.shared < third.size
    assert first.size == pytest.approx(third.size, rel=0.01)


@pytest.mark.parametrize("asked", [None, 3])
def test_nothing_is_shared_with_what_could_not_be_restored(
    asked: int | None, tmp_path: Path
) -> None:
    with saver(tmp_path) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step))
        for step in (1, 2, 3):
            for inode, name in inodes(tmp_path, step).items():
                path = folder_of(tmp_path, step) / name
                if step < 3 or inode not in inodes(tmp_path, 2):  # what they share only once
                    flip(path)
        with pytest.raises(CorruptError):
            ck.restore(step=asked)
        ck.save(4, state(4))
    check(tmp_path, 4, state(4))
