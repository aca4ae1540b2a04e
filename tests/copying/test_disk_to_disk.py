"""Copies from disk to disk."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.copying.runs import (
    CutShort,
    cut_after,
    files_of,
    flip,
    leftovers,
    make_run,
    small_pieces,
)

import tensorkeep as tk
from tensorkeep.bulk import find
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, StoreError
from tensorkeep.formats.safetensors.manifest import read_manifest
from tensorkeep.hidden import PART
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    rng = np.random.default_rng(1)
    tk.save({"w": rng.standard_normal(200_000), "b": np.arange(5)}, path)
    return path


def test_file(weights: Path, tmp_path: Path) -> None:
    copied = tk.copy(weights, tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == weights.read_bytes()
    assert (copied.kind, copied.transferred, copied.skipped) == ("file", copied.size, 0)
    again = tk.copy(weights, tmp_path / "b.safetensors")
    assert (again.transferred, again.skipped) == (0, copied.size)
    assert leftovers(tmp_path) == []


def test_a_folder_takes_the_name_of_the_file(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert tk.copy(weights, tmp_path / "there").target == str(tmp_path / "there/a.safetensors")
    tk.copy(weights, f"{tmp_path}/new/")
    assert list(files_of(tmp_path / "new")) == ["a.safetensors"]
    with pytest.raises(MissingError, match="the folder to save in does not exist"):
        tk.copy(weights, tmp_path / "nowhere" / "b.safetensors")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["x.npz", "x.bin", "x.safetensors"])
def test_other_content_stays_unless_it_may_go(weights: Path, tmp_path: Path, name: str) -> None:
    source, target = tmp_path / f"source-{name}", tmp_path / name
    tk.save({"w": np.ones(3)}, source) if name != "x.bin" else source.write_bytes(b"12345")
    shutil.copy(source, target)
    flip(target, -1)
    before = target.read_bytes()
    with pytest.raises(ArgumentError, match=f"{name}: is there already, with other content"):
        tk.copy(source, target)
    assert target.read_bytes() == before
    assert tk.copy(source, target, verify=False).skipped == len(before)  # of the same size
    target.chmod(0o440)
    tk.copy(source, target, overwrite=True)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o440


def test_shards_go_with_their_index(tmp_path: Path) -> None:
    state = {"a": np.arange(50_000), "b": np.arange(50_000) + 1}
    tk.save(state, tmp_path / "m.safetensors", max_shard_size="400kB")
    copied = tk.copy(tmp_path / "m.safetensors", f"{tmp_path}/new/")
    assert len(copied.files) == 3
    assert files_of(tmp_path / "new") == {
        name: data for name, data in files_of(tmp_path).items() if "/" not in name
    }
    tk.copy(tmp_path / "m.safetensors", tmp_path / "new" / "other.safetensors")
    assert (tmp_path / "new/other.safetensors.index.json").exists()
    assert tk.verify(tmp_path / "new" / "other.safetensors").checked == 2


def test_a_model_goes_with_its_data(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1000])],
        [onnx.helper.make_tensor_value_info("y", 1, [1000])],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    model = onnx.helper.make_model(graph)
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "m.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="m.weights")
    (tmp_path / "model" / "other.txt").write_text("stays")
    tk.copy(path, f"{tmp_path}/new/")
    assert sorted(files_of(tmp_path / "new")) == ["m.onnx", "m.weights"]
    assert np.array_equal(tk.load(tmp_path / "new" / "m.onnx")["w"], values)


def test_a_checkpoint(run: Path, tmp_path: Path) -> None:
    tk.copy(run / "step-00000002", tmp_path / "one")
    assert files_of(tmp_path / "one") == files_of(run / "step-00000002")
    assert tk.verify(tmp_path / "one").unchecked == []
    make_run(tmp_path / "other", (1,))
    copied = tk.copy(run / "step-2", tmp_path / "other")
    assert copied.target.endswith("other/step-00000002")
    assert copied.shared > 400_000  # its frozen shard is one file with that of the first
    assert files_of(tmp_path / "other/step-00000002") == files_of(run / "step-00000002")


def test_a_run(run: Path, tmp_path: Path) -> None:
    (run / ".step-00000004.0123abcd.tensorkeep.tmp").mkdir()
    (run / "step-00000005").mkdir()
    (run / "step-00000005" / "state.json").write_text("{}")
    (run / "notes.txt").write_text("not a checkpoint")
    copied = tk.copy(run, tmp_path / "backup")
    assert copied.steps == ["step-00000001", "step-00000002", "step-00000003"]
    assert {p.name for p in (tmp_path / "backup").iterdir()} == set(copied.steps)
    frozen = [  # one file in all three, as it was
        path for path in (tmp_path / "backup").rglob("*.safetensors") if path.stat().st_nlink == 3
    ]
    assert len({path.stat().st_ino for path in frozen}) == 1
    assert copied.shared == 2 * frozen[0].stat().st_size
    assert tk.copy(run, tmp_path / "backup").skipped == copied.size
    with tk.Checkpointer(run, max_shard_size="400000") as ck:
        ck.save(4, {"model": {"w": np.ones(3)}})
    assert tk.copy(run, tmp_path / "backup").transferred < 100_000
    for step in tk.checkpoints(tmp_path / "backup"):
        assert tk.verify(step.path).ok
        assert step.ok
    found: dict[str, Any] = {"model": {"w": np.zeros(3)}}
    with tk.Checkpointer(tmp_path / "backup") as ck:
        ck.restore(found)
    assert np.array_equal(found["model"]["w"], np.ones(3))


def test_damage_at_the_source_is_found(run: Path, tmp_path: Path) -> None:
    step = run / "step-00000002"
    for path in step.iterdir():
        sound = path.read_bytes()
        for at in (0, len(sound) // 2, -1):
            flip(path, at)
            with pytest.raises(CorruptError) as error:
                tk.copy(step, tmp_path / "new")
            if at == -1 and path.suffix == ".safetensors":
                assert "the tensor 'model." in str(error.value)
            assert str(path) in str(error.value)
            path.write_bytes(sound)
        if path.suffix == ".safetensors":
            path.write_bytes(sound[:-1])
            with pytest.raises(CorruptError, match="bytes long"):
                tk.copy(step, tmp_path / "new")
            path.write_bytes(sound)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    tk.copy(step, tmp_path / "new")


def test_damage_of_a_file_is_found(weights: Path, tmp_path: Path) -> None:
    for at, told in ((30, "header"), (-1, "the tensor 'w' is damaged")):
        sound = weights.read_bytes()
        flip(weights, at)
        with pytest.raises(CorruptError, match=told):
            tk.copy(weights, tmp_path / "new.safetensors")
        tk.copy(weights, tmp_path / "as-it-is.safetensors", verify=False, overwrite=True)
        weights.write_bytes(sound)
    assert not (tmp_path / "new.safetensors").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("jobs", [1, 4])
def test_it_goes_on_where_it_was_cut_short(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    small_pieces(monkeypatch)
    step = run / "step-00000001"
    with pytest.raises(CutShort):
        tk.copy(step, tmp_path / "new", jobs=jobs, progress=cut_after(500_000))
    assert not (tmp_path / "new").exists()
    assert [name.endswith(PART) for name in leftovers(tmp_path)] == [True]
    copied = tk.copy(step, tmp_path / "new", jobs=jobs)
    assert copied.skipped >= 300_000
    assert copied.transferred + copied.skipped == copied.size
    assert files_of(tmp_path / "new") == files_of(step)
    assert leftovers(tmp_path) == []


def test_what_is_damaged_of_it_comes_again(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    for at in (10, 1000, -1):
        with pytest.raises(CutShort):
            tk.copy(weights, tmp_path / "b.safetensors", progress=cut_after(900_000))
        (part,) = tmp_path.glob(".*.part")
        flip(part, at)
        tk.copy(weights, tmp_path / "b.safetensors")
        assert (tmp_path / "b.safetensors").read_bytes() == weights.read_bytes()
        assert tk.copy(weights, tmp_path / "b.safetensors").transferred == 0
        (tmp_path / "b.safetensors").unlink()


def test_a_file_that_others_share_is_never_written_to(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    make_run(tmp_path / "other", (1,))
    before = files_of(tmp_path / "other")
    with pytest.raises(CutShort):
        tk.copy(run / "step-2", tmp_path / "other", jobs=1, progress=cut_after(600_000))
    (part,) = (tmp_path / "other").glob(".*.part")
    for path in part.glob("*.safetensors"):
        if path.stat().st_nlink == 1:
            path.unlink()
            os.link(tmp_path / "other/step-00000001/state.json", path)
    tk.copy(run / "step-2", tmp_path / "other")
    assert files_of(tmp_path / "other/step-00000002") == files_of(run / "step-00000002")
    after = files_of(tmp_path / "other")
    assert {name: after[name] for name in before} == before


def test_a_damaged_file_is_not_shared(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other", (1,))
    for path in (tmp_path / "other/step-00000001").glob("*.safetensors"):
        flip(path, -1)
    assert tk.copy(run / "step-2", tmp_path / "other").shared == 0
    assert tk.verify(tmp_path / "other/step-00000002").ok


def test_a_shared_file_is_on_the_disk(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "step-00000002", tmp_path / "to" / "step-00000002")  # which syncs nothing
    synced: set[int] = set()
    fsync = os.fsync

    def noting(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    assert tk.copy(run / "step-00000003", f"{tmp_path / 'to'}/").shared
    files = list((tmp_path / "to" / "step-00000003").iterdir())
    assert {file.stat().st_ino for file in files} <= synced
    assert any(file.stat().st_nlink > 1 for file in files)


def test_parts_of_other_content_go(weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.safetensors"
    with pytest.raises(CutShort):
        tk.copy(weights, target, progress=cut_after(1))
    assert len(leftovers(tmp_path)) == 1
    assert list(FileStore(tmp_path).keys()) == [weights.name]
    assert [item.name for item in find([tmp_path])] == [weights.name]
    tk.save({"w": np.ones(3)}, weights)
    tk.copy(weights, target)
    assert leftovers(tmp_path) == []
    assert target.read_bytes() == weights.read_bytes()


def test_saves_leave_parts_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    make_run(tmp_path / "other", (1,))
    with pytest.raises(CutShort):
        tk.copy(run / "step-2", tmp_path / "other", jobs=1, progress=cut_after(600_000))
    parts = leftovers(tmp_path / "other")
    assert len(parts) == 1
    make_run(tmp_path / "other", (9,))
    assert leftovers(tmp_path / "other") == parts
    assert tk.copy(run / "step-2", tmp_path / "other").skipped > 0


def test_two_copies_to_one_target(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    begun, done = threading.Event(), threading.Event()

    def wait(count: int, total: int) -> None:
        begun.set()
        done.wait(10)

    first = threading.Thread(
        target=tk.copy, args=(run, tmp_path / "new"), kwargs={"progress": wait}
    )
    first.start()
    begun.wait(10)
    assert tk.copy(run, tmp_path / "new").skipped == 0  # the part of the first is locked
    done.set()
    first.join()
    assert leftovers(tmp_path) == []
    assert files_of(tmp_path / "new").items() <= files_of(run).items()
    for step in (1, 2, 3):
        assert tk.verify(tmp_path / f"new/step-0000000{step}").ok


def test_another_one_was_faster(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other", (2,), 1000)
    done: list[Any] = []

    def interfere(count: int, total: int) -> None:
        if not done:
            done.append(shutil.copytree(tmp_path / "other/step-00000002", tmp_path / "new"))

    with pytest.raises(ArgumentError, match="new: is there already, with other content"):
        tk.copy(run / "step-2", tmp_path / "new", progress=interfere)
    assert files_of(tmp_path / "new") == files_of(tmp_path / "other/step-00000002")
    assert leftovers(tmp_path) == []
    tk.copy(run / "step-2", tmp_path / "new", overwrite=True)
    assert files_of(tmp_path / "new") == files_of(run / "step-00000002")
    assert leftovers(tmp_path) == []


def test_a_step_that_vanishes(run: Path, tmp_path: Path) -> None:
    def remove(done: int, total: int) -> None:
        shutil.rmtree(run / "step-00000003", ignore_errors=True)
        shutil.rmtree(run / "step-00000002", ignore_errors=True)

    shutil.copytree(run, tmp_path / "twin")
    copied = tk.copy(run, tmp_path / "new", progress=remove)
    assert copied.steps == ["step-00000001"]
    assert len(copied.notes) == 2
    assert "step-00000002" in copied.notes[0]

    def remove_own(done: int, total: int) -> None:
        shutil.rmtree(tmp_path / "twin/step-00000001", ignore_errors=True)

    with pytest.raises(MissingError):
        tk.copy(tmp_path / "twin/step-1", tmp_path / "one", jobs=1, progress=remove_own)
    assert not (tmp_path / "one").exists()


def test_a_file_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.npz"
    tk.save({"w": np.ones(100_000)}, source)

    def change(done: int, total: int) -> None:
        with open(source, "ab") as file:
            file.write(b"more")

    with pytest.raises(StoreError, match="changed while it was copied"):
        tk.copy(source, tmp_path / "b.npz", progress=change)
    assert not (tmp_path / "b.npz").exists()


def test_what_makes_no_sense(run: Path, weights: Path, tmp_path: Path) -> None:
    for source, target in ((run, run), (run, run / "sub"), (weights, weights), (weights, tmp_path)):
        with pytest.raises(ArgumentError, match="same, or one is in the other"):
            tk.copy(source, target)
    for jobs in (0, 65, True, "4"):
        with pytest.raises(ArgumentError, match="jobs cannot be"):
            tk.copy(weights, tmp_path / "b", jobs=jobs)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="neither"):
        tk.copy(weights, tk.Location(MemoryStore(), "a"))
    with pytest.raises(MissingError):
        tk.copy(tmp_path / "nothing", tmp_path / "b")
    (run / "step-00000002/MANIFEST.json").unlink()
    with pytest.raises(MissingError, match="whose saving never finished"):
        tk.copy(run / "step-00000002", tmp_path / "b")


def test_a_folder_is_not_replaced_with_what_else_is_in_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    shutil.copy(weights, inner)
    with pytest.raises(ArgumentError, match="one is in the other"):
        tk.copy(inner, tmp_path / "outer", overwrite=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").touch()
    with pytest.raises(ArgumentError, match="holds what the source has not, such as precious"):
        tk.copy(inner, tmp_path / "there", overwrite=True)
    assert (tmp_path / "there" / "precious").exists()
    assert (inner / weights.name).exists()
    monkeypatch.chdir(inner)
    assert tk.copy(".", "../../new/").target == "../../new/inner"
    with pytest.raises(StoreError, match="cannot be written: File exists"):
        tk.copy(weights.name, f"{weights}/")
    assert leftovers(tmp_path) == []


def test_a_file_is_shared_only_as_it_was_read(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other", (1,))
    for path in (tmp_path / "other/step-00000001").glob("*.safetensors"):
        flip(path, -1)
    shutil.rmtree(run / "step-00000001")
    last = run / "step-00000003/MANIFEST.json"
    manifest = read_manifest(tk.Location(FileStore(last.parent)))
    last.write_bytes(replace(manifest, parent="step-00000001").dump())
    copied = tk.copy(run, tmp_path / "other")
    assert copied.shared > 400_000  # with the second, which this copy has written
    assert tk.verify(tmp_path / "other/step-00000003").ok


def test_a_dry_run_writes_nothing(run: Path, weights: Path, tmp_path: Path) -> None:
    tk.copy(weights, f"{tmp_path}/new/", dry_run=True)
    copied = tk.copy(run, tmp_path / "new", dry_run=True)
    assert copied.transferred == copied.size > 0
    assert not (tmp_path / "new").exists()


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    tk.save({"w": np.ones(1000)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "sub").mkdir()
    (folder / "sub" / "words.txt").write_text("a b")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    copied = tk.copy(folder, tmp_path / "new")
    assert copied.kind == "folder"
    assert files_of(tmp_path / "new") == files_of(folder)
    assert not (tmp_path / "new/.git").exists()
    assert tk.copy(folder, tmp_path / "new").transferred == 0
    (folder / "config.json").write_text("[]")
    with pytest.raises(ArgumentError, match="other content"):
        tk.copy(folder, tmp_path / "new")
    tk.copy(folder, tmp_path / "new", overwrite=True)
    assert files_of(tmp_path / "new") == files_of(folder)
