"""Checkpoints whose manifest or state.json lies, and is sealed all the same."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.checkpoint.repair import repair
from tensorkeep.state import MAX_TENSORS
from tensorkeep.wire.seal import NO_DIGEST, SEAL, seal

SECRET = b"the content of a file outside"
Document = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint beside a sound one, and a file outside that nobody may read."""
    state = {"model": {"a": np.arange(4.0), "b": np.ones(3, np.int8)}, "n": 3, "l": [1]}
    with Checkpointer(tmp_path / "run", durable=False) as ck:
        ck.save(1, state)
        ck.save(7, state, metrics={"loss": 1.5})
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "run" / "step-00000007"


def write(folder: Path, text: str) -> None:
    path = folder / "MANIFEST.json"
    path.unlink()
    path.write_bytes(seal(text.encode("utf-8", "surrogatepass")))


def reseal(folder: Path, change: Callable[[Document], None]) -> None:
    document = json.loads((folder / "MANIFEST.json").read_text())
    change(document)
    document[SEAL] = NO_DIGEST
    write(folder, json.dumps(document))


def attack(folder: Path) -> None:
    """Have everything that reads a checkpoint read this one: errors of ours, soon, and no more."""
    root = folder.parent
    before = contents(root)
    began = time.process_time(), time.monotonic()
    for read in (tk.open, tk.load, tk.verify):
        with pytest.raises(errors.TensorKeepError) as caught:
            read(folder, format="checkpoint")
        assert SECRET.decode() not in str(caught.value)
    reader = Checkpointer(root, read_only=True)
    with pytest.raises(errors.TensorKeepError):
        reader.restore(step=7)
    with pytest.warns(RuntimeWarning, match="skipped"):
        found = reader.restore({"model": None, "n": 0, "l": None})
    assert found is not None
    assert found.step == 1
    assert [row.step for row in tk.checkpoints(root)] == [1, 7]
    assert contents(root) == before
    with Checkpointer(root, durable=False, keep="last=5") as ck:
        with pytest.warns(RuntimeWarning, match="skipped"):
            ck.restore()
        ck.save(8, {"n": 1})
    assert (root.parent / "secret").read_bytes() == SECRET
    assert time.process_time() - began[0] < 5
    assert time.monotonic() - began[1] < 60  # of a machine that may have other things to do


def contents(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_nlink)
    return found


def test_the_fixture_is_good_and_resealing_is_no_damage(folder: Path) -> None:
    reseal(folder, lambda document: None)
    assert tk.load(folder)["n"] == 3
    assert tk.verify(folder).ok


BAD_NAMES = ["../secret", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "\ud800", "x" * 5000, "\\x"]


@pytest.mark.parametrize("name", [*BAD_NAMES, "../step-00000001/model.safetensors", "CON\n"])
@pytest.mark.parametrize("ending", ["", ".safetensors"])
def test_names_of_files(name: str, ending: str, folder: Path) -> None:
    def change(document: Document) -> None:
        row = document["files"].pop("model.safetensors")
        document["files"][name + ending] = row
        for entry in document["tensors"].values():
            entry["file"] = name + ending

    reseal(folder, change)
    attack(folder)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_of_files_beside_the_others(name: str, folder: Path) -> None:
    def change(document: Document) -> None:
        size = len(SECRET) if name == "../secret" else 5
        digest = xxhash.xxh3_128_hexdigest(SECRET)
        document["files"] = {name: {"size": size, "xxh3_128": digest}, **document["files"]}

    reseal(folder, change)
    attack(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("what", ["outside", "other", "fifo", "folder", "device", "loop"])
def test_files_that_are_no_files_of_the_folder(name: str, what: str, folder: Path) -> None:
    path = folder / name
    outside = folder.parent.parent / f"copy of {name}"
    shutil.copy(path, outside)
    path.unlink()
    if what == "outside":
        path.symlink_to(outside)  # all of it as it should be, but for where it is
    elif what == "other":
        path.symlink_to(folder.parent.parent / "secret")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path)
    attack(folder)


@pytest.mark.parametrize("what", ["fifo", "folder", "device", "other", "empty"])
def test_a_manifest_that_is_no_file(what: str, folder: Path) -> None:
    path = folder / "MANIFEST.json"
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "other":
        path.symlink_to(folder.parent.parent / "secret")
    else:
        path.touch()
    attack(folder)


