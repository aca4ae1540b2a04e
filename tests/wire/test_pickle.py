"""The machine that reads pickles, against Python's own pickle, on plain data."""

from __future__ import annotations

import math
import pickle
import pickletools
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import errors
from tensorkeep.source import MemorySource
from tensorkeep.wire.pickle.arrays import ARRAYS
from tensorkeep.wire.pickle.machine import Unpickled, read_pickle, read_pickle_in
from tensorkeep.wire.pickle.opcodes import TABLE, _unknown
from tensorkeep.wire.pickle.plain import PLAIN
from tensorkeep.wire.pickle.values import CounterMap, DefaultMap, Known, Opaque, OrderedMap

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)

keys = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8)
leaves = (
    keys
    | st.floats()
    | st.complex_numbers()
    | st.binary(max_size=300).map(bytearray)
    | st.text(st.characters(), max_size=300)
    | st.sets(keys, max_size=4)
    | st.frozensets(keys, max_size=4)
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys | st.tuples(keys, keys), inner, max_size=5)
    ),
    max_leaves=20,
)


def read(data: bytes, **options: Any) -> Unpickled:
    return read_pickle(data, "a.pkl", allowed=PLAIN | ARRAYS, **options)


def same(found: Any, expected: Any) -> None:
    """Compare types too, NaNs with one another, and -0.0 with itself alone."""
    assert type(found) is type(expected)
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        same(list(found), list(expected))
        same(list(found.values()), list(expected.values()))
    elif isinstance(expected, float):
        assert repr(found) == repr(expected)
    elif isinstance(expected, complex):
        same([found.real, found.imag], [expected.real, expected.imag])
    else:
        assert found == expected


@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_reads_as_python_reads_it(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = read(data)
    same(found.value, pickle.loads(data))
    assert found.end == len(data)
    assert found.refused == ()


@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_the_slow_pickler_writes_what_is_read(value: Any, protocol: int) -> None:
    data = pickletools.optimize(pickle._dumps(value, protocol))  # type: ignore[attr-defined]
    same(read(data).value, pickle.loads(data))


@every_protocol
def test_containers(protocol: int) -> None:
    value = [
        OrderedDict([("b", 1), ("a", [2])]),
        Counter("abca"),
        defaultdict(list, {"x": [1]}),
        deque([1, 2, 3], 5),
        [[]] * 1001,
    ]
    ordered, counted, default, queue, many = read(pickle.dumps(value, protocol)).value
    assert type(ordered) is OrderedMap
    assert list(ordered.items()) == [("b", 1), ("a", [2])]
    assert type(counted) is CounterMap
    assert counted == {"a": 2, "b": 1, "c": 1}
    assert type(default) is DefaultMap
    assert default == {"x": [1]}
    assert type(default.factory) is Known
    assert default.factory.name == "list"
    assert queue == value[3]
    assert queue.maxlen == 5
    assert len(many) == 1001
    assert many[0] is many[-1]


@every_protocol
def test_what_a_container_holds_in_itself(protocol: int) -> None:
    value: list[Any] = [1]
    value.append(value)
    found = read(pickle.dumps(value, protocol)).value
    assert found[1] is found
    looped: dict[str, Any] = {}
    looped["self"] = (looped,)
    found = read(pickle.dumps(looped, protocol)).value
    assert found["self"][0] is found


class Thing:
    """An object with attributes."""

    def __init__(self) -> None:
        self.weight = [1.5]


class Stateful(Thing):
    """An object that does something with what it was."""

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("ran")


class Listed(list[Any]):
    """A list of a class of its own."""


class Made:
    """An object made with keywords."""

    def __new__(cls, *, size: int = 0) -> Made:
        assert size == 0
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"size": 3}


