"""Checkpoints that Orbax writes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingDependencyError,
    TensorKeepError,
    UnsafeError,
)
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore"),  # Orbax warns of what is to come
]


@pytest.fixture(scope="module")
def orbax(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.getLogger("absl").setLevel(logging.ERROR)
    return pytest.importorskip("orbax.checkpoint", reason="Orbax is not installed")


STATE: dict[str, Any] = {
    "params": {
        "dense": {
            "kernel": np.arange(1200, dtype=np.float32).reshape(40, 30),
            "bias": np.arange(3, dtype=np.int16),
        },
        "bf": np.ones(2, ml_dtypes.bfloat16),
        "c": np.array([1 + 2j]),
        "on": np.array([True, False]),
    },
    "step": 7,
    "rate": 0.5,
    "list": [np.ones(2), np.zeros((2, 3))],
    "none": None,
    "empty": {},
}
KINDS: dict[str, dict[str, bool]] = {
    "ocdbt": {},
    "folders": {"use_ocdbt": False},
    "ocdbt-zarr3": {"use_zarr3": True},
    "folders-zarr3": {"use_ocdbt": False, "use_zarr3": True},
}


@pytest.fixture(scope="module")
def saved(orbax: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("orbax")
    for name, options in KINDS.items():
        with orbax.Checkpointer(orbax.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(folder / name, STATE)
    return {name: folder / name for name in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_orbax_writes(kind: str, saved: dict[str, Path], orbax: Any) -> None:
    assert_equal_states(tk.load(saved[kind]), STATE)
    with tk.open(saved[kind]) as state:
        assert state.format == "orbax"
        assert state["params.dense.kernel"][3:5, ::7].tolist() == (
            STATE["params"]["dense"]["kernel"][3:5, ::7].tolist()
        )
        tensor = state["list.1"]
    with pytest.raises(TensorKeepError, match="closed"):
        tensor.numpy()


def test_tuples_and_jax_arrays(orbax: Any, jax: Any, tmp_path: Path) -> None:
    import jax.numpy as jnp

    state = {"t": (jnp.ones((2, 3)), jnp.arange(4)), "bf": jnp.ones(3, jnp.bfloat16)}
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", state)
        checkpointer.wait_until_finished()
    expected = {"t": [np.asarray(x) for x in state["t"]], "bf": np.asarray(state["bf"])}
    assert_equal_states(tk.load(tmp_path / "a"), expected)


def test_steps_of_a_manager(orbax: Any, tmp_path: Path) -> None:
    with orbax.CheckpointManager(tmp_path / "one") as manager:
        manager.save(3, args=orbax.args.StandardSave(STATE))
        manager.wait_until_finished()
    assert_equal_states(tk.load(tmp_path / "one/3"), STATE)
    assert_equal_states(tk.load(tmp_path / "one/3/default"), STATE)
    items = {"a": orbax.args.StandardSave(STATE), "b": orbax.args.StandardSave({"w": np.ones(2)})}
    with orbax.CheckpointManager(tmp_path / "two") as manager:
        manager.save(3, args=orbax.args.Composite(**items))
        manager.wait_until_finished()
    with pytest.raises(ArgumentError, match=r"a step of 2 items: a, b\. Open the folder of one"):
        tk.open(tmp_path / "two/3")
    assert_equal_states(tk.load(tmp_path / "two/3/b"), {"w": np.ones(2)})


def test_converting(saved: dict[str, Path], tmp_path: Path) -> None:
    tk.convert(saved["ocdbt"], tmp_path / "a.safetensors")
    assert_equal_states(tk.load(tmp_path / "a.safetensors", verify=True), STATE)


@pytest.mark.parametrize("kind", ["ocdbt", "folders"])
def test_damage(kind: str, saved: dict[str, Path], tmp_path: Path) -> None:
    files = [path for path in saved[kind].rglob("*") if path.is_file()]
    for i, path in enumerate(files):
        copy = tmp_path / str(i)
        shutil.copytree(saved[kind], copy)
        damaged = copy / path.relative_to(saved[kind])
        data = damaged.read_bytes()
        for changed in (b"", data[: len(data) // 2], bytes(len(data))):
            damaged.write_bytes(changed)
            try:
                tk.load(copy)
            except TensorKeepError:
                continue
        damaged.unlink()
        try:
            tk.load(copy)
        except TensorKeepError:
            continue


def _changed(source: Path, target: Path, change: Any) -> Path:
    shutil.copytree(source, target)
    document = json.loads((target / "_METADATA").read_text())
    change(document)
    (target / "_METADATA").write_text(json.dumps(document))
    return target


def test_metadata_that_lies(saved: dict[str, Path], tmp_path: Path) -> None:
    def renamed(key: str) -> Any:
        def change(document: dict[str, Any]) -> None:
            row = document["tree_metadata"]["('step',)"]
            row["key_metadata"] = [{"key": key, "key_type": 2}]

        return change

    cases: dict[str, tuple[Any, type[TensorKeepError], str]] = {
        "out": (renamed("../../secret"), UnsafeError, "names the array '../../secret'"),
        "root": (renamed("/etc"), UnsafeError, "names the array '/etc'"),
        "gone": (renamed("other"), CorruptError, "'other' cannot be read"),
        "within": (renamed("params"), CorruptError, "'params' cannot be read|lies within"),
        "rows": (lambda d: d.update(tree_metadata=[]), CorruptError, "lists no values"),
        "row": (lambda d: d.update(tree_metadata={"x": 1}), CorruptError, "describes a value by 1"),
    }
    for name, (change, kind, problem) in cases.items():
        path = _changed(saved["folders"], tmp_path / name, change)
        with pytest.raises(kind, match=problem):
            tk.load(path)


def test_links_that_lead_out(saved: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(saved["folders"], tmp_path / "a")
    shutil.move(tmp_path / "a/step", tmp_path / "step")
    (tmp_path / "a/step").symlink_to(tmp_path / "step")
    with pytest.raises(UnsafeError, match="outside its own folder"):
        tk.open(tmp_path / "a")


def test_arrays_that_are_not_there(saved: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(saved["folders"], tmp_path / "a")
    path = tmp_path / "a/params.dense.kernel/.zarray"
    document = json.loads(path.read_text()) | {"shape": [1 << 40], "chunks": [1 << 20]}
    path.write_text(json.dumps(document))
    with tk.open(tmp_path / "a") as state:
        assert state["params.dense.kernel"].shape == (1 << 40,)
    with pytest.raises(UnsafeError, match="Read slices of it"):
        tk.load(tmp_path / "a")


def test_without_tensorstore(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorstore", None)
    with pytest.raises(MissingDependencyError, match=r"tensorkeep\[orbax\]"):
        tk.open(saved["ocdbt"])


def test_other_stores_are_refused(saved: dict[str, Path]) -> None:
    data = {"_METADATA": (saved["ocdbt"] / "_METADATA").read_bytes()}
    with pytest.raises(TensorKeepError, match="from a folder of this machine only"):
        tk.open(Location(MemoryStore(data)))


def test_chunks_that_are_not_stored(saved: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a"
    shutil.copytree(saved["folders"], path)
    header = path / "params.dense.kernel" / ".zarray"
    document = json.loads(header.read_text())
    for shape, chunks, problem in (
        ([1 << 26], [1], "declares 67,108,864 chunks of 'params.dense.kernel'"),
        ([1 << 50], [1 << 50], "declares chunks of 4,503,599,627,370,496 bytes for"),
    ):
        header.write_text(json.dumps(document | {"shape": shape, "chunks": chunks}))
        with pytest.raises(UnsafeError, match=problem):
            tk.load(path)
