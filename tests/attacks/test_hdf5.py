"""HDF5 files that point elsewhere, go round in circles or claim to hold what they do not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

WEIGHTS = np.arange(12, dtype=np.float32)


def made(fill: Callable[[Any], object], **options: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w", **options) as file:
        file["w"] = WEIGHTS
        fill(file)
    return out.getvalue()


def refused(data: bytes, kind: type[TensorKeepError], problem: str, folder: Path) -> None:
    """Refuse it from memory and from a file, whose folder has what it points at."""
    (folder / "bad.h5").write_bytes(data)
    for target in (Location(MemoryStore({"a.h5": data}), "a.h5"), folder / "bad.h5"):
        with pytest.raises(kind, match=problem):
            tk.load(target)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A pipe: whoever opens it waits for ever, which the watchdog of these tests tells."""
    os.mkfifo(tmp_path / "secret")
    return tmp_path


def test_an_external_link(trap: Path) -> None:
    data = made(lambda file: file.update({"x": h5py.ExternalLink(str(trap / "secret"), "/w")}))
    problem = r"x: is an external link, to '/w' in the file '.*secret'; other files are not read"
    refused(data, UnsafeError, problem, trap)


def test_a_soft_link_through_an_external_one(trap: Path) -> None:
    def fill(file: Any) -> None:
        file["soft"] = h5py.SoftLink("/z/inner/w")
        file["z"] = h5py.ExternalLink(str(trap / "secret"), "/")

    refused(made(fill), UnsafeError, "soft: is an external link", trap)


def test_a_soft_link_that_dangles(tmp_path: Path) -> None:
    data = made(lambda file: file.update({"x": h5py.SoftLink("/a/b")}))
    refused(data, UnsupportedError, "x: is a soft link to '/a/b', which is not there", tmp_path)
    data = made(lambda file: file.update({"x": h5py.SoftLink("../secret")}))
    refused(data, UnsupportedError, r"x: is a soft link to '\.\./secret', which is not", tmp_path)


