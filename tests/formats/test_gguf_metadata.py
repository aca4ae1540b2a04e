"""GGUF's keys: every type of value survives, and what GGUF has no type for is noted."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFEndian
from gguf import GGUFValueType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError
from tensorkeep.formats.gguf.values import implied
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states

VALUES: dict[str, tuple[Any, Type, Type | None]] = {
    "u8": (255, Type.UINT8, None),
    "i8": (-128, Type.INT8, None),
    "u16": (65535, Type.UINT16, None),
    "i16": (-3, Type.INT16, None),
    "u32": (2**32 - 1, Type.UINT32, None),
    "i32": (7, Type.INT32, None),
    "u64": (2**64 - 1, Type.UINT64, None),
    "i64": (-(2**63), Type.INT64, None),
    "f32": (0.5, Type.FLOAT32, None),
    "f64": (0.1, Type.FLOAT64, None),
    "f64 that a float32 would hold": (0.5, Type.FLOAT64, None),
    "bool": (True, Type.BOOL, None),
    "text": ("ünï\0{{ x }}", Type.STRING, None),
    "texts": (["a", "", "ü"], Type.ARRAY, Type.STRING),
    "numbers": ([1, 2, 3], Type.ARRAY, Type.INT32),
    "bytes": ([1, 2, 255], Type.ARRAY, Type.UINT8),
    "longs": ([1, 2], Type.ARRAY, Type.UINT64),
    "floats": ([0.5, -1.0], Type.ARRAY, Type.FLOAT32),
    "doubles": ([0.5, -1.0], Type.ARRAY, Type.FLOAT64),
    "bools": ([True, False], Type.ARRAY, Type.BOOL),
}
TOLD = {
    "u8": "uint8",
    "i8": "int8",
    "u16": "uint16",
    "i16": "int16",
    "i32": "int32",
    "f64 that a float32 would hold": "float64",
    "bytes": ["uint8"],
    "longs": ["uint64"],
    "doubles": ["float64"],
    "i64": "int64",
}


def written(path: Path, order: GGUFEndian = GGUFEndian.LITTLE) -> Path:
    writer = gguf.GGUFWriter(path, "test", endianess=order)
    for key, (value, kind, inner) in VALUES.items():
        writer.add_key_value(key, value, kind, inner)
    writer.add_tensor("w", np.ones((1, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fields(path: Path) -> dict[str, tuple[list[Type], Any]]:
    found = gguf.GGUFReader(path).fields
    return {key: (field.types, field.contents()) for key, field in found.items() if key in VALUES}


@pytest.mark.parametrize("order", GGUFEndian)
def test_every_type_of_value(tmp_path: Path, order: GGUFEndian) -> None:
    path, again = written(tmp_path / "a.gguf", order), tmp_path / "b.gguf"
    with tk.open(path) as state:
        metadata = dict(state.metadata)
        types: Any = metadata.pop("gguf.types")
    values = {key: value for key, (value, _, _) in VALUES.items()}
    assert_equal_states(metadata, {"general.architecture": "test", **values})
    assert types == {key: spelt for key, spelt in TOLD.items() if key != "i64"}
    tk.convert(path, again)
    assert fields(again) == fields(path)


def test_types_survive_other_formats(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf")
    tk.convert(path, tmp_path / "a.safetensors")
    tk.convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    assert fields(tmp_path / "b.gguf") == fields(path)


def test_asking_for_types(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "eps": 1e-5,
        "count": 3,
        "ids": [1, 2],
        "gguf.types": {"eps": "float32", "count": "uint16", "ids": ["uint8"]},
    }
    tk.save({"w": np.ones(1)}, tmp_path / "a.gguf", metadata=metadata)
    found = gguf.GGUFReader(tmp_path / "a.gguf").fields
    assert found["eps"].types == [Type.FLOAT32]
    assert found["count"].types == [Type.UINT16]
    assert found["ids"].types == [Type.ARRAY, Type.UINT8]


def opened(metadata: dict[str, Any], **options: Any) -> dict[str, Any]:
    store = MemoryStore()
    tk.save({"w": np.ones(1)}, Location(store, "a.gguf"), metadata=metadata, **options)
    with tk.open(Location(store, "a.gguf")) as state:
        return state.metadata


KEPT: list[dict[str, Any]] = [
    {"none": None, "dict": {"a": [1, {"b": None}]}, "mixed": [1, "a"], "huge": 2**70},
    {"tensorkeep": "mine", "split.no": 3, "GGUF.version": 9, "tensorkeep.header_xxh3_128": "x"},
    {"general.architecture": "tensorkeep"},
    {"general.architecture": 5},
    {"general.alignment": 7},
    {"general.alignment": "x"},
    {"general.alignment": 64},
    {"gguf.types": "mine"},
    {"gguf.types": {"w": "int8"}},
    {"a": 3, "gguf.types": {"a": "string"}},
    {"a": [3], "gguf.types": {"a": ["int8", "int16"]}},
    {"a": [[3]], "gguf.types": {"a": [["int8"], 5]}},
    {"a": 300, "gguf.types": {"a": "uint8"}},
    {"a": 3, "gguf.types": {"a": "uint32"}},
    {"a": 3, "gguf.types": {"a": "int8"}},
    {"empty": [], "nested": [[1, 2], [3]], "uneven": [["a"], [1]], "deep": [[[[0.5]]]]},
    {"": 1, "k" * 70_000: 2, "ü": 3},
    {"bytes that are no text": "\udcff", "half a letter": "\udcc3\udca9", "half": "\ud800"},
    {"negative zero": -0.0, "large": 2**63, "small": -(2**31) - 1},
]


@pytest.mark.parametrize("metadata", KEPT, ids=lambda metadata: next(iter(metadata))[:20])
@pytest.mark.parametrize("checksums", [True, False])
def test_metadata_comes_back(metadata: dict[str, Any], checksums: bool) -> None:
    found = opened(metadata, checksums=checksums)
    if metadata == {"a": 3, "gguf.types": {"a": "uint32"}}:
        assert found == metadata
    assert_equal_states(found, metadata)


def test_very_deep_lists_are_noted() -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    assert_equal_states(opened({"deep": deep}), {"deep": deep})


def plain() -> st.SearchStrategy[Any]:
    numbers = st.integers(-(2**66), 2**66) | st.floats(allow_nan=False, allow_infinity=False)
    scalars = st.none() | st.booleans() | numbers | st.text(max_size=4)
    lists = st.lists(scalars, max_size=3) | st.lists(st.lists(st.integers(), max_size=2))
    return st.recursive(scalars | lists, lambda child: st.lists(child, max_size=3), max_leaves=5)


@settings(max_examples=60)
@given(metadata=st.dictionaries(st.text(max_size=6), plain(), max_size=4))
def test_any_metadata_comes_back(metadata: dict[str, Any]) -> None:
    assert_equal_states(opened(metadata), metadata)


@pytest.mark.parametrize(
    ("value", "spelt"),
    [
        (0, "uint32"),
        (2**32, "uint64"),
        (-1, "int32"),
        (-(2**31) - 1, "int64"),
        (2**64, None),
        ([0, 2**31], ["uint32"]),
        ([-1, 2**31], ["int64"]),
        ([], ["int32"]),
        ([[1], ["a"]], [["int32"], ["string"]]),
        ([1, 2.0], None),
        ([None], None),
        (float("nan"), "float32"),
        ([1e300], ["float64"]),
    ],
)
def test_what_a_value_tells(value: Any, spelt: Any) -> None:
    assert implied(value) == spelt


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    tk.save({"w": np.ones(1)}, path, metadata={"a": "xyz", "b": ["ok", "xyz"]}, checksums=False)
    path.write_bytes(path.read_bytes().replace(b"xyz", b"x\xffz"))
    with tk.open(path) as state:
        assert state.metadata == {"a": "x\udcffz", "b": ["ok", "x\udcffz"]}
    tk.convert(path, tmp_path / "b.gguf", checksums=False)
    assert (tmp_path / "b.gguf").read_bytes().count(b"x\xffz") == 2


def test_a_vocabulary(tmp_path: Path) -> None:
    """As many tokens as models have; read much faster than the reference does it."""
    tokens = [f"token {i}" for i in range(20_000)]
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "test")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.5 * i for i in range(len(tokens))])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with tk.open(tmp_path / "a.gguf") as state:
        assert state.metadata["tokenizer.ggml.tokens"] == tokens
        assert state.metadata["tokenizer.ggml.scores"] == [0.5 * i for i in range(len(tokens))]
    tk.convert(tmp_path / "a.gguf", tmp_path / "b.gguf")
    found = gguf.GGUFReader(tmp_path / "b.gguf").fields["tokenizer.ggml.tokens"]
    assert found.contents(19_999) == "token 19999"


def version_one(values: bytes, keys: int, tensors: bytes = b"", count: int = 0) -> bytes:
    return struct.pack("<4sIII", b"GGUF", 1, count, keys) + values + tensors


def test_version_one() -> None:
    """Counts and lengths of four bytes, as files of the summer of 2023 have them."""

    def text(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    keys = text(b"a") + struct.pack("<I", 8) + text(b"hi")
    keys += text(b"b") + struct.pack("<III", 9, 8, 2) + text(b"x") + text(b"yz")
    info = text(b"w") + struct.pack("<IIIQ", 1, 2, 0, 0)
    head = version_one(keys, 2, info, 1)
    data = head + bytes(-len(head) % 32) + np.array([1.5, 2.5], "<f4").tobytes()
    location = Location(MemoryStore({"a.gguf": data}), "a.gguf")
    with tk.open(location) as state:
        assert state.metadata == {"a": "hi", "b": ["x", "yz"]}
    assert tk.load(location)["w"].tolist() == [1.5, 2.5]
    for length in range(len(data)):
        with pytest.raises(TensorKeepError):
            tk.load(Location(MemoryStore({"a.gguf": data[:length]}), "a.gguf"))
