"""Containers beyond dicts, lists and tuples: what schedulers, samplers and logs keep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tree import flatten

W = np.arange(6, dtype=np.float32).reshape(2, 3)
COUNTER: Any = Counter  # which counts with anything, whatever its types say
KEYS = ("state.safetensors", "state.json", "state.npz", "state.minidb")


def there_and_back(value: Any, key: str = KEYS[0]) -> Any:
    store = MemoryStore()
    tk.save(value, Location(store, key))
    return tk.load(Location(store, key), verify=True)


def skeleton(value: Any) -> Any:
    _, found = flatten(
        value, lambda leaf, _: ("numpy", leaf) if isinstance(leaf, np.ndarray) else None
    )
    return (found or {})["tree"]


def told(value: Any) -> Any:
    """Spell out what `==` does not compare: types, order, NaN, room and factories."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        return kind, value.dtype, value.tolist()
    if isinstance(value, set | frozenset):
        return kind, sorted(map(repr, value))
    if isinstance(value, dict):
        pairs = [(repr(key), told(child)) for key, child in value.items()]
        return kind, getattr(value, "default_factory", None), pairs
    if isinstance(value, list | tuple | deque):
        return kind, getattr(value, "maxlen", None), list(map(told, value))
    return kind, repr(value)


VALUES: dict[str, Any] = {
    "empty": [set(), frozenset(), deque(), defaultdict(), Counter(), bytearray(), range(0)],
    "set": {3, 1, 2},
    "set of all kinds": {None, "$", "a", "$$", 2, 1.5, -0.0, float("inf"), (1, ("x", None)), ()},
    "set of bools": {True, False},
    "set of huge integers": {2**53, -(2**200), 10**4000},
    "set of NaN": {float("nan"), (float("nan"), 1)},
    "frozenset": frozenset({"b", "a"}),
    "deque": deque([1, W, [W + 1, {"x": W + 2}]]),
    "deque with room": deque([1.5, 2.5], maxlen=100),
    "deque that is full": deque(range(10), maxlen=3),
    "deque of no room": deque([1], maxlen=0),
    "deque of the most room": deque([1], maxlen=sys.maxsize),
    "deque of deques": deque([deque([1], 2)], 3),
    "defaultdict of None": defaultdict(None, a=1),
    **{
        f"defaultdict of {kind.__name__}": defaultdict(kind, {"b": W, "a": 1, 3: {4: W + 1}})
        for kind in (bool, dict, float, int, list, set, str, tuple)
    },
    "defaultdicts in each other": defaultdict(list, a=[defaultdict(int, {(1, None): 2})]),
    "defaultdict with dollars": defaultdict(int, {"$": 1, "$dict": 2}),
    "Counter": Counter("banana"),
    "Counter of other keys": Counter({3: 1, 3.5: -2, None: 0, ("a", 1): 2**70}),
    "bytearray": [bytearray(b"\0\xff"), bytearray(1024), bytearray(1025), bytearray(b"$" * 5000)],
    "range": [range(5), range(2, 9, 3), range(9, -1, -2), range(5, 1), range(-(2**70), 2**70)],
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_comes_back(value: Any, key: str) -> None:
    assert told(there_and_back(value, key)) == told(value)
    assert told(there_and_back({"a": [value]}, key)) == told({"a": [value]})


def _nest(child: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    keys = plain | st.tuples(plain, st.tuples(plain))
    dicts = st.dictionaries(keys, child, max_size=4)
    counts = st.dictionaries(keys, st.integers(), max_size=4)
    kinds = st.sampled_from([None, bool, dict, float, int, list, set, str, tuple])
    room = st.none() | st.integers(4, 2**62)
    return (
        st.sets(keys, max_size=6)
        | st.frozensets(keys, max_size=6)
        | st.builds(deque, st.lists(child, max_size=4), room)
        | st.builds(defaultdict, kinds, dicts)
        | counts.map(Counter)
        | dicts
        | st.lists(child, max_size=4)
    )


_LEAVES = (
    st.just(W)
    | st.integers()
    | st.binary(max_size=2000).map(bytearray)
    | st.builds(range, st.integers(), st.integers(), st.integers(1) | st.integers(max_value=-1))
)


@given(st.recursive(_LEAVES, _nest, max_leaves=8))
def test_any_nesting_of_them_comes_back(value: Any) -> None:
    for key in KEYS[:2]:
        assert told(there_and_back(value, key)) == told(value)


# --- how they are kept --------------------------------------------------------------------------


def test_the_skeleton_of_each() -> None:
    value = {
        "set": {2, 1},
        "frozen": frozenset("a"),
        "deque": deque([W], 3),
        "free": deque(),
        "default": defaultdict(list, a=[1]),
        "none": defaultdict(None, a=1),
        "count": Counter("aab"),
        "range": range(1, 9, 2),
        "bytes": bytearray(b"a"),
        "long": bytearray(2000),
    }
    assert skeleton(value) == {
        "set": {"$set": [1, 2]},
        "frozen": {"$frozenset": ["a"]},
        "deque": {"$deque": ["$"], "maxlen": 3},
        "free": {"$deque": []},
        "default": {"$defaultdict": [["a", [1]]], "factory": "list"},
        "none": {"$defaultdict": [["a", 1]]},
        "count": {"$counter": [["a", 2], ["b", 1]]},
        "range": {"$range": [1, 9, 2]},
        "bytes": {"$bytearray": "YQ=="},
        "long": {"$bytearray": "$"},
    }


def test_a_set_is_sorted_by_type_and_then_by_value() -> None:
    mixed = {"b", 10, 9, "a", None, 0.5, (2,), (1, "z"), (1, 3), (), True}
    assert skeleton(mixed)["$set"] == [
        *(None, True, 0.5, 9, 10, "a", "b"),
        *({"$tuple": items} for items in ([], [1, 3], [1, "z"], [2])),
    ]


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text()))
def test_equal_sets_are_equal_bytes(items: list[Any]) -> None:
    once = list(set(items))
    pairs = [(item, i % 2) for i, item in enumerate(once)]
    for plain in (once, pairs):
        backwards = plain[::-1]
        assert json.dumps(skeleton(set(plain))) == json.dumps(skeleton(set(backwards)))