@every_protocol
@pytest.mark.parametrize("kind", [Thing, Stateful])
def test_objects_become_data(protocol: int, kind: type[Thing]) -> None:
    found = read(pickle.dumps({"a": kind()}, protocol))
    made = found.value["a"]
    assert type(made) is Opaque
    assert made.path == f"{__name__}.{kind.__qualname__}"
    assert made.state == {"weight": [1.5]}
    assert found.refused == (made.path,)


@every_protocol
def test_objects_with_items(protocol: int) -> None:
    made = read(pickle.dumps(Listed([1, 2]), protocol)).value
    assert type(made) is Opaque
    assert made.items == [1, 2] or made.args == ([1, 2],)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_objects_with_keywords(protocol: int) -> None:
    made = read(pickle.dumps(Made(), protocol)).value
    assert type(made) is Opaque
    if protocol >= 4:
        assert made.kwargs == {"size": 3}


@every_protocol
def test_names_of_functions(protocol: int) -> None:
    found = read(pickle.dumps([math.floor, Thing], protocol))
    assert [value.path for value in found.value] == ["math.floor", f"{__name__}.Thing"]
    assert found.refused == ("math.floor", f"{__name__}.Thing")


ARRAY_CASES = {
    "big": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": np.array(["ab", "ü"]),
    "raw": np.array([b"ab", b"c"]),
    "bfloat16": np.ones(3, ml_dtypes.bfloat16),
    "float8": np.ones(3, ml_dtypes.float8_e4m3fn),
    "scalar": np.float32(3),
    "no axes": np.array(3),
    "empty": np.zeros((0, 3)),
    "complex": np.array([1 + 2j], np.complex64),
    "bool": np.array([True, False]),
}


@every_protocol
@pytest.mark.parametrize("array", ARRAY_CASES.values(), ids=ARRAY_CASES)
def test_arrays(array: Any, protocol: int) -> None:
    found = read(pickle.dumps(array, protocol))
    assert found.refused == ()
    made = found.value.numpy()
    assert made.dtype == array.dtype
    assert made.shape == array.shape
    assert made.tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("array", [np.array([{}]), np.array("2020-01-01", "M8[D]")])
def test_arrays_of_other_types(array: Any) -> None:
    with pytest.raises(errors.UnsupportedError, match="a NumPy array of"):
        read(pickle.dumps(array)).value.numpy()


def test_python_2_strings() -> None:
    assert read(b"S'a\\x00\\n'\n.").value == "a\0\n"
    assert read(b"U\x02\xc3\xbc.").value == "ü"
    assert read(b"T\x02\0\0\0\xff\xfe.").value == b"\xff\xfe"
    assert read(b"Vu\\u00fc\n.").value == "uü"
    assert read(b"(lp0\nI1\naL2L\na.").value == [1, 2]
    assert read(b"(dp0\nS'a'\nI01\nsF1.5\n0.").value == {"a": True}


def test_persistent_identifiers() -> None:
    assert read(b"P12\n.", persistent=lambda name: ["kept", name]).value == ["kept", "12"]
    assert read(b"K\x05Q.", persistent=lambda name: name + 1).value == 6
    with pytest.raises(errors.UnsupportedError, match="kept somewhere else"):
        read(b"K\x05Q.")


def test_pickles_behind_one_another() -> None:
    data = pickle.dumps([1]) + pickle.dumps({"b": 2}) + b"rest"
    first = read(data)
    second = read(data, start=first.end)
    assert (first.value, second.value) == ([1], {"b": 2})
    assert data[second.end :] == b"rest"


def test_a_long_pickle_is_read_in_growing_windows() -> None:
    value = [bytes(300_000), "a" * 2_000_000]
    source = MemorySource(b"xx" + pickle.dumps(value) + b"yy")
    found = read_pickle_in(source, 2, allowed=PLAIN)
    assert found.value == value
    assert found.end == source.size - 2


def test_every_instruction_of_python_is_known() -> None:
    known = {code for code, step in enumerate(TABLE) if step is not _unknown}
    assert known == {ord(row.code) for row in pickletools.opcodes}
