from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats import flax
from tensorkeep.formats.flax import writing
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.store import Location, join
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore, assert_equal_states, sample
from tensorkeep.wire.msgpack import Span, Walk, pack


def at(data: bytes, key: str = "a.msgpack") -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.msgpack"), **options)
    return store.data["a.msgpack"]


def packed(value: Any) -> bytes:
    """Write what flax.serialization.msgpack_serialize does, without Flax."""

    def extended(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray | np.generic):
            array = np.asarray(leaf)
            data = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
            return msgpack.ExtType(1 if isinstance(leaf, np.ndarray) else 3, data)
        if isinstance(leaf, complex):
            return msgpack.ExtType(2, msgpack.packb((leaf.real, leaf.imag)))
        return leaf

    return bytes(msgpack.packb(value, default=extended, strict_types=True))


def unpacked(data: bytes) -> Any:
    """Read what flax.serialization.msgpack_restore does, without Flax."""

    def leaf(code: int, body: bytes) -> Any:
        if code == 2:
            return complex(*msgpack.unpackb(body))
        shape, name, buffer = msgpack.unpackb(body, raw=True)
        array = np.frombuffer(buffer, np.dtype(name.decode())).reshape(shape)
        return array if code == 1 else array[()]

    return msgpack.unpackb(data, ext_hook=leaf, raw=False, strict_map_key=False)


NESTED = {
    "params": {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(3, ml_dtypes.bfloat16)},
    "opt": {"0": {"mu": np.zeros((0, 3))}, "1": {}},
    "numbers": [0, 127, 128, 255, 256, 65536, 2**32, 2**64 - 1, -1, -32, -33, -129, -(2**63)],
    "step": np.int32(7),
    "rate": 0.5,
    "c": 1 - 2j,
    "none": None,
    "on": [True, False],
    "text": ["", "x" * 31, "ü" * 20, "y" * 300, "z" * 70_000, "$dollar"],
    "raw": [b"", b"ab", bytes(300), bytes(70_000)],
    "scalar": np.array(1.5),
    "i4": np.arange(-3, 4).astype(ml_dtypes.int4),
}


def test_it_writes_what_flax_does() -> None:
    assert saved(NESTED) == packed(NESTED)
    assert_equal_states(tk.load(at(packed(NESTED))), NESTED)
    assert_equal_states(unpacked(saved(NESTED)), NESTED)


@pytest.mark.parametrize("kind", set(DTYPES.values()) - {STRING}, ids=str)
def test_every_type(kind: DType) -> None:
    arrays = {str(shape): sample(kind, shape).numpy() for shape in [(), (0,), (3,), (2, 3, 4)]}
    assert saved(arrays) == packed(arrays)
    assert_equal_states(tk.load(at(saved(arrays))), arrays)


def test_other_layouts() -> None:
    base = np.arange(24).reshape(2, 3, 4)
    arrays = {"f": np.asfortranarray(base), "big": base.astype(">i2"), "step": base[:, ::2]}
    assert_equal_states(unpacked(saved(arrays)), arrays)


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.sampled_from([math.nan, math.copysign(math.nan, -1)])
    | st.complex_numbers()
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
_NESTINGS = st.recursive(
    _LEAVES,
    lambda child: (
        st.lists(child, max_size=20)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 300), child, max_size=20)
    ),
    max_leaves=20,
)


@given(_NESTINGS)
def test_plain_values_are_as_msgpack_has_them(value: Any) -> None:
    data = packed({"a": value})
    assert saved({"a": value}) == data
    assert_equal_states(tk.load(at(data)), {"a": value})


@given(_NESTINGS)
def test_any_msgpack_is_walked(value: Any) -> None:
    def spans(found: Any, source: bytes) -> Any:
        if isinstance(found, Span):
            return source[found.start : found.stop]
        if isinstance(found, list):
            return [spans(item, source) for item in found]
        if isinstance(found, dict):
            return {key: spans(item, source) for key, item in found.items()}
        return found

    plain = value if not _has_complex(value) else None
    data = bytes(msgpack.packb(plain))
    assert_equal_states(spans(Walk(MemorySource(data)).whole(), data), plain)


def _has_complex(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_complex, value))
    if isinstance(value, dict):
        return any(map(_has_complex, value.values()))
    return isinstance(value, complex)


