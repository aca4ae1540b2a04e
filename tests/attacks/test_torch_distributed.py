"""Torch distributed checkpoints made to run code, to reach other files, or to fill the memory."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import (
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states
from tensorkeep.wire.pickle.writing import dump

_PACKAGE = "torch.distributed.checkpoint"
FILE = "__0_0.distcp"


class Raw:
    """Instructions of a pickle that leave one value."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def code(value: Any) -> bytes:
    if isinstance(value, Raw):
        return value.data
    if isinstance(value, dict):
        return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(code, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    return dump(value)[2:-1]


def record(module: str, name: str, state: Any) -> Raw:
    return Raw(f"c{_PACKAGE}.{module}\n{name}\n)\x81".encode("latin1") + code(state) + b"b")


def size(*axes: Any) -> Raw:
    return Raw(b"ctorch\nSize\n" + code((axes,)) + b"R")


def index(name: str, *offset: int) -> Raw:
    return record("metadata", "MetadataIndex", {"fqn": name, "offset": size(*offset), "index": 0})


def info(file: Any = FILE, offset: Any = 0, length: Any = None, **more: Any) -> Raw:
    told = {"relative_path": file, "offset": offset, "length": ITEM if length is None else length}
    return record("filesystem", "_StorageInfo", told | more)


def tensor(shape: Any, *chunks: tuple[Any, Any], dtype: str = "float32") -> Raw:
    rows = [
        record("metadata", "ChunkStorageMetadata", {"offsets": size(*at), "sizes": size(*extent)})
        for at, extent in chunks
    ]
    properties = (Raw(f"ctorch\n{dtype}\n".encode()), None, False, None, False)
    kept = {
        "properties": record("metadata", "TensorProperties", properties),
        "size": size(*shape),
        "chunks": rows,
    }
    return record("metadata", "TensorStorageMetadata", kept)


def metadata(tensors: dict[str, Any], places: dict[Any, Any], planned: Any = None) -> bytes:
    told = {"state_dict_metadata": tensors, "storage_data": places, "planner_data": planned}
    return b"\x80\x04" + code(record("metadata", "Metadata", told)) + b"."


def item(value: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.pt"))
    return store.data["a.pt"]


W = np.arange(6, dtype=np.float32).reshape(2, 3)
GOOD = item(W)
ITEM = len(GOOD)
ONE = {"w": tensor((2, 3), ((0, 0), (2, 3)))}


def at(data: bytes, **files: bytes) -> Location:
    return Location(MemoryStore({".metadata": data, FILE: GOOD + GOOD, **files}))


def refused(data: bytes, kind: type[TensorKeepError], problem: str) -> None:
    tracemalloc.start()
    with pytest.raises(kind, match=problem):
        tk.load(at(data))
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_an_honest_one() -> None:
    assert_equal_states(tk.load(at(metadata(ONE, {index("w", 0, 0): info()}))), {"w": W})
    halves = {"w": tensor((4, 3), ((0, 0), (2, 3)), ((2, 0), (2, 3)))}
    places = {index("w", 0, 0): info(), index("w", 2, 0): info(offset=ITEM)}
    assert_equal_states(tk.load(at(metadata(halves, places))), {"w": np.concatenate([W, W])})


# --- other files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "", ".", "a\0b", "//x", "x" * 300],
)
def test_paths_that_lead_out(path: str) -> None:
    data = metadata(ONE, {index("w", 0, 0): info(path)})
    refused(data, UnsafeError, "which is not inside its own folder")


def test_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(GOOD)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / ".metadata").write_bytes(metadata(ONE, {index("w", 0, 0): info("link")}))
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeError):
        tk.load(folder)


def test_a_file_that_is_not_there() -> None:
    refused(metadata(ONE, {index("w", 0, 0): info("other")}), MissingError, "other")


# --- places and sizes that lie ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ({"offset": 2 * ITEM}, "which has"),
        ({"length": 2**62}, "which has"),
        ({"offset": 2**70}, "which has"),
        ({"offset": -1}, "lies at"),
        ({"length": -5}, "lies at"),
        ({"offset": 1.5}, "lies at"),
        ({"file": 3}, "lies at"),
        ({"offset": 7}, "something follows the end of the zip archive"),
        ({"length": ITEM - 1}, "is not a zip archive"),
    ],
)
def test_places_that_lie(place: dict[str, Any], problem: str) -> None:
    refused(metadata(ONE, {index("w", 0, 0): info(**place)}), CorruptError, problem)