def test_a_set_of_text_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """The order in which Python gives text in a set is another one in each."""
    code = "import sys, tensorkeep as tk; tk.save(set(map(str, range(50))), sys.argv[1])"
    for seed in "12":
        path = str(tmp_path / f"{seed}.safetensors")
        seeded = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, path], check=True, env=seeded)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_tied_tensors_stay_tied() -> None:
    found = there_and_back({"a": deque([W, W], 5), "b": defaultdict(list, w=[W])})
    assert found["a"][0] is found["a"][1] is found["b"]["w"][0]


def test_what_comes_back_works() -> None:
    found = there_and_back(
        {
            "q": deque([1, 2], 2),
            "d": defaultdict(list),
            "c": Counter("a"),
            "b": [bytearray(2000), bytearray(2000)],
        }
    )
    found["q"].append(3)
    assert list(found["q"]) == [2, 3]
    found["d"]["new"].append(1)
    found["c"].update("ab")
    assert (found["d"]["new"], found["c"]["a"], found["c"]["z"]) == ([1], 2, 0)
    first, second = found["b"]
    first.extend(b"x")
    assert (len(first), len(second)) == (2001, 2000)


def test_a_bytearray_may_grow_once_it_is_saved() -> None:
    held = bytearray(5000)
    there_and_back({"held": held})
    held.extend(b"more")
    assert len(held) == 5004


def test_both_kinds_of_bytes_may_share_a_tensor() -> None:
    store = MemoryStore()
    tk.save([bytes(2000), bytearray(2000)], Location(store, "a.json"))
    text = store.data["a.json"].decode()
    document = json.loads(text)
    del document["xxh3_128"]
    document["state"] = [{"$bytes": "$:0"}, {"$bytearray": "$:0"}, {"$bytearray": "$:0"}]
    document["tensors"] = {"0": {"$tensor": "uint8", "shape": [2], "values": [1, 2]}}
    store.data["a.json"] = json.dumps(document).encode()
    found = tk.load(Location(store, "a.json"))
    assert found == [b"\1\2", bytearray(b"\1\2"), bytearray(b"\1\2")]
    assert list(map(type, found)) == [bytes, bytearray, bytearray]


def test_a_set_may_nest_as_deep_as_all_else() -> None:
    def nested(depth: int) -> set[Any]:
        item: Any = ()
        for _ in range(depth):
            item = (item,)
        return {item}

    assert there_and_back(nested(98)) == nested(98)
    for depth in (110, 3000):
        with pytest.raises(errors.UnsupportedError, match="deeper than 100"):
            there_and_back(nested(depth))


@pytest.mark.parametrize(
    "kind", [lambda v: deque([v]), lambda v: defaultdict(int, a=v), lambda v: defaultdict(v=v)]
)
def test_depth_is_limited(kind: Callable[[Any], Any]) -> None:
    def nested(depth: int) -> Any:
        value: Any = W
        for _ in range(depth):
            value = kind(value)
        return value

    for key in KEYS[:2]:
        assert told(there_and_back(nested(99), key)) == told(nested(99))
        with pytest.raises(errors.UnsupportedError, match="deeper than 100"):
            there_and_back(nested(1000), key)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({b"x"}, "x: is a set with an item of type bytes. Use a list, or str, int"),
        (COUNTER(a=0.5), "x: is a Counter with a count of type float. Use int .* or dict"),
        (defaultdict(lambda: 1), "x: is a defaultdict .* by <lambda>.* Use dict.*or one of bool"),
        (memoryview(b""), r"x: is a builtins.memoryview.* Use bytes\(...\)"),
    ],
)
def test_the_cure_is_told(value: Any, message: str) -> None:
    with pytest.raises(errors.UnsupportedError, match=message):
        tk.save({"x": value}, Location(MemoryStore(), KEYS[0]))


def test_diff_sees_them() -> None:
    def location(value: Any) -> Location:
        store = MemoryStore()
        tk.save(value, Location(store, KEYS[0]))
        return Location(store, KEYS[0])

    long = bytearray(2000)
    one = {"s": {"a", "b"}, "q": deque([1], 3), "c": Counter("a"), "r": range(3), "b": long}
    two = one | {"s": {"a"}, "q": deque([1], 4), "c": Counter("aa"), "r": range(4)}
    assert tk.diff(location(one), location(one)).equal
    found = tk.diff(location(one), location(two))
    assert [change.place for change in found.values] == ["s", "q", "c.a", "r"]


@pytest.mark.parametrize(
    "kind", [set, frozenset, deque, bytearray, Counter, OrderedDict, defaultdict]
)
def test_the_root_may_be_one(kind: Callable[[], Any]) -> None:
    assert told(there_and_back(kind())) == told(kind())