def test_packing() -> None:
    assert pack({"a": [1, None]}) == msgpack.packb({"a": [1, None]})
    assert Walk(MemorySource(msgpack.packb(1.5, use_single_float=True))).whole() == 1.5
    with pytest.raises(TypeError):
        pack((1,))
    with pytest.raises(OverflowError):
        pack(2**64)


def test_large_arrays_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_LARGEST", 100)
    for array in (np.arange(50.0).reshape(5, 10), np.arange(250).astype(ml_dtypes.uint4)):
        data = saved({"w": array, "s": np.ones(2)})
        raw = unpacked(data)
        assert list(raw["w"]) == ["__msgpack_chunked_array__", "shape", "chunks"]
        step = 100 // array.dtype.itemsize
        chunks = [array.reshape(-1)[i : i + step] for i in range(0, array.size, step)]
        assert raw["w"]["shape"] == {str(i): n for i, n in enumerate(array.shape)}
        assert_equal_states(raw["w"]["chunks"], {str(i): c for i, c in enumerate(chunks)})
        assert_equal_states(tk.load(at(data)), {"w": array, "s": np.ones(2)})
    with tk.open(at(saved({"w": np.arange(50.0).reshape(5, 10)}))) as state:
        assert state["w"][2, 3] == 23
        assert bytes(state["w"].read()) == np.arange(50.0).tobytes()


# --- what Flax has no place for ------------------------------------------------------------------

_W = np.ones(2)
LOST: dict[str, Any] = {
    "t is a tuple, which is lost": {"t": (1, _W)},
    "t is a set, which is lost": {"t": {1}},
    "t is an integer of more than 64 bits": {"t": 2**64},
    "t is a bytearray": {"t": bytearray(b"x")},
    "b is an array tied to 'a'": {"a": _W, "b": _W},
    "t is an array of text": {"t": np.array(["x"], object)},
    "t is a dict with tuples for keys": {"t": {(1, 2): 3}},
}


@pytest.mark.parametrize("problem", LOST)
def test_losses_are_told(problem: str) -> None:
    with pytest.raises(LossError, match=problem):
        saved(LOST[problem])


def test_what_is_left_of_a_loss() -> None:
    value = {"t": (1, np.ones(2)), "i": 2**70}
    found = tk.load(at(saved(value, lossy=True)))
    assert_equal_states(found, {"t": [1, np.ones(2)], "i": hex(2**70)})
    with pytest.raises(LossError, match=r"the metadata \(epoch\) is lost"):
        saved({"w": np.ones(2)}, metadata={"epoch": 1})
    with pytest.raises(UnsupportedError, match="no arrays of text"):
        saved({"t": np.array(["x"])}, lossy=True)
    with pytest.raises(ArgumentError, match="keeps the key"):
        saved({"__msgpack_chunked_array__": 1})
    many = {str(i): (i,) for i in range(9)}
    with pytest.raises(LossError, match="and 4 more such places"):
        saved(many)


# --- laziness ------------------------------------------------------------------------------------


def test_opening_reads_headers_only(tmp_path: Path) -> None:
    arrays = {str(i): np.zeros((100, 1000), np.float32) for i in range(20)}
    store = CountingStore(MemoryStore({"a.msgpack": saved(arrays)}))
    with tk.open(Location(store, "a.msgpack")) as state:
        assert store.bytes_read < 40_000
        before = store.bytes_read
        state["3"][7]
        assert store.bytes_read - before == 4000
    tk.save(arrays, tmp_path / "a.msgpack")
    with tk.open(tmp_path / "a.msgpack") as state:
        assert {tensor.source for tensor in state.values()} == {state["0"].source}
        assert state["0"].source.mapped


def test_the_size_is_known() -> None:
    for value in (NESTED, {}, {"a": [np.ones(300_000)]}):
        state = tk.api._state_of(value)
        (stream,) = flax.FORMAT.encode(state, at(b""))  # type: ignore[misc]
        assert stream.size == len(join(stream.chunks or []))


# --- shards --------------------------------------------------------------------------------------


def sharded() -> dict[str, bytes]:
    first = {"model": {"a": {"kernel": np.ones((2, 3))}}}
    second = {"model": {"a": {"bias": np.zeros(3)}, "b": np.arange(4)}}
    names = {"model/a/kernel": 1, "model/a/bias": 2, "model/b": 2}
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {n: f"flax_model-0000{i}-of-00002.msgpack" for n, i in names.items()},
    }
    return {
        "flax_model.msgpack.index.json": json.dumps(index).encode(),
        "flax_model-00001-of-00002.msgpack": packed(first),
        "flax_model-00002-of-00002.msgpack": packed(second),
    }