def put(*keys: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def drop(*keys: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


def overlap(document: Document) -> None:
    document["tensors"]["model.b"]["range"] = document["tensors"]["model.a"]["range"]


def repeat(document: Document) -> None:
    document["tensors"]["model.b"] = document["tensors"]["model.a"]


def more(document: Document) -> None:
    document["tensors"].update((f"t{i}", document["tensors"]["model.a"]) for i in range(200))


A = ("tensors", "model.a")
MODEL = ("files", "model.safetensors")
LIES: dict[str, Callable[[Document], None]] = {
    "a negative range": put(*A, "range", value=[-8, 24]),
    "a range backwards": put(*A, "range", value=[640, 8]),
    "a range too far": put(*A, "range", value=[0, 2**70]),
    "a range of floats": put(*A, "range", value=[0.0, 32.0]),
    "a range of bools": put(*A, "range", value=[False, True]),
    "no range": drop(*A, "range"),
    "overlapping": overlap,
    "the same twice": repeat,
    "another type of that size": put(*A, "dtype", value="int64"),
    "no type": put(*A, "dtype", value="float7"),
    "another shape of that size": put(*A, "shape", value=[2, 2]),
    "a huge shape": put(*A, "shape", value=[2**62, 2**62]),
    "a shape of a hundred thousand": put(*A, "shape", value=[1] * 100_000),
    "a negative shape": put(*A, "shape", value=[-4]),
    "another digest": put(*A, "xxh3_128", value="0" * 32),
    "no digest": put(*A, "xxh3_128", value=""),
    "a digest of text": put(*A, "xxh3_128", value="x" * 32),
    "a tensor of no file": put(*A, "file", value="nothing.safetensors"),
    "a tensor of state.json": put(*A, "file", value="state.json"),
    "a tensor that is not there": put(*A, "name", value="other"),
    "a tensor too many": put("tensors", "c", value={}),
    "two hundred too many": more,
    "a tensor too few": drop(*A),
    "no tensors": put("tensors", value={}),
    "a list of tensors": put("tensors", value=[]),
    "a size too large": put(*MODEL, "size", value=2**62),
    "a size too small": put(*MODEL, "size", value=1),
    "a negative size": put(*MODEL, "size", value=-1),
    "a size that is true": put(*MODEL, "size", value=True),
    "a file too few": drop("files", "model.safetensors"),
    "no files": put("files", value={}),
    "many files": put(
        "files", value={f"f{i}": {"size": 0, "xxh3_128": "0" * 32} for i in range(2000)}
    ),
    "a negative step": put("step", value=-7),
    "a huge step": put("step", value=10**400),
    "a step that is a text": put("step", value="7"),
    "a later version": put("version", value=3),
    "a time that never ends": put("time", value=10**400),
    "a time that is none": put("time", value=float("nan")),
    "a metric that is none": put("metrics", "loss", value=float("inf")),
    "a metric that is a list": put("metrics", "loss", value=[1]),
    "metadata that is a list": put("metadata", value=[]),
    "a parent that is a number": put("parent", value=3),
    "no seal at all": put("writer", value=f'"{SEAL}":"{NO_DIGEST}"' * 2),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(lie: str, folder: Path) -> None:
    if lie == "no seal at all":
        path = folder / "MANIFEST.json"
        path.write_text(path.read_text().replace(SEAL, "nothing"))
    else:
        reseal(folder, LIES[lie])
    attack(folder)


@pytest.mark.parametrize("name", ["..", "../step-00000001", "/", "step-00000007", "\0", "x" * 9999])
def test_the_parent_is_a_name_and_no_path(name: str, folder: Path) -> None:
    """What a checkpoint says of its parent is shown, and never gone after."""
    reseal(folder, put("parent", value=name))
    assert tk.load(folder)["n"] == 3
    with Checkpointer(folder.parent, durable=False) as ck:
        assert ck.restore() is not None
        ck.save(8, {"n": 4})
    assert tk.load(folder.parent / "step-00000008") == {"n": 4}


@pytest.mark.parametrize("what", ["fifo", "outside", "gone", "folder"])
def test_a_state_file_that_the_manifest_does_not_vouch_for(what: str, folder: Path) -> None:
    """It is not read: it may be anything, from anywhere, or a pipe that nobody ever writes to."""
    reseal(folder, drop("files", "state.json"))
    path = folder / "state.json"
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "outside":
        path.symlink_to(folder.parent.parent / "secret")
    elif what == "folder":
        path.mkdir()
    before = np.random.get_state(legacy=False)["state"]["key"].tolist()
    reader = Checkpointer(folder.parent, read_only=True)
    with contextlib.suppress(errors.TensorKeepError):
        reader.restore(step=7)
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before


def test_the_manifest_of_another_step(folder: Path) -> None:
    reseal(folder, put("step", value=8))
    with pytest.warns(RuntimeWarning, match="its manifest is that of step 8"):
        found = Checkpointer(folder.parent, read_only=True).restore()
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("what", ["gone", "fifo", "folder"])
def test_without_its_manifest_no_part_passes_for_the_whole(what: str, folder: Path) -> None:
    """The model alone, say, which lies in the folder as a file that other tools open too."""
    path = folder / "MANIFEST.json"
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    with pytest.raises(errors.TensorKeepError):
        tk.load(folder)


@pytest.mark.parametrize("what", ["read", "mended"])
def test_a_folder_of_data_that_is_a_link_is_not_followed(what: str, folder: Path) -> None:
    """As a checkpoint that was copied from a bucket has one, and repair would write in it."""
    outside = folder.parent.parent / "outside"
    outside.mkdir()
    for path in folder.iterdir():
        if path.name != "MANIFEST.json":
            path.rename(outside / path.name)
    (folder / "0123abcd").symlink_to(outside)
    reseal(folder, lambda document: document.update(version=2, data="0123abcd"))
    if what == "read":
        attack(folder)
        return
    state = outside / "state.json"
    state.write_bytes(SECRET)
    (found,) = repair(folder.parent)
    assert (found.repaired, state.read_bytes()) == (False, SECRET)
    assert "is a link" in found.problem


def sealed(body: str) -> str:
    return f'{{{body}, "{SEAL}": "{NO_DIGEST}"}}'


DOCUMENTS = {
    "no object": f'["{SEAL}"]',
    "deep": sealed('"version": 1, "metadata": ' + "[" * 100_000 + "]" * 100_000),
    "deep objects": sealed('"version": 1, "metadata": ' + '{"a":' * 90_000 + "1" + "}" * 90_000),
    "twice": sealed('"version": 1, "step": 7, "step": 7'),
    "two seals": sealed(f'"{SEAL}": "{NO_DIGEST}", "version": 1'),
    "digits": sealed('"version": 1, "step": ' + "9" * 100_000),
    "infinite": sealed('"version": 1, "time": Infinity'),
    "nothing in it": sealed('"version": 1'),
    "twenty thousand nothings": sealed('"a": [' + "[]," * 20_000 + "[]]"),
    "no text": "\0" * 1000,
    "surrogates": sealed('"version": 1, "step": "\ud800"'),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(name: str, folder: Path) -> None:
    write(folder, DOCUMENTS[name])
    attack(folder)


def test_more_files_than_any_has_are_refused_uncounted(folder: Path) -> None:
    reseal(folder, put("files", value=dict.fromkeys(map(str, range(200_001)), 0)))
    with pytest.raises(errors.CorruptError, match="the document is not what"):
        tk.open(folder)


def test_too_many_entries_are_refused_in_seconds(folder: Path) -> None:
    rows = ",".join(f'"{i}":{{}}' for i in range(MAX_TENSORS + 1))
    write(folder, sealed(f'"version": 1, "tensors": {{{rows}}}'))
    began = time.monotonic()
    with pytest.raises(errors.CorruptError):
        tk.open(folder)
    assert time.monotonic() - began < 20


def test_a_million_folders_cost_only_their_listing(folder: Path) -> None:
    for step in range(100, 400):
        (folder.parent / f"step-{step:08}").mkdir()
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="skipped"):
        found = Checkpointer(folder.parent, read_only=True).restore()
    assert found is not None
    assert found.step == 7
    assert time.monotonic() - began < 5
