"""Nestings through memory and back: everything that a state may be made of."""

from __future__ import annotations

import enum
import functools
import json
import math
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

KEY = "state.safetensors"


def there_and_back(value: Any) -> Any:
    store = MemoryStore()
    tk.save(value, Location(store, KEY))
    return tk.load(Location(store, KEY), verify=True)


def names(value: Any) -> list[str]:
    store = MemoryStore()
    tk.save(value, Location(store, KEY))
    return list(tk.open(Location(store, KEY)))


class Point(NamedTuple):
    x: Any
    y: Any = 0


class Outer:
    class Inner(NamedTuple):
        a: Any


Plain = namedtuple("Plain", "first second")
COUNTER: Any = Counter  # which counts with anything, whatever its types say
EMPTY: tuple[Any, ...] = ()

W = np.arange(6, dtype=np.float32).reshape(2, 3)
VALUES: dict[str, Any] = {
    "empty dict": {},
    "empty list": [],
    "empty tuple": (),
    "empty ordered dict": OrderedDict(),
    "None": None,
    "True": True,
    "zero": 0,
    "large int": 2**53,
    "larger int": -(2**200),
    "huge int": 10**6000,
    "int beyond a double": 2**53 + 1,
    "float": 0.1,
    "smallest float": 5e-324,
    "largest float": sys.float_info.max,
    "negative zero": -0.0,
    "infinities": [math.inf, -math.inf],
    "NaN": math.nan,
    "complex": [1 + 2j, complex(-0.0, math.nan), complex(math.inf, -0.0)],
    "text": ["", "a", "$", "$$", "$:x", "ünï", "\0", "\U0001d11e", "\ufeff", "line\n", '"'],
    "bytes": [b"", b"\0\xff", bytes(range(256)), bytes(1024), bytes(1025), b"$" * 5000],
    "array": W,
    "arrays": {"b": W, "a": W + 1},
    "nested": {"a": {"b": [{"c": W}, (W + 1, [W + 2])]}, "d": ((),)},
    "int keys": {0: W, 1: {2: W + 1}, -5: 3},
    "mixed keys": {"1": 1, 1: 2, 1.5: 3, None: 4, (1, "a"): 5, "True": 6, 2**70: 7, b"".hex(): 8},
    "bool keys": {True: 1, False: 2},
    "nested keys": {(1, (2.5, None)): W},
    "infinite keys": {math.inf: 1, -math.inf: 2},
    "huge int key": {10**6000: 1},
    "keys with dots": {"a.b": W, "a": {"b": W + 1}, "a.b~2": W + 2},
    "keys with dollars": {"$tuple": [1], "$": W, "$$": {"$": "$"}},
    "empty key": {"": W},
    "empty key and another": {"": W, "array": W + 1, "b": {"": W + 2}},
    "odd keys": {"..": W, "a/../b": W + 1, "\0": W + 2, "k" * 5000: W + 3, "": 4},
    "taken names": {"__metadata__": W, "tensorkeep": W + 1, "format": "pt"},
    "ordered": OrderedDict([("b", W), ("a", 1), (3, 2)]),
    "named tuples": [Point(1), Point(W, [Plain(1, W)]), Outer.Inner(None)],
    "named tuple at the root": Point(W, "y"),
    "NumPy scalars": [
        np.float32(0.1),
        np.float64(-0.0),
        np.int8(-1),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1j),
        np.float16("nan"),
        np.str_("ü"),
        np.bytes_(b"\xff"),
    ],
    "ml_dtypes scalars": [ml_dtypes.bfloat16(1.5), ml_dtypes.int4(-3), ml_dtypes.float8_e5m2(2)],
    "0-d arrays": [np.array(3), np.array("text"), np.array(b"x"), np.array(1j)],
    "empty arrays": [
        np.zeros((0, 3)),
        np.zeros((3, 0), "U4"),
        np.array([], "S"),
        np.zeros(0, bool),
    ],
    "text arrays": [
        np.array(["a", "bcd"]),
        np.array([b"a", b"\xff\0x"]),
        np.array(["a"], "U9"),
        np.array(["a", "b" * 50], np.dtypes.StringDType()),
        np.array(["a", ""], object),
        np.array([["a"], ["\U0001d11e"]], ">U1"),
    ],
    "strides": [W.T, W[::-1], W[:, ::2], W[::-1, ::-2], np.asfortranarray(W)],
    "broadcast": np.broadcast_to(np.float32(2), (3, 4)),
    "byte orders": [W.astype(">f4"), np.arange(3, dtype=">i8"), np.array(5, ">u2")],
    "maps": np.memmap(Path(__file__), np.uint8, "r")[:10],
    "long lists": list(range(3000)),
    "wide": {str(i): np.int64(i) for i in range(300)},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_comes_back(value: Any) -> None:
    found = there_and_back(value)
    expected = np.asarray(value) if isinstance(value, np.memmap) else value
    testing.assert_equal_states(found, expected)


