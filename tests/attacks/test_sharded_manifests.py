"""Manifests of sharded checkpoints that lie about pieces, and are sealed all the same."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.distributed.sharding import grid, save_sharded

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.formats.safetensors.manifest import MANIFEST, parse_manifest
from tensorkeep.wire.chunks import overlap
from tensorkeep.wire.seal import NO_DIGEST, SEAL, seal

Document = dict[str, Any]
HUGE = 2**62


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arrays = {"w": np.arange(64.0).reshape(8, 8), "v": np.arange(6), "s": np.ones(2)}
    cuts = {"w": grid((8, 8), (2, 2)), "v": grid((6,), (2,))}
    save_sharded(tmp_path / "run" / "step-7", arrays, cuts)
    (tmp_path / "secret").write_bytes(b"the content of a file outside")
    return tmp_path / "run" / "step-00000007"


def reseal(folder: Path, change: Callable[[Document], None]) -> bytes:
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    document[SEAL] = NO_DIGEST
    data = seal(json.dumps(document).encode())
    (folder / MANIFEST).write_bytes(data)
    return data


def put(*path: Any, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        node: Any = document
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def both(*changes: Callable[[Document], None]) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for each in changes:
            each(document)

    return change


def column(name: str, value: Any, at: int = 0) -> Callable[[Document], None]:
    return put("pieces", name, at, value=value)


LIES: dict[str, tuple[Callable[[Document], None], str]] = {
    "no table": (lambda d: d.pop("pieces"), "table of pieces is missing"),
    "a table that is a list": (put("pieces", value=[]), "table of pieces is missing"),
    "no digests": (lambda d: d["pieces"].pop("xxh3_128"), "not 32 hex digits"),
    "half a digest": (put("pieces", "xxh3_128", value="0" * 100), "not 32 hex digits"),
    "digests that are none": (put("pieces", "xxh3_128", value="x" * 192), "not 32 hex digits"),
    "a column too short": (lambda d: d["pieces"]["starts"].pop(), "'starts' are not 6 integers"),
    "a column of text": (column("sizes", "4"), "'sizes' are not"),
    "a column of fractions": (column("sizes", 4.0), "'sizes' are not"),
    "a column of nulls": (column("files", None), "'files' are not"),
    "a column of lists": (column("files", [1]), "'files' are not"),
    "a number too large": (column("starts", 2**63), "'starts' are not"),
    "a number far too large": (column("starts", 10**400), "'starts' are not"),
    "a column of lists alone": (put("pieces", "files", value=[[0]] * 6), "'files' are not"),
    "a file that is none": (column("files", 99), "'files' are out of range"),
    "a file below zero": (column("files", -1), "'files' are out of range"),
    "a start below zero": (column("starts", -8), "lies outside of its file"),
    "a start behind the end": (column("starts", HUGE), "lies outside of its file"),
    "a box that is too large": (column("sizes", 9), "piece of 'w' lies outside of it"),
    "a box of nothing": (column("sizes", 0), "piece of 'w' lies outside of it"),
    "a box below zero": (column("sizes", -4), "piece of 'w' lies outside of it"),
    "a box far outside": (column("offsets", HUGE, 2), "piece of 'w' lies outside of it"),
    "a box before it": (column("offsets", -1), "piece of 'w' lies outside of it"),
    "a box twice": (column("offsets", 0, 3), "pieces of 'w' overlap"),
    "boxes that overlap": (both(column("offsets", 3, 3)), "pieces of 'w' overlap"),
    "boxes with a hole": (column("sizes", 3), "8 elements of 'w' are in no piece|4 elements"),
    "a hole in another": (column("sizes", 2, 8), "1 elements of 'v' are in no piece"),
    "no pieces": (put("tensors", "w", "pieces", value=0), "of the pieces of 'w' makes no sense"),
    "pieces that are a text": (put("tensors", "w", "pieces", value="4"), "makes no sense"),
    "more pieces than listed": (put("tensors", "w", "pieces", value=5), "not 32 hex digits"),
    "a million million pieces": (put("tensors", "w", "pieces", value=10**12), "makes no sense"),
    "another shape": (put("tensors", "w", "shape", value=[8, 9]), "8 elements of 'w'"),
    "fewer axes": (put("tensors", "w", "shape", value=[64]), "'offsets' are not"),
    "no elements": (put("tensors", "w", "shape", value=[0, 8]), "makes no sense"),
    "a shape without end": (put("tensors", "w", "shape", value=[HUGE, HUGE]), "makes no sense"),
    "a huge shape": (put("tensors", "w", "shape", value=[2**30, 2**28]), "are in no piece"),
    "text in pieces": (put("tensors", "w", "dtype", value="string"), "makes no sense"),
    "a type that is none": (put("tensors", "w", "dtype", value="float99"), "makes no sense"),
    "no name": (lambda d: d["tensors"]["w"].pop("name"), "makes no sense"),
    "a sharding that is none": (put("tensors", "w", "sharding", value=3), "no sharding 3"),
    "a sharding below zero": (put("tensors", "w", "sharding", value=-1), "makes no sense"),
    "shardings that are none": (put("shardings", value={}), "shardings are no list"),
    "names that are numbers": (put("pieces", "names", value=[3]), "no list of text"),
    "names of nothing": (put("pieces", "names", value=["a"]), "'named' are not"),
    "a name outside": (put("tensors", "../w", value={"pieces": 1}), "makes no sense"),
    "a file outside": (put("files", "../../secret", value={"size": 29}), "not what a checkpoint"),
    "a folder outside": (put("data", value=".."), "the folder '..'"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(folder: Path, lie: str) -> None:
    change, told = LIES[lie]
    reseal(folder, change)
    began = time.monotonic()
    for read in (tk.open, tk.load, tk.verify):
        with pytest.raises(CorruptError, match=told):
            read(folder)
    assert not tk.checkpoints(folder.parent)[0].ok
    assert time.monotonic() - began < 5


def test_lies_that_the_files_give_away(folder: Path) -> None:
    """What is well formed, but not what the files say, is found when they are read."""
    good = (folder / MANIFEST).read_bytes()
    for change in (
        column("starts", 8),
        put("tensors", "w", "name", value="v"),
        put("tensors", "w", "dtype", value="int64"),
        put("tensors", "v", "dtype", value="complex128"),
        lambda d: d["pieces"].update(files=[1, *d["pieces"]["files"][1:]]),
        lambda d: d["pieces"].update(xxh3_128="0" * 192),
        lambda d: d["tensors"].pop("s"),
        put("data", value="elsewhere"),
    ):
        reseal(folder, change)
        with pytest.raises(TensorKeepError):
            tk.load(folder)
        found = None
        try:
            found = tk.verify(folder)
        except TensorKeepError:
            continue
        finally:
            (folder / MANIFEST).write_bytes(good)
        assert not found.ok
    assert tk.verify(folder).ok


def test_pieces_that_are_the_same_bytes_twice(folder: Path) -> None:
    def change(document: Document) -> None:
        pieces = document["pieces"]
        for name in ("files", "starts"):
            pieces[name][1] = pieces[name][0]
        pieces["xxh3_128"] = (
            pieces["xxh3_128"][:32] + pieces["xxh3_128"][:32] + pieces["xxh3_128"][64:]
        )

    reseal(folder, change)
    with tk.open(folder) as state, pytest.raises(CorruptError, match="different things of 'w'"):
        state["w"].read()


def test_too_many_pieces() -> None:
    row = {"dtype": "int8", "shape": [10**9], "pieces": 1_500_000, "name": "w"}
    document: Document = {
        "version": 2,
        "step": 1,
        "time": 0,
        "reason": "",
        "writer": "",
        "metrics": {},
        "metadata": {},
        "parent": None,
        "files": {"state.json": {"size": 1, "xxh3_128": "0" * 32}},
        "tensors": {"a": row, "b": row},
        "pieces": {},
        SEAL: NO_DIGEST,
    }
    with pytest.raises(UnsafeError, match="more than 2,000,000 pieces"):
        parse_manifest(seal(json.dumps(document).encode()), "it")


def test_boxes_that_take_too_long_to_compare() -> None:
    count = 40_000
    low = np.zeros((count, 2), np.int64)
    low[:, 0] = np.arange(count) % 3
    low[:, 1] = np.arange(count) % 5
    began = time.monotonic()
    with pytest.raises(UnsafeError, match="form no regular grid"):
        overlap(low, low + 9, "w", "it")
    assert time.monotonic() - began < 2


def test_every_bit_of_the_manifest_counts(folder: Path) -> None:
    good = (folder / MANIFEST).read_bytes()
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        (folder / MANIFEST).write_bytes(bad)
        with pytest.raises(TensorKeepError):
            tk.open(folder)
    for at in range(0, len(good), 101):
        (folder / MANIFEST).write_bytes(good[:at])
        with pytest.raises(TensorKeepError):
            tk.open(folder)
