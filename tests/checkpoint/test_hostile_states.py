"""A state.json that lies about the nesting or the random generators, and is vouched for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.wire.seal import NO_DIGEST, SEAL, seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, and a sound one before it."""
    state = {"model": {"a": np.arange(4.0), "b": np.ones(3, np.int8)}, "n": 3, "l": [1]}
    with Checkpointer(tmp_path, durable=False) as ck:
        ck.save(1, state)
        ck.save(7, state)
    return tmp_path / "step-00000007"


def replace_state(folder: Path, text: str) -> None:
    """Put another state.json into a checkpoint, and have the manifest vouch for it."""
    data = text.encode()
    (folder / "state.json").unlink()
    (folder / "state.json").write_bytes(data)
    row = {"size": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    manifest = folder / "MANIFEST.json"
    document = json.loads(manifest.read_text())
    document["files"]["state.json"] = row
    document[SEAL] = NO_DIGEST
    manifest.write_bytes(seal(json.dumps(document).encode()))


TREES: dict[str, Any] = {
    "a tensor that is not there": {"x": "$:nothing"},
    "unknown": {"$code": ["os", "system", "true"]},
    "no integer": {"$int": "0x"},
    "a huge range": {"x": {"$set": [{"$range": [0, 10**300, 1]}] * 2}},
    "a list for a key": {"$dict": [[["a"], 1]]},
    "a named tuple of os": {"$namedtuple": ["os", "system", {"a": 1, "b b": 2}]},
    "a tensor as text": {"$torch": ["code", "x"]},
    "bytes that are none": {"$bytes": "?"},
    "a factory": {"$defaultdict": [], "factory": "eval"},
    "a set of lists": {"$set": [["a"]]},
    "a counter of text": {"$counter": [["a", "b"]]},
    "a framework": {"$array": "$:model.a", "framework": "os"},
}


@pytest.mark.parametrize("name", TREES)
def test_nestings(name: str, folder: Path) -> None:
    replace_state(folder, json.dumps({"version": 1, "tree": TREES[name], "rng": None}))
    attack_restore(folder)


def attack_restore(folder: Path) -> None:
    """Restore what can be opened, but not put together; the older one is restored instead."""
    reader = Checkpointer(folder.parent, read_only=True)
    began = time.monotonic()
    with pytest.raises(errors.TensorKeepError):
        tk.load(folder)
    with pytest.raises(errors.TensorKeepError):
        reader.restore(step=7)
    with pytest.warns(RuntimeWarning, match="skipped"):
        found = reader.restore()
    assert found is not None
    assert found.step == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"version": 2}', "{"),
        '{"version": 1, "tree": ' + "[" * 9000 + "]" * 9000 + "}",
        '{"version": 1, "tree": [' + "1," * 2_100_000 + "1]}",
    ],
    ids=["empty", "list", "later", "broken", "deep", "many"],
)
def test_state_files(text: str, folder: Path) -> None:
    replace_state(folder, text)
    attack_restore(folder)


GENERATORS: dict[str, Any] = {
    "a list": [1],
    "nothing": {},
    "a text": "x",
    "no words": {"python": {"version": 3, "words": "", "gauss": None}},
    "numbers": {"python": 3, "numpy": 4},
}


@pytest.mark.parametrize("name", GENERATORS)
def test_states_of_the_generators(name: str, folder: Path) -> None:
    replace_state(folder, json.dumps({"version": 1, "tree": {"n": 3}, "rng": GENERATORS[name]}))
    before = np.random.get_state(legacy=False)["state"]["key"].tolist()
    with pytest.raises(errors.CorruptError, match="random generators"):
        Checkpointer(folder.parent, read_only=True).restore(step=7)
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before


@pytest.mark.parametrize("pos", [-1, 625, 10**6, 2**31 - 1, 10**30, "1", None, True, 1.5])
def test_a_position_outside_the_generator_reads_no_memory(pos: Any, folder: Path) -> None:
    document = json.loads((folder / "state.json").read_text())
    document["rng"]["numpy"]["pos"] = pos
    replace_state(folder, json.dumps(document))
    with pytest.raises(errors.CorruptError, match="random generators"):
        Checkpointer(folder.parent, read_only=True).restore(step=7)
    assert 0 <= np.random.get_state(legacy=False)["state"]["pos"] <= 624


@pytest.mark.parametrize("gauss", ["x", [1], True])
def test_a_generator_gives_no_text(gauss: Any, folder: Path) -> None:
    document = json.loads((folder / "state.json").read_text())
    document["rng"]["python"]["gauss"] = gauss
    replace_state(folder, json.dumps(document))
    with pytest.raises(errors.CorruptError, match="random generators"):
        Checkpointer(folder.parent, read_only=True).restore(step=7)