def test_the_order_of_keys_is_kept() -> None:
    nested = {"z": W, "a": np.zeros(2, np.int8), "m": {"y": 1, "b": W}, "c": np.ones(1)}
    found = there_and_back(nested)
    assert list(found) == ["z", "a", "m", "c"]
    assert list(found["m"]) == ["y", "b"]


def test_a_flat_dict_of_arrays_is_anyones_file() -> None:
    store = MemoryStore()
    tk.save({"a": W, "b.c": W + 1}, Location(store, KEY), checksums=False)
    data = store.data[KEY]
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert sorted(header) == ["a", "b.c"]


def test_integers_that_other_readers_would_round_are_written_as_text() -> None:
    store = MemoryStore()
    tk.save({"small": 2**53 - 1, "large": 2**53}, Location(store, KEY))
    assert str(2**53 - 1).encode() in store.data[KEY]
    assert str(2**53).encode() not in store.data[KEY]


def test_names_are_dotted_paths() -> None:
    value = {
        "enc": [{"w": W}, {"w": W + 1}],
        "opt": {"state": {0: {"m": W + 2}}},
        "p": Point(W + 3),
    }
    assert sorted(names(value)) == ["enc.0.w", "enc.1.w", "opt.state.0.m", "p.x"]
    assert names(W) == ["array"]


# --- tied tensors -------------------------------------------------------------------------------


def test_tied_tensors_are_saved_once_and_tied_again() -> None:
    tied = {"embed": W, "head": {"w": W}, "also": [W, W]}
    assert names(tied) == ["embed"]
    found = there_and_back(tied)
    assert found["embed"] is found["head"]["w"] is found["also"][0] is found["also"][1]
    found["embed"][0, 0] = 99
    assert found["head"]["w"][0, 0] == 99


def test_two_views_of_the_same_memory_are_tied() -> None:
    found = there_and_back({"a": W, "b": W.view(), "c": W[:], "d": W.reshape(2, 3)})
    assert found["a"] is found["b"] is found["c"] is found["d"]


@pytest.mark.parametrize(
    "other",
    [W.T, W[:1], W[1:], W.reshape(3, 2), W.view(np.int32), W.reshape(-1), W[::-1], W.copy()],
)
def test_views_that_differ_are_not(other: Any) -> None:
    found = there_and_back({"a": W, "b": other})
    assert not np.shares_memory(found["a"], found["b"])
    testing.assert_equal_states(found["b"], other)


def test_temporary_arrays_at_one_address_are_not_tied() -> None:
    class Source(dict[str, Any]):
        pass

    parts = {str(i): tk.Tensor.of(np.full(1000, i)) for i in range(50)}
    found = there_and_back(parts)
    assert [found[str(i)][0] for i in range(50)] == list(range(50))


def test_empty_arrays_are_not_tied_to_others() -> None:
    empty = np.zeros((0, 3))
    found = there_and_back({"a": empty, "b": empty, "c": np.zeros((3, 0))})
    assert found["b"].shape == (0, 3)
    assert found["c"].shape == (3, 0)


# --- named tuples -------------------------------------------------------------------------------


def test_an_imported_class_comes_back_as_itself() -> None:
    assert type(there_and_back(Point(1))) is Point
    assert type(there_and_back(Outer.Inner(1))) is Outer.Inner


def test_a_class_that_is_gone_comes_back_as_an_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    tk.save([Point(1, 2), Point(3, 4)], Location(store, KEY))
    monkeypatch.delitem(sys.modules, Point.__module__)
    first, second = tk.load(Location(store, KEY))
    assert type(first) is type(second) is not Point
    assert (first, first.x, first._fields) == (Point(1, 2), 1, ("x", "y"))
    assert type(first).__name__ == "Point"
    assert Point.__module__ not in sys.modules


def test_a_class_whose_fields_changed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    tk.save(Point(1, 2), Location(store, KEY))
    changed = types.ModuleType(Point.__module__)
    changed.Point = namedtuple("Point", "y x")  # type: ignore[attr-defined, misc]
    monkeypatch.setitem(sys.modules, Point.__module__, changed)
    found = tk.load(Location(store, KEY))
    assert (found.x, found.y) == (1, 2)


def test_a_local_class_comes_back_as_an_equal_one() -> None:
    Local = namedtuple("Local", "a b")
    testing.assert_equal_states(there_and_back(Local(1, W)), Local(1, W))


def test_renamed_fields() -> None:
    odd = namedtuple("odd", ["a", "def", "a"], rename=True)
    with_odd = odd(1, 2, 3)
    found = there_and_back(with_odd)
    assert tuple(found) == (1, 2, 3)
    assert found._fields == with_odd._fields


# --- what is refused ----------------------------------------------------------------------------


class Color(enum.IntEnum):
    RED = 1


class Mine(dict[str, Any]):
    pass


class Crooked(tuple[Any, ...]):
    _fields = ("a",)