def test_shards_are_one_state() -> None:
    for key in ("flax_model.msgpack.index.json", "flax_model.msgpack"):
        with tk.open(Location(MemoryStore(sharded()), key)) as state:
            assert state.format == "flax"
            assert sorted(state) == ["model.a.bias", "model.a.kernel", "model.b"]
        found = tk.load(Location(MemoryStore(sharded()), key))
        model = {"a": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}, "b": np.arange(4)}
        assert_equal_states(found, {"model": model})


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("model/b", "model/c", r"holds 'model/b', which the index does not place"),
        ('"weight_map"', '"map"', "no weight_map"),
        ("flax_model-00001", "../x-00001", "not inside its own folder"),
        ("00001-of-00002.msgpack", "00001-of-00002.bin", "gives 'flax_model-00001"),
        (
            '"model/b"',
            '"model/z": "flax_model-00002-of-00002.msgpack", "model/b"',
            "puts 'model/z'",
        ),
    ],
)
def test_indexes_that_lie(old: str, new: str, problem: str) -> None:
    files = sharded()
    key = "flax_model.msgpack.index.json"
    files[key] = files[key].replace(old.encode(), new.encode())
    with pytest.raises((CorruptError, UnsafeError), match=problem):
        tk.load(Location(MemoryStore(files), key))


# --- what is accepted, and damage ----------------------------------------------------------------


def test_an_index_is_not_written() -> None:
    with pytest.raises(ArgumentError, match="the name of an index of shards"):
        tk.save({"w": np.ones(1)}, at(b"", "a.msgpack.index.json"))


def test_acceptance() -> None:
    data = packed(NESTED)
    assert formats.detect(at(data, "anything.bin")).name == "flax"
    assert formats.detect(at(packed({}))).name == "flax"
    assert formats.detect(at(packed(np.ones(2)))).name == "flax"
    assert not flax.accepts(at(packed({"a": 1}), "a.bin"))
    for other in (b"", b"\x80\x04N.", b"PK\3\4", b'{"a": 1}', b"\x81", b"\xde\0"):
        assert not flax.accepts(at(other))
    many = {str(i): i for i in range(200)}
    assert flax.accepts(at(packed(many)))


def test_every_truncation_and_flipped_bit() -> None:
    value = {"w": np.arange(3, dtype="i2"), "s": np.float32(1), "c": 1j, "l": [b"ab", "x", None]}
    data = packed(value)
    for length in range(len(data)):
        with pytest.raises(TensorKeepError):
            tk.load(at(data[:length]))
    for byte in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[byte] ^= 1 << bit
            try:
                tk.load(at(bytes(changed)))
            except TensorKeepError:
                continue


def test_an_old_dtype_name_is_bytes() -> None:
    body = msgpack.packb([[2], b"float32", struct.pack("<2f", 1, 2)])
    data = msgpack.packb({"w": msgpack.ExtType(1, body)})
    assert tk.load(at(data))["w"].tolist() == [1, 2]


def test_a_single_value_is_its_own_state() -> None:
    values: list[Any] = [np.float32(2), np.ones(3), bytes(5000), {"$scalar": np.ones(1)}, {}, [1]]
    for value in values:
        assert_equal_states(tk.load(at(saved(value))), value)


def test_an_empty_key() -> None:
    value = {"": np.ones(1), "a": 2}
    assert_equal_states(tk.load(at(saved(value))), value)


def test_the_deepest_state_is_read_again() -> None:
    value: Any = np.ones(1)
    for _ in range(101):
        value = {"k": value}
    assert_equal_states(tk.load(at(saved(value))), value)


@pytest.mark.parametrize(
    "tree",
    [{"$array": 5}, {"$tuple": 1.5}, {"w": {"$int": 5}}, {"$bytes": [1]}, [2**70], {"$dict": [5]}],
)
def test_a_nesting_that_is_none(tree: Any) -> None:
    state = State({"w": Tensor.of(np.ones(1))}, skeleton={"tree": tree})
    with pytest.raises(CorruptError, match="the nesting stored with it is broken"):
        writing.losses(state)