@pytest.mark.parametrize(
    ("told", "kind", "problem"),
    [
        (tensor((2**40,), ((0,), (2**40,))), CorruptError, r"takes 4,398,046,511,104 bytes"),
        (tensor((2**62, 2), ((0, 0), (2**62, 2))), CorruptError, "takes"),
        (tensor((2**63,), ((0,), (2**63,))), CorruptError, "has no shape"),
        (tensor((-2,), ((0,), (2,))), CorruptError, "has no shape"),
        (tensor((2, 3), ((0, 0), (2, 4))), CorruptError, "has a chunk of"),
        (tensor((2, 3), ((0,), (2,))), CorruptError, "has a chunk of"),
        (tensor((4, 3), ((0, 0), (2, 3))), CorruptError, "6 elements of 'w' are in no chunk"),
        (tensor((3, 2), ((0, 0), (3, 2))), CorruptError, r"should be float32 of shape \(3, 2\)"),
        (tensor((2, 3), ((0, 0), (2, 3)), dtype="int32"), CorruptError, "should be int32"),
        (tensor((2, 3), ((0, 0), (2, 3)), dtype="complex32"), UnsupportedError, "complex32"),
        (tensor((2, 3), ((0, 0), (2, 3)), ((0, 0), (1, 3))), CorruptError, "two chunks at"),
    ],
)
def test_tensors_that_lie(told: Raw, kind: type[TensorKeepError], problem: str) -> None:
    places = {index("w", *at): info() for at in ((0, 0), (0,))}
    refused(metadata({"w": told}, places), kind, problem)


def test_chunks_that_overlap() -> None:
    told = {"w": tensor((3, 3), ((0, 0), (2, 3)), ((1, 0), (2, 3)))}
    places = {index("w", at, 0): info() for at in (0, 1)}
    refused(metadata(told, places), CorruptError, r"chunks of 'w' overlap at \(1, 0\)")


def test_a_chunk_without_a_place() -> None:
    refused(metadata(ONE, {}), CorruptError, "does not say where the chunk of 'w'")


def test_transformed_chunks_are_not_read() -> None:
    data = metadata(ONE, {index("w", 0, 0): info(transform_descriptors=["stream.zstd"])})
    refused(data, UnsupportedError, r"transformed by \['stream.zstd'\], which is not read here")


@pytest.mark.parametrize(
    "told",
    [
        {"state_dict_metadata": [1]},
        {"state_dict_metadata": {}, "storage_data": 3},
        {"state_dict_metadata": {1: 2}, "storage_data": {}},
        {"state_dict_metadata": {"w": size(1)}, "storage_data": {}},
        {"state_dict_metadata": {}, "storage_data": {"w": info()}},
        {},
        (1, 2),
    ],
)
def test_metadata_that_are_none(told: Any) -> None:
    data = b"\x80\x04" + code(record("metadata", "Metadata", told)) + b"."
    refused(data, CorruptError, "its metadata are broken")


def test_places_in_the_nesting_that_contradict_one_another() -> None:
    tensors = {name: tensor((2, 3), ((0, 0), (2, 3))) for name in ("a", "b")}
    places = {index(name, 0, 0): info() for name in tensors}
    plans: tuple[Any, ...] = (
        {"a": ("x",), "b": ("x",)},
        {"a": ("x",), "b": ("x", "y")},
        {"a": ("x", "y"), "b": ("x",)},
        {"a": tuple("x" * 5000), "b": ("y",)},
        {"a": 3, "b": (None,)},
        [1],
    )
    for planned in plans:
        found = tk.load(at(metadata(tensors, places, planned)))
        assert_equal_states(found, {"a": W, "b": W})
    found = tk.load(at(metadata(tensors, places, {"a": ("x", 2**80), "b": ("x", -1)})))
    assert_equal_states(found, {"x": {2**80: W, -1: W}})


# --- code ---------------------------------------------------------------------------------------


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_nothing_of_the_metadata_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    attack = Raw(pickle.dumps(Payload(marker), 0)[:-1])
    refused(b"\x80\x04" + attack.data + b".", UnsafeError, r"it would run posix\.mkdir")
    places = {index("w", 0, 0): info()}
    with tk.open(at(metadata(ONE, places, {"w": attack}))) as state:
        assert state.refused == ("its metadata would need posix.mkdir",)
        assert np.array_equal(state["w"].numpy(), W)
    with pytest.raises(UnsafeError, match=r"posix\.mkdir"):
        tk.load(at(metadata(ONE, places, attack)))
    for data in (metadata(ONE, {index("w", 0, 0): attack}), metadata({"w": attack}, places)):
        with pytest.raises(TensorKeepError):
            tk.load(at(data))
    assert not marker.exists()


def test_nothing_of_an_object_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    good = item({"x": "NAME", "w": W})
    attack = pickle.dumps({"x": Payload(marker)}, 0)
    told = {"o": record("metadata", "BytesStorageMetadata", {})}
    place = record("metadata", "MetadataIndex", {"fqn": "o", "offset": None, "index": None})
    data = metadata(told, {place: info("object", length=len(good))})
    assert_equal_states(tk.load(at(data, object=good)), {"o": {"x": "NAME", "w": W}})
    data = metadata(told, {place: info("object", length=len(attack))})
    with pytest.raises(CorruptError, match="is not a zip archive"):
        tk.load(at(data, object=attack))
    archive = zipped(attack)
    data = metadata(told, {place: info("object", length=len(archive))})
    with pytest.raises(UnsafeError, match=r"'o\.x' would need posix\.mkdir"):
        tk.load(at(data, object=archive))
    assert not marker.exists()


def zipped(data: bytes) -> bytes:
    from tensorkeep.wire.zip_writer import Part, write_zip

    parts = [Part("archive/data.pkl", len(data), lambda: [data])]
    return b"".join(chunk for chunk in write_zip(parts) if isinstance(chunk, bytes))
