from __future__ import annotations

import json
import re
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorkeep import api, dtypes, frameworks
from tensorkeep.convert import convert
from tensorkeep.dtypes import DTYPES, DType, count_of
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.formats import FORMATS
from tensorkeep.formats import json as json_format
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.store import Late, Location, join
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten

SHAPES = [(), (0,), (3,), (2, 3, 4), (0, 3), (3, 0), (1, 1, 5), (7, 1)]
Point = namedtuple("Point", "x y")


def at(data: bytes | str, name: str = "state.json") -> Location:
    return Location(MemoryStore({name: data.encode() if isinstance(data, str) else data}), name)


def encode(state: State, **options: Any) -> bytes:
    target = at(b"")
    (stream,) = json_format.encode(state, target, **options)
    assert stream.key == "state.json"
    assert stream.chunks is not None
    return join(stream.chunks)


def saved(value: Any, **options: Any) -> bytes:
    target = at(b"")
    api.save(value, target, **options)
    return bytes(target.source.read(0, target.source.size))


def loads(text: bytes | str, **options: Any) -> Any:
    return api.load(at(text), **options)


def facts(state: State) -> tuple[Any, ...]:
    """All that a state is: compared as text where == would confuse 1, 1.0 and True."""
    return (
        [(name, t.dtype.name, t.shape, bytes(t.read())) for name, t in state.items()],
        json.dumps(state.metadata),
        json.dumps(state.skeleton),
    )


def random_tensor(kind: DType, shape: tuple[int, ...], seed: int) -> Tensor:
    """A tensor of random bits: for floats all kinds of NaN, for packed types any padding."""
    rng = np.random.default_rng(seed)
    if kind is dtypes.STRING:
        texts = [rng.bytes(int(rng.integers(0, 6))) for _ in range(count_of(shape))]
        data = dtypes.pack_strings(texts)
        return Tensor(kind, shape, MemorySource(data), 0, len(data))
    if kind is dtypes.BOOL:
        return Tensor(kind, shape, MemorySource(rng.integers(0, 2, count_of(shape), "u1").data))
    return Tensor(kind, shape, MemorySource(rng.bytes(kind.nbytes(count_of(shape)))))


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DTYPES.values(), ids=str)
def test_every_type_and_shape_comes_back_with_the_same_bits(kind: DType) -> None:
    tensors = {
        f"{shape}/{seed}": random_tensor(kind, shape, seed) for shape in SHAPES for seed in range(4)
    }
    state = State(tensors, metadata={"kind": kind.name})
    for options in ({}, {"checksums": False}, {"indent": 0}, {"base64_over": 2}):
        data = encode(state, **options)
        with api.open(at(data)) as back:
            assert facts(back) == facts(state)
            assert encode(back, **options) == data


@pytest.mark.parametrize("kind", [k for k in DTYPES.values() if k.kind == "float"], ids=str)
def test_every_bit_pattern_comes_back(kind: DType) -> None:
    if kind.bits > 16:
        codes = np.frombuffer(np.random.default_rng(0).bytes(40_000), f"u{kind.bits // 8}")
        exponent = 0x7F800000 if kind.bits == 32 else 0x7FF0000000000000
        codes = np.concatenate([codes, codes | codes.dtype.type(exponent)])  # NaNs of all payloads
    else:
        codes = np.arange(1 << kind.bits, dtype=np.uint8 if kind.bits <= 8 else np.uint16)
    data = (dtypes.pack(codes.view(kind.numpy), kind) if kind.packed else codes).tobytes()
    width = 8 * len(data) // kind.bits
    finite = Tensor(kind, (width,), MemorySource(data))
    numbers = np.isfinite(doubles(finite.numpy()))
    kept = Tensor.of(np.ascontiguousarray(finite.numpy()[numbers]))
    state = State({"all": finite, "numbers": kept})
    text = encode(state)
    assert facts(api.open(at(text))) == facts(state)
    assert "values" in json.loads(text)["tensors"]["numbers"]


def doubles(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    with np.errstate(all="ignore"):
        return values.astype(np.float64)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary(max_size=1500)
    | hnp.arrays(
        st.sampled_from(["?", "i1", "u8", "f2", ">f4", "f8", "c8", "U3"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    )
    | st.floats(width=32).map(np.float32)
)
keys = st.text(max_size=5) | st.integers() | st.booleans() | st.tuples(st.text(max_size=2))
nestings = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
        | st.tuples(inner, inner).map(lambda pair: Point(*pair))
    ),
    max_leaves=12,
)


