"""PyTorch files as they are written; what torch makes of them is in tests/frameworks."""

from __future__ import annotations

import gc
import io
import json
import pickletools
import resource
import sys
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

import tensorkeep as tk
from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import CorruptError, LossError
from tensorkeep.formats.pytorch import writing
from tensorkeep.store import Late, Location, join
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states, sample, states

SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3, 4), (0, 3), (3, 2)]
FLAT: dict[str, npt.NDArray[Any]] = {
    "layer.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer.0.bias": np.ones(3, np.float16),
    "ünï": np.zeros((0, 3), bool),
    "$": np.array(7),
}
NOTES = "archive/.data/tensorkeep.json"


def at(data: bytes) -> Location:
    return Location(MemoryStore({"a.pt": data}), "a.pt")


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.pt"), **options)
    return store.data["a.pt"]


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def noted(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(members(data).get(NOTES, b"{}"))
    return found


def test_the_members_are_those_of_torch() -> None:
    data = saved(FLAT)
    found = members(data)
    assert list(found) == [
        "archive/data.pkl",
        "archive/byteorder",
        *(f"archive/data/{i}" for i in range(4)),
        "archive/version",
        "archive/.data/serialization_id",
    ]
    assert found["archive/version"] == b"3\n"
    assert found["archive/byteorder"] == b"little"
    assert len(found["archive/.data/serialization_id"]) == 40
    assert found["archive/data/0"] == FLAT["layer.0.weight"].tobytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert all(row.compress_type == zipfile.ZIP_STORED for row in archive.infolist())
    with tk.open(at(data)) as state:
        assert all(tensor.offset % 64 == 0 for tensor in state.values())
        assert list(state) == list(FLAT)


def test_the_pickle_is_of_what_restricted_readers_know() -> None:
    value = {**FLAT, "o": OrderedDict(a=[1, 2.5]), "s": {1}, "b": b"x", "c": 1j, "n": -(2**70)}
    names = []
    for opcode, argument, _ in pickletools.genops(members(saved(value))["archive/data.pkl"]):
        assert opcode.proto <= 2
        if opcode.name == "GLOBAL":
            names.append(argument)
    assert set(names) == {
        "torch._utils _rebuild_tensor_v2",
        *(f"torch {kind}Storage" for kind in ("Float", "Half", "Bool", "Long")),
        "collections OrderedDict",
        "__builtin__ set",
        "__builtin__ complex",
        "_codecs encode",
    }


@pytest.mark.parametrize("kind", DTYPES.values(), ids=str)
def test_every_type_and_shape(kind: DType) -> None:
    arrays = {str(shape): sample(kind, shape).numpy() for shape in SHAPES}
    data = saved(arrays)
    assert_equal_states(tk.load(at(data), verify=True), arrays)
    with tk.open(at(data)) as state:
        assert all(tensor.dtype is kind for tensor in state.values())
        again = saved(state)
    assert again == data


@given(value=states())
@settings(max_examples=30)
def test_saving_again_gives_the_same_bytes(value: Any) -> None:
    data = saved(value, metadata={"epoch": 3})
    with tk.open(at(data)) as state:
        assert state.metadata == {"epoch": 3}
        assert saved(state) == data


def test_notes_only_where_they_are_needed() -> None:
    plain: list[Any] = [
        FLAT,
        {"model": {"w": np.ones(2)}, "step": 3, "list": [1, (2, "x")], "none": None},
        {"ordered": OrderedDict(a=np.ones(1), b=2), "set": {1}, "bytes": b"x"},
        {"tied": [FLAT["$"]] * 2},
        [np.ones(1)],
        np.ones(2),
        3,
    ]
    for value in plain:
        assert NOTES not in members(saved(value)), value
        assert_equal_states(tk.load(at(saved(value))), value)
    assert noted(saved({"w": np.ones(1)}, metadata={"epoch": 3}))["metadata"] == {"epoch": 3}
    assert noted(saved({"r": range(3)}))["tree"] == {"r": {"$range": [0, 3, 1]}}
    strings = noted(saved({"s": np.array(["a"], object)}))
    assert strings == {"version": 1, "stored": {"s": ["string", [1]]}}


def test_tensors_called_otherwise_than_their_place() -> None:
    tensors = {name: tk.Tensor.of(np.full(2, i)) for i, name in enumerate(("x/w", "y", "z"))}
    tree: Any = {"layer": {"w": "$:x/w"}, "again": "$:x/w", "y": "$", "list": ["$:z"]}
    data = saved(tk.State(tensors, skeleton={"tree": tree}))
    assert noted(data)["names"] == {"layer.w": "x/w", "list.0": "z"}
    with tk.open(at(data)) as state:
        assert dict.fromkeys(state) == dict.fromkeys(["x/w", "y", "z"])
        assert state.skeleton == {"tree": tree}
        assert set(state.checks) == set(state)
        assert saved(state) == data
    found = tk.load(at(data), verify=True)
    assert found["again"] is found["layer"]["w"]
    assert found["list"][0].tolist() == [2, 2]


def test_names_noted_that_make_no_sense() -> None:
    from tensorkeep.wire.zip_writer import Part, write_zip

    for names, problem in (
        ({"a": "b"}, "give two tensors one name"),
        ({"a": 3}, "the names in its tensorkeep metadata are none"),
        ([1], "the names in its tensorkeep metadata are none"),
    ):
        content = members(saved({"a": np.ones(1), "b": np.ones(1)}))
        content[NOTES] = json.dumps({"version": 1, "names": names}).encode()
        parts = [Part(name, len(data), partial(list, [data])) for name, data in content.items()]
        with pytest.raises(CorruptError, match=problem):
            tk.load(at(join(write_zip(parts))))


def test_what_is_lost_is_told(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="PyTorch reads integers of 255 bytes; one has 376"):
        tk.save({"n": [2**3000]}, tmp_path / "a.pt")
    tensors = {name: tk.Tensor.of(np.ones(1)) for name in ("a", "b")}
    state = tk.State(tensors, skeleton={"tree": {"a": "$"}})
    with pytest.raises(LossError, match="its nesting does not hold 'b'"):
        tk.save(state, tmp_path / "a.pt")


@pytest.mark.parametrize(
    "tree",
    [
        {"x": "$"},
        {"x": "$:y"},
        {"$dict": 3},
        {"$dict": [["$", 1]]},
        {"$dict": [[{"$set": []}, 1]]},
        {"$namedtuple": [1, 2]},
        {"$what": 3},
        {"$torch": ["device", ":x"]},
        {"$set": [["w"]]},
        {"$range": 3},
        {"$bytes": "?"},
    ],
)
def test_nestings_that_are_none(tree: Any) -> None:
    state = tk.State({"w": tk.Tensor.of(np.ones(1))}, skeleton={"tree": {"w": "$", "t": tree}})
    with pytest.raises(CorruptError):
        saved(state)


def test_converting_both_ways(tmp_path: Path) -> None:
    value = {"model": OrderedDict(w=np.arange(4.0), b=np.ones(2, np.int8)), "step": 3}
    tk.save(value, tmp_path / "a.safetensors")
    for source, target in (("a.safetensors", "b.pt"), ("b.pt", "c.npz"), ("c.npz", "d.pth")):
        assert tk.convert(tmp_path / source, tmp_path / target) == []
        assert_equal_states(tk.load(tmp_path / target, verify=True), value)


def test_saving_over_the_file_that_is_read(tmp_path: Path) -> None:
    tk.save(FLAT, tmp_path / "a.pt")
    tk.save(tk.load(tmp_path / "a.pt"), tmp_path / "a.pt")
    assert_equal_states(tk.load(tmp_path / "a.pt"), FLAT)


def test_the_size_is_known_before_writing() -> None:
    for value in (FLAT, {"s": np.array(["x"]), "r": range(3)}, {}, 3):
        (stream,) = writing.encode(tk.api._state_of(value), at(b""))
        assert stream.size == len(join(stream.chunks or []))


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in other units elsewhere")
def test_writing_a_large_array_holds_pieces_of_it() -> None:
    large = np.broadcast_to(np.float32(1), (300, 1 << 20))  # 1.2 GiB that take no memory
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (stream,) = writing.encode(tk.State({"large": tk.Tensor.of(large)}), at(b""))
    total = sum(len(c) for c in stream.chunks or [] if not isinstance(c, Late))
    assert total == stream.size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_strings_are_bytes_to_torch() -> None:
    strings = np.array(["a", "bc"], object)
    found = members(saved({"s": strings}))["archive/data/0"]
    tensor = tk.Tensor.of(strings)
    assert tensor.dtype is STRING
    assert found == bytes(tensor.read())