def cyclic(kind: type) -> Any:
    if kind is dict:
        ring: Any = {}
        ring["self"] = ring
    else:
        ring = []
        ring.append([ring])
    return ring


REFUSED: dict[str, Any] = {
    "object": object(),
    "set of tuples of bytes": {(1, b"x")},
    "set of named tuples": {Point(1)},
    "set of sets": {frozenset()},
    "frozenset of NumPy's": frozenset([np.int64(1)]),
    "set of half a surrogate": {"\ud800"},
    "set of a deep tuple": {functools.reduce(lambda inner, _: (inner,), range(3000), EMPTY)},
    "function": len,
    "lambda": lambda: 0,
    "class": int,
    "module": math,
    "generator": (i for i in "ab"),
    "iterator": iter([]),
    "memoryview": memoryview(b"x"),
    "path": Path(),
    "enum": Color.RED,
    "dict subclass": Mine(),
    "list subclass": type("Sub", (list,), {})(),
    "int subclass": type("Sub", (int,), {})(3),
    "str subclass": type("Sub", (str,), {})("x"),
    "tuple subclass": type("Sub", (tuple,), {})(),
    "tuple that only seems named": Crooked((1, 2)),
    "set subclass": type("Sub", (set,), {})(),
    "frozenset subclass": type("Sub", (frozenset,), {})(),
    "bytearray subclass": type("Sub", (bytearray,), {})(),
    "deque subclass": type("Sub", (deque,), {})(),
    "Counter subclass": type("Sub", (Counter,), {})(),
    "defaultdict subclass": type("Sub", (defaultdict,), {})(int),
    "defaultdict of a function": defaultdict(lambda: 3),
    "defaultdict of a bound function": defaultdict(functools.partial(int, 3)),
    "defaultdict of a class like a builtin": defaultdict(type("int", (int,), {})),
    "defaultdict of another builtin": defaultdict(bytearray),
    "Counter of floats": COUNTER(a=1.5),
    "Counter of bools": COUNTER(a=True),
    "Counter of arrays": COUNTER(a=W),
    "Counter with a key of bytes": Counter(b"ab" for _ in range(2)),
    "slice": slice(3),
    "Random": random.Random(),
    "Generator": np.random.default_rng(),
    "RandomState": np.random.RandomState(0),
    "dtype": np.dtype("f4"),
    "masked array": np.ma.masked_array([1, 2], [True, False]),
    "matrix": type("Sub", (np.ndarray,), {})((2,)),
    "record array": np.zeros(2, [("a", "i4")]),
    "records": np.zeros(1, [("a", "i4")])[0],
    "object array": np.array([object()]),
    "array of mixed objects": np.array([1, "a"], object),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "date": np.datetime64("2020-01-01"),
    "time span": np.timedelta64(3, "s"),
    "long double": np.longdouble(1),
    "half a surrogate": "\ud800",
    "half a surrogate in an array": np.array(["\ud800"], object),
    "half a surrogate in a scalar": np.str_("\ud800"),
    "cyclic dict": cyclic(dict),
    "cyclic list": cyclic(list),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_named_by_its_place(value: Any) -> None:
    store = MemoryStore()
    with pytest.raises(errors.UnsupportedError) as caught:
        tk.save({"model": [1, {"bad": value}]}, Location(store, KEY))
    assert caught.value.where.startswith("model.1.bad")
    assert caught.value.cure
    assert len(str(caught.value)) < 1000
    assert store.data == {}
    with pytest.raises(errors.UnsupportedError, match=r"the state|self|0"):
        tk.save(value, Location(store, KEY))


@pytest.mark.parametrize(
    "key",
    [b"x", 1j, frozenset(), Point(1), (1, b"x"), np.int64(3), np.str_("a"), Color.RED, object()],
)
def test_keys_that_cannot_be_kept(key: Any) -> None:
    with pytest.raises(errors.UnsupportedError, match=r"model\.0.*key.*Use str, int"):
        tk.save({"model": [{key: 1}]}, Location(MemoryStore(), KEY))


def test_depth_is_limited() -> None:
    def nest(depth: int, kind: Any) -> Any:
        value: Any = W
        for _ in range(depth):
            value = kind(value)
        return value

    kinds: list[Any] = [
        lambda v: [v],
        lambda v: (v,),
        lambda v: {"a": v},
        lambda v: {1: v},
        Point,
        lambda v: OrderedDict(a=v),
    ]
    for kind in kinds:
        testing.assert_equal_states(there_and_back(nest(99, kind)), nest(99, kind))
        for depth in (110, 100_000):
            with pytest.raises(errors.UnsupportedError, match="deeper than 100"):
                tk.save(nest(depth, kind), Location(MemoryStore(), KEY))


def test_a_file_of_others_loads_flat() -> None:
    header = json.dumps({"a.b": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    store = MemoryStore({KEY: len(header).to_bytes(8, "little") + header + b"\1\2"})
    found = tk.load(Location(store, KEY))
    assert list(found) == ["a.b"]
    assert found["a.b"].tolist() == [1, 2]