@given(nestings)
def test_any_nesting_comes_back(value: Any) -> None:
    tensors, skeleton = flatten(value, frameworks.to_array)
    state = State(tensors, skeleton=skeleton, metadata={"a": [1, None]})
    data = encode(state)
    with api.open(at(data)) as back:
        assert facts(back) == facts(state)
        assert encode(back) == data
    assert saved(loads(data), metadata={"a": [1, None]}) == data


@given(nestings)
def test_any_skeleton_in_any_order_of_tensors_comes_back(value: Any) -> None:
    tensors, skeleton = flatten(value, frameworks.to_array)
    other = {name: tensors[name] for name in sorted(tensors, reverse=True)}
    state = State(other, skeleton=skeleton)
    assert facts(api.open(at(encode(state)))) == facts(state)


def test_tensors_under_keys_of_any_type_stand_in_their_place() -> None:
    value = {key: np.ones(1) for key in (1, -0.5, True, None, ("a", 2), 10**30, "$x", "y")}
    data = saved(value)
    assert "tensors" not in json.loads(data)
    assert b'"name"' not in data
    assert list(loads(data)) == list(value)


def test_tied_tensors_are_written_once_and_tied_again() -> None:
    w = np.arange(6, dtype=np.int32).reshape(2, 3)
    data = saved({"a": w, "b": [w, w.T], "c": {"d": w}})
    assert data.count(b"[0, 1, 2]") == 1
    back = loads(data)
    assert back["a"] is back["b"][0] is back["c"]["d"]
    assert back["b"][1].tolist() == w.T.tolist()


SKELETONS: list[Any] = [
    {"framework": "torch"},
    {"framework": "torch", "tree": {"w": {"$array": "$", "framework": "jax"}, "v": "$"}},
    {"tree": {"x": "$:w", "w": "$"}},  # named elsewhere before its own place
    {"tree": {"w": "$:w", "v": "$:w"}},  # named though its place says it
    {"tree": ["$:v", {"$tuple": ["$:w", "$:v"]}]},
    {"tree": {"$dict": [[1, "$:w"], [{"$tuple": [1, "$$a"]}, {"v": "$:v"}]]}},
    {"tree": {"a": {"$newer": ["$:w"]}, "b": {"$bytes": "AAAA"}}},
    {"tree": {"a": "$:missing", "b": "$odd", "c": "$"}},
    {"tree": {"$tuple": 5}},
    {"tree": {"$dict": [["a"]]}},
    {"tree": {"$namedtuple": ["m", "N", {"w": "$:w", "v": {"$scalar": "$:v"}}]}},
    {"tree": None},
    {"tree": "$:w"},
    {"tree": "$$"},
    {"tree": {}},
    {"tree": []},
]


@pytest.mark.parametrize("skeleton", SKELETONS, ids=json.dumps)
def test_skeletons_stay_as_they_are(skeleton: Any) -> None:
    tensors = {name: Tensor.of(np.arange(2)) for name in ("w", "v", "", "$x", "unnested")}
    state = State(tensors, skeleton=skeleton)
    assert facts(api.open(at(encode(state)))) == facts(state)


def test_names_that_utf8_cannot_hold_come_back() -> None:
    tensors = {name: Tensor.of(np.arange(2)) for name in ("t", "\U0001f600", "..x")}
    state = State(tensors, skeleton={"tree": {"k\udfff": "$:t", "a\udc80": "$:t"}})
    assert facts(api.open(at(encode(state)))) == facts(state)


def test_strings_that_are_not_utf8_keep_their_bytes() -> None:
    texts = [b"\xff\xfe", b"ok \xc3\xa9", b"\xf0\x9f\x98\x80\x80", b"", b'"\\\n\0']
    data = dtypes.pack_strings(texts)
    state = State({"s": Tensor(dtypes.STRING, (5,), MemorySource(data), 0, len(data))})
    text = encode(state)
    assert facts(api.open(at(text))) == facts(state)
    assert b"\\udcff" in text


# --- the text -----------------------------------------------------------------------------------

