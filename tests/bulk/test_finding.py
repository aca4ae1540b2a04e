from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.bulk import find, run
from tensorkeep.bulk.finding import means_many
from tensorkeep.bulk.verifying import verify
from tensorkeep.errors import MissingError

STATE = {"w": np.arange(3000.0), "b": np.ones(3000)}


def save(path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tk.save(STATE, path, durable=False, **options)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a folder of all kinds of states, and of much that is none."""
    tree = tmp_path / "tree"
    save(tree / "a.safetensors")
    save(tree / "deep" / "er" / "b.npz")
    save(tree / "deep" / "state.json")
    save(tree / "shards" / "model.safetensors", max_shard_size=30_000)
    save(tree / "arrays.zarr")
    save(tree / "nolabel.bin.npz")
    (tree / "nolabel.bin.npz").rename(tree / "nolabel")
    save(tree / ".hidden" / "c.npz")
    save(tree / ".d.npz")
    (tree / "config.json").write_text(json.dumps({"layers": 12}))
    (tree / "vocab.txt").write_text("the\nof\n")
    (tree / "__init__.py").touch()
    (tree / "empty.npz").touch()
    (tree / "cut.safetensors").write_bytes((tree / "a.safetensors").read_bytes()[:20])
    (tree / "gone.npz").symlink_to(tree / "nothing")
    (tree / "deep" / "around").symlink_to(tree)
    return tree


def test_all_that_is_opened_is_found_below_a_folder(tree: Path) -> None:
    items = find([tree])
    assert [item.name for item in items] == [
        *("a.safetensors", "arrays.zarr", "cut.safetensors", "deep/er/b.npz", "deep/state.json"),
        *("empty.npz", "nolabel", "shards/model.safetensors.index.json"),
    ]
    assert [item.where for item in items] == [str(tree / item.name) for item in items]
    assert items[0].size == (tree / "a.safetensors").stat().st_size
    shards = sum(path.stat().st_size for path in (tree / "shards").iterdir())
    assert items[-1].size == shards
    summary = run(verify, items)
    assert [outcome.item.name for outcome in summary.failures] == ["cut.safetensors", "empty.npz"]
    assert summary.counts["damaged"] == 2


def test_a_mark_changes_with_any_file_of_an_item(tree: Path) -> None:
    before = {item.name: item.mark for item in find([tree])}
    assert all(before.values())
    assert len(set(before.values())) == len(before)
    os.utime(next((tree / "shards").glob("*-00002-*")), ns=(5, 5))
    next(path for path in (tree / "arrays.zarr").rglob("*") if path.is_file()).touch()
    after = {item.name: item.mark for item in find([tree])}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"arrays.zarr", "shards/model.safetensors.index.json"}


def test_a_checkpoint_is_one_item_and_a_run_is_several(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    with tk.Checkpointer(run_folder) as checkpointer:
        for step in (100, 200):
            checkpointer.save(step, STATE)
    assert [item.name for item in find([tmp_path])] == [
        "run/step-00000100",
        "run/step-00000200",
    ]
    one = find([run_folder / "step-00000100"])
    assert [(item.where, item.name) for item in one] == [
        (str(run_folder / "step-00000100"), "step-00000100")
    ]
    assert not means_many(str(run_folder / "step-00000100"))
    assert means_many(str(run_folder))
    shutil.rmtree(run_folder / "step-00000200")
    assert run(verify, find([run_folder])).ok


def test_databases_are_items(tmp_path: Path) -> None:
    for name in ("w.lmdb", "w.sqlite", "w.minidb"):
        tk.save(STATE, tmp_path / name)
    items = find([tmp_path])
    assert [item.name for item in items] == ["w.lmdb", "w.minidb", "w.sqlite"]
    (named,) = find([f"sqlite://{tmp_path}/w.sqlite"])  # which is no address of an object
    assert run(verify, [named]).ok
    assert run(verify, items).ok


def test_globs(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert [item.where for item in find(["*.safetensors"])] == ["a.safetensors", "cut.safetensors"]
    assert [item.where for item in find(["**/*.npz"])] == ["deep/er/b.npz", "empty.npz"]
    assert [item.where for item in find(["deep", "deep/e*", "a.safetensors"])] == [
        *("deep/er/b.npz", "deep/state.json", "a.safetensors")
    ]
    with pytest.raises(MissingError, match="nothing matches"):
        find(["*.gguf"])
    save(tree / "[x].npz")
    assert [item.where for item in find(["[x].npz"])] == ["[x].npz"]


def test_what_stands_for_many(tree: Path) -> None:
    assert means_many(str(tree))
    assert means_many(str(tree / "*.npz"))
    assert means_many("s3://bucket/run/")
    (tree / "void").mkdir()
    for path in ("a.safetensors", "none.npz", "arrays.zarr", "shards", "void"):
        assert not means_many(str(tree / path)), path
    assert not means_many("s3://bucket/a.npz")


def test_what_is_not_there_fails_alone(tree: Path) -> None:
    summary = run(verify, find([tree / "none.npz", tree / "a.safetensors"]))
    assert [outcome.status for outcome in summary.outcomes] == ["failed", "done"]
    assert summary.outcomes[0].error["kind"] == "MissingError"


def test_parts_of_a_split_model_are_one_item(tmp_path: Path) -> None:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "x-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert [item.name for item in find([tmp_path])] == [
        *("m-00001-of-00002.gguf", "x-00002-of-00002.gguf")
    ]
    assert find([tmp_path])[0].size == 8


def test_an_index_that_makes_no_sense_hides_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    for text in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"w": 7, "v": "../x"}}'):
        index.write_text(text)
        assert [item.name for item in find([tmp_path])] == ["a.safetensors", index.name]
