"""safetensors against the reference library, in both directions and byte by byte; and shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import dtypes, errors, testing
from tensorkeep.dtypes import DType
from tensorkeep.formats import FORMATS
from tensorkeep.formats.safetensors import encode
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.wire.sizes import size_of

KEY = "state.safetensors"

# What the reference library calls the types that it writes, and the codes in the file.
NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
COMMON = [dtypes.DTYPES[name] for name in NAMES]
deserialize: Any = safetensors.deserialize
PLAIN: dict[str, Any] = {"align": 8, "checksums": False}  # what the reference library would write


def reference(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Give what the reference library writes."""
    kept = {name: np.frombuffer(bytes(t.read()) or b"\0", np.uint8) for name, t in tensors.items()}
    specs = {
        name: safetensors.TensorSpec(
            dtype="float4_e2m1fn_x2" if t.dtype is dtypes.FLOAT4_E2M1FN else t.dtype.name,
            shape=[*t.shape[:-1], t.shape[-1] // 2] if t.dtype.packed else list(t.shape),
            data_ptr=kept[name].ctypes.data,
            data_len=t.nbytes,
        )
        for name, t in tensors.items()
    }
    written: bytes = safetensors.serialize(specs, metadata)
    return written


def ours(
    tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, **options: Any
) -> bytes:
    store = MemoryStore()
    state = tk.State(tensors, metadata=metadata)
    tk.save(state, Location(store, KEY), **{**PLAIN, **options})
    return store.data[KEY]


def read(data: bytes) -> tk.State:
    return tk.open(Location(MemoryStore({KEY: data}), KEY))


SETS: dict[str, dict[str, Tensor]] = {
    "every type and shape": testing.samples(COMMON),
    "nothing": {},
    "4 bits": {
        "a": testing.sample(dtypes.FLOAT4_E2M1FN, (6,)),
        "b": testing.sample(dtypes.FLOAT4_E2M1FN, (2, 8)),
        "c": testing.sample(dtypes.UINT8, (5,)),
    },
    "names": {
        name: testing.sample(dtypes.INT8, (3,))
        for name in [
            "z",
            "A",
            "a",
            "a.b",
            "ü",
            "\U0001d11e",
            "a b",
            "",
            '"',
            "\\",
            "\n\t\r\b\f",
            "\x01\x1f\x7f",
            "\u2028",
            "/",
            "</script>",
            "é",
            "e\u0301",
            "\uffff",
        ]
    },
}


@pytest.mark.parametrize("tensors", SETS.values(), ids=SETS)
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"ü\n": '"\\\x01'}], ids=str)
def test_the_same_bytes(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    written = reference(tensors, metadata)
    assert ours(tensors, metadata) == written
    state = read(written)
    testing.assert_equal_states(state, tk.State(tensors))
    assert state.metadata == (metadata or {})


@given(data=st.data())
def test_any_tensors_give_the_same_bytes(data: st.DataObject) -> None:
    names = st.text(max_size=5).filter(
        lambda n: n != "__metadata__" and "\0" not in n and ".." not in n
    )
    kinds = st.sampled_from(COMMON)
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    chosen = data.draw(st.dictionaries(names, st.tuples(kinds, shapes), max_size=6))
    tensors = {name: testing.sample(kind, shape) for name, (kind, shape) in chosen.items()}
    written = reference(tensors)
    assert ours(tensors) == written
    testing.assert_equal_states(read(written), tk.State(tensors))
    again = deserialize(ours(tensors, align=64, checksums=True))
    assert {name: bytes(t["data"]) for name, t in again} == {
        name: bytes(t.read()) for name, t in tensors.items()
    }


@pytest.mark.parametrize("options", [PLAIN, {}, {"align": 4096}], ids=str)
def test_the_reference_library_reads_ours(options: dict[str, Any], tmp_path: Path) -> None:
    tensors = testing.samples(COMMON)
    path = tmp_path / KEY
    tk.save(tk.State(tensors, metadata={"format": "np", "epoch": 3}), path, **options)
    found = dict(deserialize(path.read_bytes()))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name]["dtype"] == NAMES[tensor.dtype.name]
        assert found[name]["shape"] == list(tensor.shape)
        assert bytes(found[name]["data"]) == bytes(tensor.read())
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["format"] == "np"
        assert file.get_slice("float32-2x3x4")[0, 1:].shape == (2, 4)


def test_its_numpy_arrays(tmp_path: Path) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])}
    safetensors.numpy.save_file(arrays, tmp_path / KEY, {"a": "b"})
    testing.assert_equal_states(tk.load(tmp_path / KEY), arrays)
    tk.save(arrays, tmp_path / KEY)
    testing.assert_equal_states(safetensors.numpy.load_file(tmp_path / KEY), arrays)


