"""A model saved over itself or beside others: which data files stay, which go, none overwritten."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.formats import FORMATS
from tensorkeep.store import Location
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing.faults import check_failing_saves

SIZE = 1000


def write(path: Path, value: float, **options: Any) -> None:
    """Save a model of one large tensor over what is at a path, if anything is."""
    array = numpy_helper.from_array(np.full(SIZE, value, np.float32), "w")
    proto = helper.make_model(helper.make_graph([], "g", [], [], [array]))
    source = Location(MemoryStore({"m.onnx": proto.SerializeToString()}), "m.onnx")
    with tk.open(source) as state:
        tk.save(state, path, **options)


def value_of(path: Path) -> float:
    """Read it, also with `onnx`."""
    found = tk.load(path)["w"]
    assert (found == found[0]).all()
    (theirs,) = onnx.load(path).graph.initializer
    assert numpy_helper.to_array(theirs).tolist() == found.tolist()
    return float(found[0])


def names(folder: Path) -> list[str]:
    """Give the names in a folder, with the marks of data files as `#`."""
    return sorted(re.sub(r"\.[0-9a-f]{8}\.", ".#.", file.name) for file in folder.iterdir())


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("external", [True, "m.onnx.safetensors"])
def test_data_files_are_replaced(tmp_path: Path, external: Any, per_tensor: bool) -> None:
    path = tmp_path / "m.onnx"
    seen = []
    for value in range(5):
        write(path, value, external=external, per_tensor=per_tensor)
        assert value_of(path) == value
        seen.append(names(tmp_path))
    assert all(len(found) == 2 for found in seen)
    assert seen[0] == seen[2] != seen[1] == seen[3]


@pytest.mark.parametrize("per_tensor", [False, True])
def test_a_file_of_a_name_that_was_given_is_never_removed(tmp_path: Path, per_tensor: bool) -> None:
    """Another model may use it as well; those that took its place are the model's alone."""
    path = tmp_path / "m.onnx"
    first = "w.1.data" if per_tensor else "w.data"
    for value in range(5):
        write(path, value, external="w.data", per_tensor=per_tensor)
        assert value_of(path) == value
        if value == 0:
            shutil.copy(path, tmp_path / "other.onnx")
        assert value_of(tmp_path / "other.onnx") == 0
    assert names(tmp_path) == ["m.onnx", "other.onnx", first.replace("data", "#.data"), first]


def test_into_the_model_and_out_again(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write(path, 1, external=True)
    with tk.open(path) as state:
        tk.save(state, path, external=False)
    assert names(tmp_path) == ["m.onnx"]
    assert value_of(path) == 1
    with tk.open(path) as state:
        tk.save(state, path, external=True)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert value_of(path) == 1


def test_in_its_own_place_the_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write(path, 1, external=True)
    before = os.stat(tmp_path / "m.onnx.data")
    with tk.open(path) as state:
        tk.save(state, path, metadata={"note": "changed"})
    after = os.stat(tmp_path / "m.onnx.data")
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert value_of(path) == 1
    with tk.open(path) as state:
        assert state.metadata == {"note": "changed"}


def test_elsewhere_the_files_do_not_come_along(tmp_path: Path) -> None:
    """Nor beside it under another name, since the file is the first model's to replace."""
    path = tmp_path / "m.onnx"
    (tmp_path / "elsewhere").mkdir()
    write(path, 1, external=True)
    for other in (tmp_path / "elsewhere" / "m.onnx", tmp_path / "n.onnx"):
        with tk.open(path) as state:
            tk.save(state, other)
    write(path, 2, external=True)
    assert value_of(tmp_path / "n.onnx") == value_of(tmp_path / "elsewhere" / "m.onnx") == 1
    assert names(tmp_path / "elsewhere") == ["m.onnx"]


def test_a_changed_file_is_not_taken_for_the_one_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write(path, 1, external=True)
    with tk.open(path) as state:
        expected = state["w"].numpy().tolist()
        fresh = tmp_path / "fresh"
        np.full(SIZE, 9, np.float32).tofile(fresh)
        fresh.rename(tmp_path / "m.onnx.data")  # another program replaces it meanwhile
        tk.save(state, path)
    assert tk.load(path)["w"].tolist() == expected


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "a.onnx", 1, external="weights.bin")
    (tmp_path / "notes").write_text("mine")
    for name in ("weights.bin", "notes", "a.onnx"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ArgumentError, match="is there already, and is not this model's"):
            write(tmp_path / "b.onnx", 2, external=name)
        assert (tmp_path / name).read_bytes() == before
    assert names(tmp_path) == ["a.onnx", "notes", "weights.bin"]