GOLDEN = """\
{
  "tensorkeep": 1,
  "metadata": {
    "epoch": 3,
    "scores": [0.5, 0.75]
  },
  "state": {
    "lr": 0.1,
    "layers": [
      {
        "w": {"$tensor": "float32", "shape": [2, 2], "values": [
          [1.0, 2.0],
          [3.0, 4.5]
        ]},
        "b": {"$tensor": "bfloat16", "shape": [3], "values": [0.1, "nan", "-inf"]}
      },
      {
        "w": "$:layers.0.w",
        "mask": {"$tensor": "bool", "shape": [1, 2, 1], "values": [
          [
            [true],
            [false]
          ]
        ]}
      }
    ],
    "betas": {"$tuple": [0.9, 0.999]},
    "phase": {"$tensor": "complex64", "shape": [2], "values": [[0.5, -0.0], [1.0, 2.0]]},
    "seed": {"$scalar": {"$tensor": "uint64", "shape": [], "values": 18446744073709551615}},
    "words": {"$array": {"$tensor": "string", "shape": [2], "values": ["a", "é"]}, "numpy": "<U1"},
    "none": {"$tensor": "int8", "shape": [0, 3], "values": []},
    "a.b": {"$tensor": "int64", "shape": [1], "values": [1]},
    "a": {
      "b": {"$tensor": "int64", "name": "a.b~2", "shape": [1], "values": [2]}
    },
    "payload": {"$tensor": "float32", "shape": [1], "base64": "AQDAfw=="}
  },
  "xxh3_128": "5e2c1a13dd55c2c5463c852c43cbd511"
}
"""


def golden_state() -> dict[str, Any]:
    w = np.array([[1, 2], [3, 4.5]], np.float32)
    return {
        "lr": 0.1,
        "layers": [
            {"w": w, "b": np.array([0.1, np.nan, -np.inf]).astype(dtypes.BFLOAT16.numpy)},
            {"w": w, "mask": np.array([[[True], [False]]])},
        ],
        "betas": (0.9, 0.999),
        "phase": np.array([complex(0.5, -0.0), 1 + 2j], np.complex64),
        "seed": np.uint64(2**64 - 1),
        "words": np.array(["a", "é"]),
        "none": np.zeros((0, 3), np.int8),
        "a.b": np.array([1]),
        "a": {"b": np.array([2])},
        "payload": np.array([0x7FC00001], np.uint32).view(np.float32),
    }


def test_the_text_is_as_written_here() -> None:
    data = saved(golden_state(), metadata={"epoch": 3, "scores": [0.5, 0.75]})
    assert data.decode() == GOLDEN
    assert saved(loads(GOLDEN), metadata={"epoch": 3, "scores": [0.5, 0.75]}) == data


def test_the_seal_is_the_digest_with_zeros_in_its_place() -> None:
    text, seal = re.subn(r'"xxh3_128": "\w{32}"', f'"xxh3_128": "{"0" * 32}"', GOLDEN)
    assert seal == 1
    assert f'"xxh3_128": "{xxhash.xxh3_128_hexdigest(text.encode())}"' in GOLDEN


def test_a_flat_state_is_a_table_of_tensors() -> None:
    data = saved({"b": np.array([1], np.int8), "a": np.array(2, np.int8)}, checksums=False)
    assert data.decode() == (
        "{\n"
        '  "tensorkeep": 1,\n'
        '  "tensors": {\n'
        '    "b": {"$tensor": "int8", "shape": [1], "values": [1]},\n'
        '    "a": {"$tensor": "int8", "shape": [], "values": 2}\n'
        "  }\n"
        "}\n"
    )


def test_equal_states_give_equal_bytes() -> None:
    assert saved(golden_state()) == saved(golden_state())
    assert saved(golden_state(), indent=0) == saved(golden_state(), indent=0)


def test_options() -> None:
    value = {"w": np.arange(4, dtype=np.uint8)}
    assert "base64" in json.loads(saved(value, base64_over=3))["tensors"]["w"]
    assert "values" in json.loads(saved(value, base64_over=4))["tensors"]["w"]
    assert b'\n    "tensors"' in saved(value, indent=4)
    for bad in ({"indent": -1}, {"indent": None}, {"base64_over": "1"}, {"base64_over": True}):
        with pytest.raises(ArgumentError, match="has to be a number"):
            saved(value, **bad)


def test_writing_streams() -> None:
    big = np.arange(3_000_000, dtype=np.int8)
    largest = total = 0
    (stream,) = json_format.encode(State({"w": Tensor.of(big)}), at(b""), base64_over=10**9)
    for chunk in stream.chunks or ():
        assert not isinstance(chunk, Late)
        largest, total = max(largest, len(chunk)), total + len(chunk)
    assert total > 10_000_000
    assert largest < 1_300_000


@pytest.mark.parametrize("chunk", range(300, 620, 7))
def test_chunks_join_to_the_same_text(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = saved(golden_state())
    monkeypatch.setattr(json_format, "_CHUNK", chunk)
    assert saved(golden_state()) == whole


def test_a_document_that_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_format, "MAX_SIZE", 1 << 20)
    with pytest.raises(ArgumentError, match="base64_over"):
        saved(np.arange(3_000_000, dtype=np.int8), base64_over=10**9)