# What the reference library also refuses: neither reads what the other does not.
@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}x",
        b'{"a":1}',
        b'{"a":{}}',
        (
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
        ),
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"X","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}',
        b'{"__metadata__":{"a":1}}',
    ],
)
def test_both_refuse(header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + b"\0"
    with pytest.raises(safetensors.SafetensorError):
        deserialize(data)
    with pytest.raises(errors.CorruptError):
        read(data)


def test_every_flip_that_we_read_the_reference_library_reads_alike() -> None:
    """Of a file without checksums: no parser differences for an attacker to use."""
    tensors = {"ab": testing.sample(dtypes.INT16, (3,)), "c": testing.sample(dtypes.UINT8, (2, 2))}
    good = reference(tensors, {"k": "v"})
    both = 0
    for at in range(len(good) - 10):
        for bit in range(8):
            data = good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :]
            try:
                state = read(data)
            except tk.TensorKeepError:
                continue
            other = dict(deserialize(data))
            both += 1
            assert other.keys() == set(state)
            for name, tensor in state.items():
                assert other[name]["shape"] == list(tensor.shape)
                assert bytes(other[name]["data"]) == bytes(tensor.read())
    assert both > 20


# --- layout -------------------------------------------------------------------------------------


def header(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


@pytest.mark.parametrize("align", [8, 16, 64, 4096])
def test_alignment(align: int) -> None:
    for count in range(12):
        tensors = {f"t{i}": testing.sample(kind, (3,)) for i, kind in enumerate(COMMON[:count])}
        data = ours(tensors, align=align)
        start = 8 + int.from_bytes(data[:8], "little")
        assert start % align == 0
        assert start < 8 + len(json.dumps(header(data), separators=(",", ":"))) + align
        state = read(data)
        assert all(t.offset % t.dtype.numpy.itemsize == 0 for t in state.values())


def test_types_that_the_format_lacks() -> None:
    kinds = [dtypes.INT4, dtypes.UINT2, dtypes.COMPLEX128, dtypes.STRING, dtypes.FLOAT4_E2M1FN]
    tensors = testing.samples(kinds)
    data = ours(tensors)
    testing.assert_equal_states(read(data), tk.State(tensors))
    found = dict(deserialize(data))
    assert found["complex128-2x3x4"]["dtype"] == "F64"
    assert found["complex128-2x3x4"]["shape"] == [2, 3, 4, 2]
    assert found["int4-3"]["dtype"] == "U8"
    assert found["string-3"]["dtype"] == "U8"
    assert found["float4_e2m1fn-2x3x4"]["dtype"] == "F4"


@pytest.mark.parametrize("name", ["0" * 32, "tensorkeep.header_xxh3_128", "tensorkeep", "format"])
@pytest.mark.parametrize("options", [{}, PLAIN, {"max_shard_size": 1}], ids=str)
def test_names_that_the_file_uses_itself(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    value = {name: np.arange(3.0), "b": np.ones(2), "c": np.zeros(1, np.int8)}
    tk.save(value, tmp_path / KEY, metadata={name: name}, **options)
    found = tk.load(tmp_path if "max_shard_size" in options else tmp_path / KEY)
    testing.assert_equal_states(found, value)
    tk.save(value, tmp_path / "x.safetensors", max_shard_size=1, checksums=False)
    testing.assert_equal_states(tk.load(tmp_path / "x.safetensors.index.json"), value)


def test_the_name_that_the_format_keeps() -> None:
    with pytest.raises(errors.ArgumentError, match="__metadata__"):
        ours({"__metadata__": testing.sample(dtypes.INT8, (1,))})


def test_what_would_not_be_read_is_not_written() -> None:
    tensor = testing.sample(dtypes.UINT8, (0,))
    state = tk.State(dict.fromkeys(map(str, range(500_001)), tensor))
    with pytest.raises((errors.ArgumentError, errors.UnsafeError)):
        next(iter(encode(state, Location(MemoryStore(), KEY), checksums=False)))


# --- shards -------------------------------------------------------------------------------------

VALUE = {"a": np.arange(100.0), "b": {"c": np.ones(50, np.float32)}, "d": np.arange(9), "n": 3}


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sharded_states_come_back(tmp_path: Path) -> None:
    for limit, count in ((1, 3), (800, 2), ("1KB", 2), ("1MiB", 1)):
        folder = tmp_path / str(limit)
        folder.mkdir()
        tk.save(VALUE, folder / KEY, max_shard_size=limit, metadata={"e": [1]})
        names = shards(folder)
        if count == 1:
            assert names == [KEY]
        else:
            series = [f"state-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
            assert names == [*series, f"{KEY}.index.json"]
        testing.assert_equal_states(tk.load(folder, verify=True), VALUE)
        with tk.open(folder) as state:
            assert state.metadata == {"e": [1]}
        testing.assert_equal_states(tk.load(folder, copy=True), VALUE)


def test_the_index_is_what_other_tools_know(tmp_path: Path) -> None:
    tk.save(VALUE, tmp_path / KEY, max_shard_size=1)
    index = json.loads((tmp_path / f"{KEY}.index.json").read_text())
    assert index["metadata"]["total_size"] == 800 + 200 + 72
    assert sorted(index["weight_map"]) == ["a", "b.c", "d"]
    for name, file in index["weight_map"].items():
        assert name in safetensors.numpy.load_file(tmp_path / file)


def test_an_index_of_others(tmp_path: Path) -> None:
    arrays = {"a": np.arange(3.0), "b": np.ones(2)}
    for i, (name, array) in enumerate(arrays.items(), 1):
        safetensors.numpy.save_file({name: array}, tmp_path / f"model-{i:05}-of-00002.safetensors")
    index = {"weight_map": {n: f"model-{i:05}-of-00002.safetensors" for i, n in enumerate("ab", 1)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    testing.assert_equal_states(tk.load(tmp_path), arrays)


def test_saving_over_shards(tmp_path: Path) -> None:
    """From one file to several and back: the new state is there, and nothing of the old."""
    path = tmp_path / KEY
    for number, limit in enumerate([None, 1, 1, 800, None, 800, 1, 1, None]):
        value = {**VALUE, "n": number}
        options: dict[str, Any] = {} if limit is None else {"max_shard_size": limit}
        tk.save(value, path, **options)
        testing.assert_equal_states(tk.load(tmp_path, verify=True), value)
        expected = {None: 1, 1: 4, 800: 3}[limit]
        assert len(shards(tmp_path)) == expected, shards(tmp_path)


def test_saving_over_shards_that_are_open(tmp_path: Path) -> None:
    path = tmp_path / KEY
    tk.save(VALUE, path, max_shard_size=1)
    found = tk.load(tmp_path)
    with tk.open(tmp_path) as state:
        tk.save(state, path, max_shard_size=800)
        tk.save(state, path, max_shard_size=1)
        tk.save({"x": np.zeros(3)}, path)
        testing.assert_equal_states(state["a"].numpy(), VALUE["a"])
    testing.assert_equal_states(found, VALUE)


def test_saving_over_the_index_itself(tmp_path: Path) -> None:
    index = tmp_path / f"{KEY}.index.json"
    tk.save(VALUE, index, format="safetensors")
    assert shards(tmp_path) == ["state-00001-of-00001.safetensors", index.name]
    testing.assert_equal_states(tk.load(index, verify=True), VALUE)
    tk.save(VALUE, index, format="safetensors", max_shard_size=1)
    testing.assert_equal_states(tk.load(index, verify=True), VALUE)
    assert len(shards(tmp_path)) == 4


@pytest.mark.parametrize("check", [testing.check_truncations, testing.check_bit_flips])
def test_damaged_shards(check: Callable[..., int]) -> None:
    value = {"a": np.ones(2, np.int8), "b": np.zeros(1, np.int16)}
    assert check(FORMATS["safetensors"], value, max_shard_size=1) > 500


def test_shards_open_few_files_at_a_time(tmp_path: Path) -> None:
    store = testing.CountingStore(MemoryStore())
    value = {str(i): np.arange(1000) for i in range(20)}
    tk.save(value, Location(store, KEY), max_shard_size=1)
    store.ranges.clear()
    assert tk.load(store, names="7")["7"][-1] == 999
    assert store.bytes_read < 20 * 2000 + 8000 + 20_000


@pytest.mark.parametrize(
    ("size", "expected"),
    [("5GB", 5 * 10**9), ("1 kib", 1024), (" 2MiB ", 2 << 20), ("1.5KB", 1500), ("7", 7), (7, 7)],
)
def test_sizes(size: int | str, expected: int) -> None:
    assert size_of(size) == expected


def kind_of(code: str) -> DType:
    return next(kind for kind in COMMON if NAMES[kind.name] == code)


def test_types_are_ordered_as_in_the_reference_library() -> None:
    """Widest first, then by the library's own order: so that every tensor is aligned."""
    data = reference({NAMES[k.name].lower(): testing.sample(k, (1,)) for k in COMMON})
    rows = header(data)
    codes = [rows[name]["dtype"] for name in sorted(rows, key=lambda n: rows[n]["data_offsets"])]
    widths = [kind_of(code).bits for code in codes]
    assert widths == sorted(widths, reverse=True)
