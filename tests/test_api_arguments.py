"""Calls that make no sense are answered with what would."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, testing

OLD: dict[str, Any] = {"w": np.arange(1000, dtype=np.float32), "n": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    tk.save(OLD, path, durable=False)
    return path


def is_old(path: Path) -> None:
    testing.assert_equal_states(tk.load(path, verify=True), OLD)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


load: Any = tk.load
save: Any = tk.save
open_: Any = tk.open
convert: Any = tk.convert

WRONG_ARGUMENTS: dict[str, Callable[[Path], Any]] = {
    "load nothing": lambda p: load(None),
    "load a number": lambda p: load(3),
    "load a list": lambda p: load([p]),
    "load a state": lambda p: load(OLD),
    "load an open file": lambda p: load(io.BytesIO(p.read_bytes())),
    "load an unknown store": lambda p: load("ftp://host/file"),
    "load an unknown format": lambda p: load(p, format="nonsense"),
    "load a format that is no text": lambda p: load(p, format=3),
    "load a list of formats": lambda p: load(p, format=["npz"]),
    "load with an unknown framework": lambda p: load(p, framework="theano"),
    "load with a list": lambda p: load(p, framework=["numpy"]),
    "load with a module": lambda p: load(p, framework=np),
    "load a number as names": lambda p: load(p, names=3),
    "load numbers as names": lambda p: load(p, names=[0]),
    "load bytes as names": lambda p: load(p, names=b"w"),
    "load onto a device": lambda p: load(p, device="cuda"),
    "load NumPy onto a device": lambda p: load(p, framework="numpy", device="cuda:0"),
    "load to an unknown type": lambda p: load(p, dtype="float99"),
    "load to integers": lambda p: load(p, dtype="int8"),
    "load to objects": lambda p: load(p, dtype=object),
    "load to a number": lambda p: load(p, dtype=16),
    "load to a broken type": lambda p: load(p, dtype="(2,"),
    "load with a progress bar": lambda p: load(p, progress=True, copy=True),
    "open nothing": lambda p: open_(None),
    "open an unknown format": lambda p: open_(p, format="zip"),
    "save nowhere": lambda p: save(OLD, None),
    "save to a number": lambda p: save(OLD, 3),
    "save the other way round": lambda p: save(str(p), OLD),
    "save to an unknown ending": lambda p: save(OLD, p.with_suffix(".xyz")),
    "save without an ending": lambda p: save(OLD, p.with_suffix("")),
    "save to an unknown format": lambda p: save(OLD, p, format="pickle"),
    "save to a format that is no text": lambda p: save(OLD, p, format=3),
    "save to an unknown store": lambda p: save(OLD, "ftp://bucket/state.safetensors"),
    "save with an unknown option": lambda p: save(OLD, p, compression=9),
    "save with a typo": lambda p: save(OLD, p, max_shard_sizes="5GB"),
    "save with a progress bar": lambda p: save(OLD, p, progress=True),
    "save metadata that is no mapping": lambda p: save(OLD, p, metadata=3),
    "align to 3": lambda p: save(OLD, p, align=3),
    "align to 0": lambda p: save(OLD, p, align=0),
    "align backwards": lambda p: save(OLD, p, align=-8),
    "align to text": lambda p: save(OLD, p, align="64"),
    "align to half a byte": lambda p: save(OLD, p, align=8.5),
    "align to nothing": lambda p: save(OLD, p, align=None),
    "align to a terabyte": lambda p: save(OLD, p, align=1 << 40),
    "align to all there is": lambda p: save(OLD, p, align=1 << 70),
    "shards of nothing": lambda p: save(OLD, p, max_shard_size=0),
    "shards of less": lambda p: save(OLD, p, max_shard_size=-5),
    "shards of zero bytes": lambda p: save(OLD, p, max_shard_size="0GB"),
    "shards of text": lambda p: save(OLD, p, max_shard_size="big"),
    "shards of unknown units": lambda p: save(OLD, p, max_shard_size="5 parsec"),
    "shards of a list": lambda p: save(OLD, p, max_shard_size=[5]),
    "shards of endless size": lambda p: save(OLD, p, max_shard_size="9" * 400 + "GB"),
    "convert nothing": lambda p: convert(None, p),
    "convert to nothing": lambda p: convert(p, None),
    "convert to an unknown ending": lambda p: convert(p, p.with_suffix(".xyz")),
    "convert with a typo": lambda p: convert(p, p, checksum=True),
    "convert a number of names": lambda p: convert(p, p, names=3),
}


@pytest.mark.parametrize("call", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_wrong_arguments(call: Callable[[Path], Any], path: Path) -> None:
    with pytest.raises((errors.ArgumentError, errors.UnsupportedError)) as caught:
        call(path)
    assert caught.value.problem
    is_old(path)


def test_wrong_arguments_have_a_cure(path: Path) -> None:
    without = []
    for name, call in WRONG_ARGUMENTS.items():
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call(path)
        if not getattr(caught.value, "cure", ""):
            without.append(name)
    assert without == []
