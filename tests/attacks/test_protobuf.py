"""State messages that contradict themselves, lie about sizes or are made to fill the memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.formats.protobuf.fields import MAGIC
from tensorkeep.formats.protobuf.header import sized
from tensorkeep.message.schema import encode_varint
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

VERSION = b"\x08\x01"
DATA = bytes(range(24))


def number(field: int, value: int) -> bytes:
    return encode_varint(field << 3) + encode_varint(value)


def tensor(
    name: bytes = b"w",
    dtype: int = 24,
    shape: bytes = b"\x02\x03",
    nbytes: int = 24,
    more: bytes = b"",
) -> bytes:
    row = sized(1, name) + number(2, dtype) + sized(3, shape) + number(4, nbytes) + more
    return sized(5, row)


def chunk(data: bytes = DATA, place: int = 0, offset: int = 0, more: bytes = b"") -> bytes:
    return sized(4, number(1, place) + number(2, offset) + more + sized(4, data))


def state(*parts: bytes, header: bytes = VERSION) -> bytes:
    return MAGIC + sized(3, header + b"".join(parts))


SOUND = state(tensor()) + chunk()

ATTACKS: dict[str, tuple[bytes, type[TensorKeepError], str]] = {
    "nothing but the magic number": (MAGIC, CorruptError, "has no header"),
    "half a magic number": (MAGIC[:5], CorruptError, "no whole field at byte 0"),
    "another magic number": (b"\x09notours!", CorruptError, "magic number is another"),
    "two magic numbers": (SOUND + MAGIC, CorruptError, "stands there twice"),
    "two headers": (SOUND + state(tensor())[9:], CorruptError, "two headers"),
    "two digests": (SOUND + 2 * sized(2, bytes(16)), CorruptError, "there are two"),
    "a short digest": (SOUND + sized(2, bytes(15)), CorruptError, "digest is damaged"),
    "another digest": (SOUND + sized(2, bytes(16)), CorruptError, "the header is damaged"),
    "no version": (state(tensor(), header=b""), UnsupportedError, "version 0"),
    "a later version": (state(header=b"\x08\x02"), UnsupportedError, "version 2 .* Update"),
    "checksums that are gone": (
        state(tensor(), header=VERSION + b"\x10\x01") + chunk(),
        CorruptError,
        "the header's own digest is gone",
    ),
    "a header that is a number": (MAGIC + b"\x18\x01", CorruptError, "header has wire type 0"),
    "a chunk of 4 bytes": (MAGIC + b"\x25abcd", CorruptError, "chunk has wire type 5"),
    "a group": (MAGIC + b"\x53\x54", CorruptError, "no whole field at byte 9"),
    "field 0": (MAGIC + b"\x02\x00", CorruptError, "no whole field at byte 9"),
    "a header that is longer than the file": (
        MAGIC + b"\x1a\xff\xff\xff\xff\x7f",
        CorruptError,
        "no whole field at byte 9",
    ),
    "a length of 2**64 - 1": (
        MAGIC + b"\x1a" + b"\xff" * 9 + b"\x01",
        CorruptError,
        "no whole field at byte 9",
    ),
    "an endless varint": (MAGIC + b"\x1a" + b"\x80" * 1000, CorruptError, "no whole field"),
    "an endless tag": (MAGIC + b"\xff" * 1000, CorruptError, "no whole field"),
    "a missing chunk": (state(tensor()), CorruptError, "0 bytes of 24, so some are missing"),
    "a chunk that is short": (
        state(tensor()) + chunk(DATA[:20]),
        CorruptError,
        "w: its chunks hold 20 bytes of 24",
    ),
    "a chunk that is long": (
        state(tensor()) + chunk(DATA + b"x"),
        CorruptError,
        "25 bytes of 24, so some are too many",
    ),
    "a chunk twice": (SOUND + chunk(), CorruptError, "bytes 0 to 24 of it are there twice"),
    "chunks that overlap": (
        state(tensor()) + chunk(DATA[:16]) + chunk(DATA[8:], offset=8),
        CorruptError,
        "bytes 8 to 16 of it are there twice",
    ),
    "a gap": (
        state(tensor()) + chunk(DATA[:8]) + chunk(DATA[16:], offset=16),
        CorruptError,
        "bytes 8 to 16 of it are missing",
    ),
    "an offset of 2**64 - 1": (
        state(tensor()) + chunk(offset=2**64 - 1),
        CorruptError,
        "are missing",
    ),
    "a chunk of no tensor": (
        SOUND + chunk(place=7),
        CorruptError,
        "a chunk of tensor 7, but there are 1",
    ),
    "a chunk of tensor 2**64 - 1": (SOUND + chunk(place=2**64 - 1), CorruptError, "there are 1"),
    "data twice in a chunk": (
        state(tensor()) + chunk(more=sized(4, DATA)),
        CorruptError,
        "data twice",
    ),
    "data that pass the end of their chunk": (
        state(tensor()) + b"\x22\x04\x22\x18" + DATA,
        CorruptError,
        "no whole field",
    ),
    "an offset that is text": (
        state(tensor()) + chunk(more=b"\x12\x01x"),
        CorruptError,
        "offset of a chunk has wire type 2",
    ),
    "the same name twice": (
        state(tensor(), tensor()) + chunk() + chunk(place=1),
        CorruptError,
        "the tensor 'w' twice",
    ),
    "a name with NUL": (state(tensor(b"a\0b")) + chunk(), UnsafeError, "holds a NUL"),
    "a name that climbs": (state(tensor(b"../w")) + chunk(), UnsafeError, ".. as a folder"),
    "a name that is not UTF-8": (state(tensor(b"\xff")) + chunk(), UnsafeError, "half a character"),
    "a name of a megabyte": (
        state(tensor(b"w" * (1 << 20))) + chunk(),
        UnsafeError,
        "longer than 4096",
    ),
    "no element type": (state(tensor(dtype=0)) + chunk(), UnsupportedError, "left out the type"),
    "an unknown element type": (
        state(tensor(dtype=99)) + chunk(),
        UnsupportedError,
        "'w' has element type 99, .* Update",
    ),
    "an element type of 2**64 - 1": (
        state(tensor(dtype=2**64 - 1)) + chunk(),
        UnsupportedError,
        "element type",
    ),
    "a shape that is larger": (
        state(tensor(shape=b"\x02\x04")) + chunk(),
        CorruptError,
        r"\(2, 4\) takes 32 bytes, not 24",
    ),
    "a negative axis": (
        state(tensor(shape=b"\xff" * 9 + b"\x01")) + chunk(),
        CorruptError,
        "1 axes, or a negative one",
    ),
    "a shape that overflows": (
        state(tensor(shape=(b"\xff" * 8 + b"\x7f") * 3)) + chunk(),
        CorruptError,
        "no array can have shape",
    ),
    "a huge shape of nothing": (
        state(tensor(shape=b"\x00" + (b"\xff" * 8 + b"\x7f") * 3, nbytes=0)),
        CorruptError,
        "no array can have shape",
    ),
    "65 axes": (state(tensor(shape=b"\x01" * 65)) + chunk(), CorruptError, "not made of whole"),
    "65 axes, one by one": (
        state(tensor(shape=b"", more=b"\x18\x01" * 65)) + chunk(),
        CorruptError,
        "65 axes",
    ),
    "a megabyte of axes": (
        state(tensor(shape=b"\x01" * (1 << 20))) + chunk(),
        CorruptError,
        "not made of whole",
    ),
    "a tensor of many fields": (
        state(tensor(more=b"\x10\x18" * 1000)) + chunk(),
        CorruptError,
        "not made of whole",
    ),
    "a name that is a number": (
        state(tensor(more=b"\x08\x01")) + chunk(),
        CorruptError,
        "field 1 of a tensor has wire type 0",
    ),
    "a tensor that is cut": (
        state(sized(5, b"\x0a\x05w")) + chunk(),
        CorruptError,
        "not made of whole",
    ),
    "a digest of another length": (
        state(tensor(more=sized(5, b"short"))) + chunk(),
        CorruptError,
        "a digest of 5 bytes, not 16",
    ),
    "strings whose offsets lie": (
        state(tensor(dtype=28, shape=b"\x02", nbytes=24)) + chunk(),
        CorruptError,
        "string offsets",
    ),
    "strings without offsets": (
        state(tensor(dtype=28, shape=b"\x7f", nbytes=24)) + chunk(),
        CorruptError,
        "takes 1024 bytes, not 24",
    ),
    "metadata that is a list": (
        state(sized(3, b"[]")),
        CorruptError,
        "metadata is not a JSON object",
    ),
    "metadata that is not JSON": (state(sized(3, b"{")), CorruptError, "metadata is broken"),
    "metadata with a key twice": (
        state(sized(3, b'{"a":1,"a":2}')),
        CorruptError,
        "gives 'a' twice",
    ),
    "metadata that nests": (
        state(sized(3, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
        CorruptError,
        "nested too deeply",
    ),
    "metadata of many values": (
        state(sized(3, b'{"a":[' + b"0," * 3_000_000 + b"0]}")),
        UnsafeError,
        "more than 2,000,000 values",
    ),
    "a skeleton that is a number": (state(sized(4, b"3")), CorruptError, "skeleton is not a JSON"),
    "a skeleton of other tensors": (
        state(sized(4, b'{"tree":{"b":"$"}}'), tensor()) + chunk(),
        TensorKeepError,
        "b",
    ),
    "half a million empty tensors and one": (
        state(b"\x2a\x00" * 500_001),
        UnsafeError,
        "more than 500,000 tensors",
    ),
    "millions of fields in the header": (
        state(header=VERSION + b"\x50\x00" * 1_100_000),
        UnsafeError,
        "far too many fields",
    ),
    "millions of empty chunks": (
        SOUND + b"\x22\x00" * 3_010_000,
        UnsafeError,
        "far too many fields",
    ),
}


@pytest.mark.parametrize(("data", "kind", "problem"), ATTACKS.values(), ids=ATTACKS)
def test_refused(data: bytes, kind: type[TensorKeepError], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tensors.pb"
    path.write_bytes(data)
    with pytest.raises(kind, match=problem) as caught:
        tk.load(path)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["a.tensors.pb"]


def test_what_the_attacks_are_made_of_is_sound() -> None:
    location = Location(MemoryStore({"a.tensors.pb": SOUND}), "a.tensors.pb")
    expected = np.frombuffer(DATA, np.float32).reshape(2, 3)
    assert np.array_equal(tk.load(location)["w"], expected)


def test_a_header_over_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.tensors.pb"
    size = (128 << 20) + 1
    path.write_bytes(MAGIC + b"\x1a" + encode_varint(size))
    os.truncate(path, 14 + size)
    with pytest.raises(UnsafeError, match=r"header of 134,217,729 bytes is over the limit"):
        tk.open(path)


@given(st.binary(max_size=120))
def test_any_bytes_behind_the_magic_number(data: bytes) -> None:
    for start in (MAGIC, MAGIC + sized(3, VERSION), SOUND):
        location = Location(MemoryStore({"a.tensors.pb": start + data}), "a.tensors.pb")
        with contextlib.suppress(TensorKeepError):
            tk.load(location)