def test_what_json_cannot_say_is_refused() -> None:
    tensors = {"w": Tensor.of(np.arange(2))}
    metadata: Any
    for metadata in ({"loss": float("nan")}, {"big": 10**5000}, {"shape": (1, 2)}, {"a": {1: 2}}):
        with pytest.raises(UnsupportedError, match="cannot be written as JSON"):
            encode(State(tensors, metadata=metadata))
    with pytest.raises(UnsupportedError, match="holds the text of a tensor"):
        encode(State(tensors, skeleton={"tree": {"$tensor": "int8"}}))
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(CorruptError, match="nests deeper"):
        encode(State(tensors, skeleton={"tree": deep}))


def test_an_index_of_shards_is_not_overwritten() -> None:
    target = Location(MemoryStore(), "model.safetensors.index.json")
    with pytest.raises((ArgumentError, LossError)):
        list(json_format.encode(State({}), target))


# --- the seal -----------------------------------------------------------------------------------


def small() -> bytes:
    value = {"lr": 0.1, "w": np.array([[1.5, -2.0]], np.float32), "t": ("é", None, 7)}
    return saved(value, metadata={"epoch": 3})


def survives(data: bytes, name: str, expected: tuple[Any, ...]) -> bool:
    try:
        with api.open(at(data, name)) as state:
            assert facts(state) == expected
            api.load(at(data, name), verify=True)
    except TensorKeepError:
        return False
    return True


@pytest.mark.parametrize("name", ["state.json", "state.npz"])
def test_every_truncation_is_noticed(name: str) -> None:
    data = small()
    expected = facts(api.open(at(data)))
    assert survives(data, name, expected)
    assert not any(survives(data[:stop], name, expected) for stop in range(len(data)))


@pytest.mark.parametrize("name", ["state.json", "state.npz"])
def test_every_flipped_bit_is_noticed(name: str) -> None:
    data = small()
    expected = facts(api.open(at(data)))
    for i in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[i] ^= 1 << bit
            assert not survives(bytes(flipped), name, expected), (i, bit)


def test_flipped_bits_without_a_seal_raise_nothing_else() -> None:
    data = saved({"w": np.array([1.5, 2], "f4"), "t": (1, "$")}, checksums=False)
    for i in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[i] ^= 1 << bit
            try:
                loads(bytes(flipped))
            except TensorKeepError:
                continue


def test_an_edited_document_says_how_to_load_it() -> None:
    edited = small().replace(b"0.1", b"0.2")
    with pytest.raises(CorruptError, match="remove its 'xxh3_128'"):
        loads(edited)
    by_hand = re.sub(rb',\s*"xxh3_128": "\w+"', b"", edited)
    assert loads(by_hand)["lr"] == 0.2
    with pytest.raises(UnsupportedError, match="no digest"):
        loads(by_hand, verify=True)


def test_verify_needs_a_seal() -> None:
    assert loads(small(), verify=True)["lr"] == 0.1
    with pytest.raises(UnsupportedError, match="no digest"):
        loads(saved({"w": np.ones(2)}, checksums=False), verify=True)


@pytest.mark.parametrize("seal", ["null", '"x"', "1", f'"{"g" * 32}"', f'"{"0" * 32}"'])
def test_a_seal_that_is_none_is_refused(seal: str) -> None:
    with pytest.raises(CorruptError):
        loads(f'{{"tensorkeep": 1, "tensors": {{}}, "xxh3_128": {seal}}}')


@pytest.mark.parametrize("checksums", [True, False])
def test_digests_are_compared_before_they_are_lost(checksums: bool) -> None:
    tensors = {"w": Tensor.of(np.arange(3))}
    damaged = State(tensors, digests={"w": "0" * 32}, where="model.safetensors")
    store = MemoryStore()
    with pytest.raises(CorruptError, match="'w' is damaged"):
        api.save(damaged, Location(store, "state.json"), checksums=checksums)
    assert not store.data


def test_files_are_saved_and_loaded_by_their_name(tmp_path: Path) -> None:
    api.save(golden_state(), tmp_path / "state.json")
    assert api.load(tmp_path / "state.json")["betas"] == (0.9, 0.999)
    convert(tmp_path / "state.json", tmp_path / "state.safetensors")
    convert(tmp_path / "state.safetensors", tmp_path / "again.json")
    with api.open(tmp_path / "again.json") as back, api.open(tmp_path / "state.json") as first:
        assert back.skeleton == first.skeleton
        assert sorted(facts(back)[0]) == sorted(facts(first)[0])


def test_the_row_of_the_table() -> None:
    assert FORMATS["json"] is json_format.FORMAT
    assert json_format.FORMAT.holds == frozenset(DTYPES.values())
