"""Fields that a later schema added: kept, put back, and never taken for known ones."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from tests.formats.protobuf_reference import STATE, at, classes, google, saved

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, LossError
from tensorkeep.formats.protobuf.unknown import KEY
from tensorkeep.testing import assert_equal_states

LATER: Any = classes(extra="\n  string note = 1000;\n  repeated int64 flags = 20;\n")["State"]
VALUE = {"a": np.arange(3), "b": np.ones(2, np.float32)}


def later() -> Any:
    """A State of a schema with more fields in every message."""
    state = LATER.FromString(google(VALUE).SerializeToString())
    state.note = "of the state"
    state.flags.extend([1, -1])
    state.header.note = "of the header"
    state.header.tensors[1].note = "of b"
    return state


def test_they_survive_a_save() -> None:
    data = later().SerializeToString()
    assert_equal_states(tk.load(at(data)), VALUE)
    with tk.open(at(data)) as state:
        found = state.metadata[KEY]
        assert isinstance(found, dict)
        assert found.keys() == {"state", "header", "tensors"}
        for checksums in (True, False):
            again = saved(state, checksums=checksums)
            assert_equal_states(tk.load(at(again), verify=checksums), VALUE)
            message = LATER.FromString(again)
            assert message.note == "of the state"
            assert list(message.flags) == [1, -1]
            assert message.header.note == "of the header"
            assert [row.note for row in message.header.tensors] == ["", "of b"]
            assert not message.header.metadata
            with tk.open(at(again)) as second:
                assert second.metadata == state.metadata


def test_they_survive_another_format() -> None:
    with tk.open(at(later().SerializeToString())) as state:
        other = at(b"", "b.safetensors")
        tk.save(state, other)
    with tk.open(other) as state:
        assert LATER.FromString(saved(state)).header.tensors[1].note == "of b"


def test_those_of_a_chunk_are_told() -> None:
    message = later()
    message.chunks[0].note = "lost"
    with tk.open(at(message.SerializeToString())) as state:
        assert state.remarks == {"a": "has fields that are not known here"}
    assert_equal_states(tk.load(at(message.SerializeToString())), VALUE)


def test_many_bytes_are_left_out_and_told() -> None:
    message = later()
    message.header.note = "x" * (2 << 20)
    data = message.SerializeToString()
    with tk.open(at(data)) as state:
        assert state.metadata[KEY]["left_out"] > 2 << 20  # type: ignore[index, call-overload, operator]
        with pytest.raises(LossError, match=r"2,097,158 bytes of fields that are not known here"):
            saved(state)
        again = LATER.FromString(saved(state, lossy=True))
    assert again.note == "of the state"
    assert not again.header.note


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x1a\x02\x08\x01", "have number 3, which the schema uses"),
        (b"\x22\x00", "have number 4, which the schema uses"),
        (b"\x52\x09x", "are not whole fields"),
        (b"\x07", "are not whole fields"),
        (b"\xff" * 20, "are not whole fields"),
    ],
)
def test_metadata_cannot_forge_fields(data: bytes, problem: str) -> None:
    forged = {KEY: {"state": b64encode(data).decode()}}
    with pytest.raises(ArgumentError, match=problem):
        saved(VALUE, metadata=forged)
    with pytest.raises(ArgumentError, match="are not whole fields"):
        saved(VALUE, metadata={KEY: {"header": "not base64!"}})
    with pytest.raises(ArgumentError, match="not by name"):
        saved(VALUE, metadata={KEY: {"tensors": 3}})


def test_metadata_of_that_name_that_is_something_else_stays() -> None:
    for mine in ("mine", {"x": 1}, [1]):
        with tk.open(at(saved(VALUE, metadata={KEY: mine}))) as state:
            assert state.metadata == {KEY: mine}
            assert STATE.FromString(saved(state)).header.metadata