def test_soft_links_in_a_circle(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["x"] = h5py.SoftLink("/y")
        file["y"] = h5py.SoftLink("/x")

    refused(made(fill), UnsafeError, "x: is a soft link that leads round in a circle", tmp_path)
    data = made(lambda file: file.update({"x": h5py.SoftLink("/")}))
    refused(data, UnsafeError, "x: is a group that holds itself", tmp_path)
    data = made(lambda file: file.update({"x": h5py.SoftLink("/w/inner")}))
    refused(data, TensorKeepError, "x: ", tmp_path)


def test_soft_links_that_multiply(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["z"] = h5py.SoftLink("/")
        for level in range(1, 9):
            inner = f"a{level + 1}" if level < 8 else "z"
            file[f"a{level}"] = h5py.SoftLink("/".join([inner] * 100))

    refused(made(fill), UnsafeError, "a1: is a soft link that leads round in a circle", tmp_path)


def test_external_storage(trap: Path) -> None:
    def fill(file: Any) -> None:
        external = [(str(trap / "secret"), 0, 48)]
        file.create_dataset("x", (12,), "f4", external=external)

    problem = r"x: keeps its elements outside, in the file '.*secret'"
    refused(made(fill), UnsafeError, problem, trap)


def test_a_virtual_dataset(trap: Path) -> None:
    def fill(file: Any) -> None:
        layout = h5py.VirtualLayout((12,), "f4", maxshape=(None,))
        secret = h5py.VirtualSource(str(trap / "secret"), "w", (12,), maxshape=(None,))
        layout[: h5py.h5s.UNLIMITED] = secret[: h5py.h5s.UNLIMITED]
        file.create_virtual_dataset("x", layout)

    data = made(fill, libver="latest")
    refused(data, UnsafeError, "x: is a virtual dataset, made up of others", trap)


def test_groups_that_hold_themselves(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        inner = file.create_group("a/b")
        inner["up"] = file["a"]

    problem = "a/b/up: is a group that holds itself, so its names never end"
    refused(made(fill), UnsafeError, problem, tmp_path)


def test_groups_that_multiply(tmp_path: Path) -> None:
    """Two links to the next group, thirty times over, are a thousand million names."""

    def fill(file: Any) -> None:
        inner = file.create_group("last")
        inner["w"] = WEIGHTS
        for i in range(30):
            outer = file.create_group(f"g{i}")
            outer["l"] = outer["r"] = inner
            inner = outer

    data = made(fill)
    with pytest.raises(UnsafeError, match="reaches its groups more than 1,000 times"):
        tk.load(Location(MemoryStore({"a.h5": data}), "a.h5"))


def test_deep_nesting(tmp_path: Path) -> None:
    data = made(lambda file: file.create_group("/".join("x" * 2000)))
    refused(data, UnsafeError, "nests groups over 128 levels deep", tmp_path)


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (1000, 1000)}, {"chunks": (1000, 1000), "compression": "gzip"}],
    ids=["in one piece", "chunks", "compressed"],
)
def test_terabytes_that_were_never_written(options: dict[str, Any], tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file.create_dataset("x", (1000, 1_000_000_000), "f4", **options)

    data = made(fill)
    assert len(data) < 10_000
    refused(data, UnsafeError, "x: says it holds 4,000,000,000,000 bytes, and has 0", tmp_path)


def test_a_contiguous_dataset_longer_than_the_file(tmp_path: Path) -> None:
    data = made(lambda file: None)
    shape = (12).to_bytes(8, "little")
    huge = data.replace(shape, (10**11).to_bytes(8, "little"))
    assert huge != data
    with pytest.raises(TensorKeepError, match=r"w: "):
        tk.load(Location(MemoryStore({"a.h5": huge}), "a.h5"))


def test_many_datasets_that_were_never_written(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        for i in range(20):
            file.create_dataset(f"x{i}", (60 << 20,), "u1")

    refused(made(fill), UnsafeError, "says it holds 1,258,291,200 bytes in", tmp_path)


def test_compressed_zeros_are_read_and_no_more_is_believed(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file.create_dataset("x", data=np.zeros(1 << 24, np.uint8), chunks=(1 << 20,), compression=9)

    data = made(fill)
    assert len(data) < 40_000
    with tk.open(Location(MemoryStore({"a.h5": data}), "a.h5")) as state:
        assert not state["x"].numpy().any()


def test_strings_that_all_point_at_one_long_one(tmp_path: Path) -> None:
    """A million strings of a megabyte each, all the same one in the file."""

    def fill(file: Any) -> None:
        dataset = file.create_dataset("x", (1_000_000,), h5py.string_dtype())
        dataset[0] = "y" * 1_000_000

    data = bytearray(made(fill))
    with h5py.File(io.BytesIO(data)) as file:
        start = file["x"].id.get_offset()
    one = bytes(data[start : start + 16])
    data[start : start + 16_000_000] = one * 1_000_000
    problem = "x: says its strings are 1,000,000,000,000 bytes, in a file of"
    refused(bytes(data), UnsafeError, problem, tmp_path)


@pytest.mark.parametrize("size", [0, 2**64 - 16, 2**63])
def test_a_heap_of_strings_without_an_end(size: int, tmp_path: Path) -> None:
    """The library goes from string to string by their sizes: of none, it would stay where it is."""
    data = bytearray(made(lambda file: file.attrs.update({"x": "text"})))
    heap = data.index(b"GCOL")
    free = heap + 16 + 16 + 8
    assert data[free : free + 2] == b"\0\0"
    data[free + 8 : free + 16] = size.to_bytes(8, "little")
    refused(bytes(data), CorruptError, "the HDF5 library cannot read it", tmp_path)


def test_attributes_that_are_too_large_are_told(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file.attrs["large"] = np.zeros(20 << 20, np.uint8)

        file.attrs["many"] = np.array(["x"] * 70_000, h5py.string_dtype())

    data = made(fill, libver="latest")
    with tk.open(Location(MemoryStore({"a.h5": data}), "a.h5")) as state:
        assert state.metadata == {k: {"not JSON": "too large"} for k in ("large", "many")}


NOTES = {
    "[": "the tensorkeep metadata is broken",
    "[]": "is not a JSON object",
    '{"version":1,"tree":{"a":"$","b":"$"}}': "'?a'?",
}


@pytest.mark.parametrize("text", NOTES)
def test_notes_that_lie(text: str, tmp_path: Path) -> None:
    data = made(lambda file: file.attrs.update({"tensorkeep": text}))
    refused(data, TensorKeepError, NOTES[text], tmp_path)


def _named(names: str, file: Any) -> None:
    file.attrs["tensorkeep-names"] = names
    file["x"] = 3


def test_names_that_lie(tmp_path: Path) -> None:
    for names, problem in (
        ("[]", "its list of names is not one"),
        ('{"w": 3}', "its list of names is not one"),
        ('{"w": "x"}', "two of its datasets have the same name"),
        ('{"w": "../x"}', "as a folder"),
    ):
        data = made(partial(_named, names))
        refused(data, TensorKeepError, problem, tmp_path)


def test_random_bytes_behind_the_signature(tmp_path: Path) -> None:
    for seed in range(50):
        junk = np.random.default_rng(seed).bytes(2000)
        for version in range(4):
            data = b"\x89HDF\r\n\x1a\n" + bytes([version]) + junk
            with pytest.raises(TensorKeepError):
                tk.load(Location(MemoryStore({"a.h5": data}), "a.h5"))
    with pytest.raises(CorruptError, match=r"cannot read it|superblock"):
        tk.load(Location(MemoryStore({"a.h5": data}), "a.h5"))
