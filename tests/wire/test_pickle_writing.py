from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.errors import UnsupportedError
from tensorkeep.wire.pickle.writing import Call, Global, Persistent, dump, int_size

PLAIN = st.none() | st.booleans() | st.integers(-(2**90), 2**90) | st.floats() | st.text(max_size=5)
KEYS = st.text(max_size=5) | st.integers() | st.tuples(st.integers(), st.text(max_size=2))
VALUES = st.recursive(
    PLAIN,
    lambda child: (
        st.lists(child, max_size=5)
        | st.lists(child, max_size=5).map(tuple)
        | st.dictionaries(KEYS, child, max_size=4)
        | st.dictionaries(KEYS, child, max_size=4).map(OrderedDict)
    ),
    max_leaves=20,
)
# What PyTorch's restricted reader knows.
KNOWN = {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL"),
    *("REDUCE", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
}


@given(VALUES)
def test_python_reads_what_is_written(value: Any) -> None:
    data = dump(value)
    assert repr(pickle.loads(data)) == repr(value)
    assert {opcode.name for opcode, _, _ in pickletools.genops(data)} <= KNOWN
    assert dump(value) == data


def test_many_items_and_many_names() -> None:
    for value in (
        [],
        list(range(999)),
        list(range(1000)),
        list(range(1001)),
        list(range(2001)),
        {str(i): i for i in range(3001)},
        [str(i) for i in range(300)] * 2,
    ):
        assert pickle.loads(dump(value)) == value


def test_integers_at_their_edges() -> None:
    edges = [1 << bits for bits in (7, 8, 15, 16, 31, 32, 63, 64, 2038)]
    values = [sign * (edge + step) for edge in edges for step in (-1, 0, 1) for sign in (1, -1)]
    assert pickle.loads(dump(values)) == values
    assert int_size(2**2039 - 1) == 255
    with pytest.raises(UnsupportedError, match="an integer of 256 bytes is not written"):
        dump(2**2039)


def test_calls_and_what_lies_outside() -> None:
    shared = Call(Global("collections", "deque"), ([1, 2],))
    twice = Call(Global("collections", "deque"), ([1, 2],))
    found = pickle.loads(dump([shared, shared, twice, Global("builtins", "len")]))
    assert found[0] is found[1]
    assert found[0] is not found[2]
    assert found[0] == found[2]
    assert found[3] is len

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, identifier: Any) -> Any:
            return identifier[1].upper()

    import io

    data = dump({"a": Persistent(("storage", "x")), "b": Persistent(("storage", "y"))})
    assert Unpickler(io.BytesIO(data)).load() == {"a": "X", "b": "Y"}


def test_other_values_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="a set is not written to pickles"):
        dump([{1}])