def test_a_file_that_happens_to_have_the_usual_name_stays(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.data").write_text("of an export that was broken off")
    write(tmp_path / "m.onnx", 1, external=True)
    assert value_of(tmp_path / "m.onnx") == 1
    assert names(tmp_path) == ["m.onnx", "m.onnx.#.data", "m.onnx.data"]
    assert (tmp_path / "m.onnx.data").read_text().startswith("of an export")


def test_a_hostile_model_names_no_files_to_remove(tmp_path: Path) -> None:
    """What is replaced says which files it had; only those called like it are removed."""
    (tmp_path / "precious.data").write_bytes(bytes(4))
    (tmp_path / "m.onnx.notes").write_bytes(bytes(4))
    (tmp_path / "other.onnx.data").write_bytes(bytes(4))
    outside = tmp_path.with_name("outside.data")
    outside.write_bytes(bytes(4))
    tensors = []
    for name in ("precious.data", "m.onnx.notes", "other.onnx.data", "../outside.data", "."):
        proto = TensorProto(name=name, data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        proto.external_data.add(key="location", value=name)
        tensors.append(proto)
    hostile = helper.make_model(helper.make_graph([], "g", [], [], tensors))
    (tmp_path / "m.onnx").write_bytes(hostile.SerializeToString())
    write(tmp_path / "m.onnx", 1)
    assert value_of(tmp_path / "m.onnx") == 1
    assert names(tmp_path) == ["m.onnx", "m.onnx.notes", "other.onnx.data", "precious.data"]
    assert outside.exists()


def test_a_model_that_is_its_own_data_file(tmp_path: Path) -> None:
    """Some of its bytes are taken as a tensor; once it is replaced they are no longer there."""
    proto = TensorProto(name="w", data_type=2, dims=[10], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value="m.onnx")
    data = helper.make_model(helper.make_graph([], "g", [], [], [proto])).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with tk.open(path) as state:
        tk.save(state, path)
    assert bytes(tk.load(path)["w"]) == data[:10]
    assert not onnx.load(path, load_external_data=False).graph.initializer[0].external_data


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "m.onnx", 1, external=True)
    finally:
        os.umask(before)
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask, file


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path) -> None:
    folders = iter(range(10**6))

    def make_store() -> FileStore:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        return FileStore(folder)

    old = {"a": np.zeros(600, np.float32), "b": np.ones(700, np.int16)}
    new = {"a": np.ones(900, np.float32), "c": np.ones(2000, np.int8)}
    for options in ({"external": True}, {"external": True, "per_tensor": True}):
        assert check_failing_saves(FORMATS["onnx"], old, new, make_store, **options) > 3


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="missing: the folder to save in does not exist"):
        write(tmp_path / "m.onnx", 1, external="missing/w.data")
    assert list(tmp_path.iterdir()) == []


def test_lists_of_values_move_out_too(tmp_path: Path) -> None:
    """Also those that are not as they lie in a file: float16 in int32_data."""
    values = np.arange(2000).astype(np.float16)
    proto = helper.make_tensor("w", TensorProto.FLOAT16, [2000], values)
    assert len(proto.int32_data) == 2000
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [proto])), tmp_path / "l.onnx")
    tk.convert(tmp_path / "l.onnx", tmp_path / "m.onnx", external=True)
    (found,) = onnx.load(tmp_path / "m.onnx").graph.initializer
    assert numpy_helper.to_array(found).tolist() == values.tolist()
