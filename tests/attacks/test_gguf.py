"""GGUF files made to hurt: counts, lengths and offsets that lie, bombs, and text that is code."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import (
    CorruptError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

HUGE = [2**31, 2**32 - 1, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]


def text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def info(
    name: bytes | str = "w", dims: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0
) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(
    keys: list[bytes] | None = None,
    infos: list[bytes] | None = None,
    data: bytes = bytes(64),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    keys = [key("a", 4, b"\1\0\0\0")] if keys is None else keys
    infos = [info()] if infos is None else infos
    tensors, pairs = counts or (len(infos), len(keys))
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, pairs) + b"".join(keys + infos)
    return head + bytes(-len(head) % 32) + data


def located(data: bytes) -> Location:
    return Location(MemoryStore({"a.gguf": data}), "a.gguf")


def refuse(data: bytes, kind: type[TensorKeepError], problem: str) -> None:
    for read in (tk.open, tk.load):
        with pytest.raises(kind, match=problem):
            read(located(data))


def test_the_helper_is_good() -> None:
    assert tk.load(located(file()))["w"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("count", HUGE)
def test_counts(count: int) -> None:
    refuse(file(counts=(count, 1)), CorruptError, f"cannot hold {count:,} tensors")
    refuse(file(counts=(1, count)), CorruptError, f"cannot hold {count:,} keys")


def test_more_tensors_or_keys_than_the_limits() -> None:
    refuse(file(counts=(600_000, 1), data=bytes(20 << 20)), UnsafeError, "the limit is 500,000")
    refuse(file(counts=(1, 200_000), data=bytes(20 << 20)), UnsafeError, "the limit is 100,000")


def test_counts_that_the_file_does_not_keep() -> None:
    refuse(file(counts=(2, 1)), TensorKeepError, "'' twice|needs bytes|overlap")
    refuse(file(keys=[], infos=[]), CorruptError, "neither keys nor tensors")


@pytest.mark.parametrize("length", HUGE)
def test_lengths_of_texts(length: int) -> None:
    lie = struct.pack("<Q", length) + b"abc"
    for data in (
        file([lie]),
        file([key("a", 8, lie)]),
        file([key("a", 9, struct.pack("<IQ", 8, 1) + lie)]),
        file(infos=[lie + info()[9:]]),
    ):
        refuse(data, CorruptError, "ends in the middle of its header")


@pytest.mark.parametrize("count", HUGE)
@pytest.mark.parametrize("inner", [0, 5, 7, 8, 9, 12])
def test_lengths_of_arrays(count: int, inner: int) -> None:
    array = struct.pack("<IQ", inner, count)
    refuse(file([key("a", 9, array)]), CorruptError, f"array of {count:,} elements does not fit")


@pytest.mark.parametrize(
    ("dims", "problem"),
    [
        ((2**63,), "no array can have shape"),
        ((2**64 - 1,), "no array can have shape"),
        ((2**32, 2**32), "no array can have shape"),
        ((2**33, 2**33, 2**33, 2**33), "no array can have shape"),
        ((2**62, 4), "no array can have shape"),
        ((2**40,), "needs bytes"),
        ((17,), "needs bytes"),
        ((0, 2**63), "no array can have shape"),
    ],
)
def test_dimensions(dims: tuple[int, ...], problem: str) -> None:
    refuse(file(infos=[info(dims=dims)]), CorruptError, problem)


def test_more_axes_than_there_are() -> None:
    for axes in (5, 2**31, 2**32 - 1):
        lie = text("w") + struct.pack("<I", axes) + bytes(64)
        refuse(file(infos=[lie]), CorruptError, f"has {axes:,} axes")


@pytest.mark.parametrize("offset", [32 * 5, 2**40, 2**63, 2**64 - 32, 2**64 - 64])
def test_offsets_outside(offset: int) -> None:
    refuse(file(infos=[info(offset=offset)]), CorruptError, "needs bytes")


@pytest.mark.parametrize("offset", [1, 16, 31, 33, 2**64 - 1])
def test_offsets_between_the_alignment(offset: int) -> None:
    refuse(file(infos=[info(offset=offset)]), CorruptError, "which is no multiple of 32")


def test_tensors_that_overlap() -> None:
    both = [info("a", (16,)), info("b", (4,), offset=32)]
    refuse(file(infos=both), CorruptError, "'a' and 'b' overlap")
    refuse(file(infos=[info("a"), info("b")]), CorruptError, "'a' and 'b' overlap")


@pytest.mark.parametrize("alignment", [0, 3, 24, 33, 2**32 - 1])
def test_alignments(alignment: int) -> None:
    keys = [key("general.alignment", 4, struct.pack("<I", alignment))]
    refuse(file(keys), CorruptError, "no power of two")


@pytest.mark.parametrize(
    ("kind", "value"),
    [(5, struct.pack("<i", -32)), (8, text("32")), (6, struct.pack("<f", 32)), (7, b"\1")],
)
def test_alignments_of_other_types(kind: int, value: bytes) -> None:
    refuse(file([key("general.alignment", kind, value)]), CorruptError, "no power of two")


def test_a_huge_alignment_puts_the_data_outside() -> None:
    keys = [key("general.alignment", 10, struct.pack("<Q", 2**63))]
    refuse(file(keys), CorruptError, "needs bytes")


def test_rows_that_are_not_whole_blocks() -> None:
    for dims in ((33,), (16, 2), ()):
        refuse(file(infos=[info(dims=dims, kind=8)]), CorruptError, "blocks of 32 elements")


@pytest.mark.parametrize("kind", [4, 5, 9, 31, 36, 1000, 2**32 - 1])
def test_element_types(kind: int) -> None:
    refuse(file(infos=[info(kind=kind)]), UnsupportedError, "of the element type")


@pytest.mark.parametrize("kind", [13, 255, 2**32 - 1])
def test_value_types(kind: int) -> None:
    refuse(file([key("a", kind, bytes(8))]), CorruptError, f"no value type {kind}")
    array = struct.pack("<IQ", kind, 1) + bytes(8)
    refuse(file([key("a", 9, array)]), CorruptError, f"no value type {kind}")


@pytest.mark.parametrize("version", [0, 4, 0xFFFF, 0x10000, 2**32 - 1])
def test_versions(version: int) -> None:
    refuse(file(version=version), UnsupportedError, "is GGUF of version")


def test_arrays_in_arrays() -> None:
    deep = struct.pack("<IQ", 9, 1) * 100_000 + struct.pack("<IQ", 0, 0)
    refuse(file([key("a", 9, deep)]), UnsafeError, "nests arrays over 16 deep")


def test_a_bomb_of_empty_texts() -> None:
    count = 6_000_000
    array = struct.pack("<IQ", 8, count) + bytes(8 * count)
    refuse(file([key("a", 9, array)]), UnsafeError, "over 4,000,000 values")


def test_a_bomb_of_empty_arrays() -> None:
    count = 5_000_000
    array = struct.pack("<IQ", 9, count) + bytes(12 * count)
    refuse(file([key("a", 9, array)]), UnsafeError, "over 4,000,000 values")


def test_a_bomb_of_many_arrays() -> None:
    one = struct.pack("<IQ", 0, 1_000_000) + bytes(1_000_000)
    keys = [key(f"{i}", 9, one) for i in range(6)]
    refuse(file(keys), UnsafeError, "over 4,000,000 values")


def test_a_header_without_end(tmp_path: Path) -> None:
    """A text of half a gigabyte, most of it a hole, is refused before it is read."""
    path = tmp_path / "a.gguf"
    path.write_bytes(file([key("a", 8, struct.pack("<Q", 500 << 20))]))
    with path.open("r+b") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(UnsafeError, match="header is over the limit"):
        tk.open(path)


def test_keys_and_names_twice() -> None:
    same = key("a", 0, b"\1")
    refuse(file([same, same]), CorruptError, "gives the key 'a' twice")
    refuse(file(infos=[info(), info(offset=32)]), CorruptError, "a tensor twice")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\0b", "n" * 5000])
def test_names(name: str) -> None:
    refuse(file(infos=[info(name)]), UnsafeError, "tensor name|limit")


def test_names_and_keys_that_are_no_text() -> None:
    refuse(file(infos=[info(b"\xff\xfe")]), CorruptError, "is not UTF-8")
    refuse(file([text(b"\xff") + struct.pack("<IB", 0, 1)]), CorruptError, "is not UTF-8")
    refuse(file([key("k" * 70_000, 0, b"\1")]), UnsafeError, "over the limit of 65,535")


def test_bools_that_are_neither() -> None:
    refuse(file([key("a", 7, b"\2")]), CorruptError, "neither 0 nor 1")
    refuse(file([key("a", 9, struct.pack("<IQ", 7, 2) + b"\1\2")]), CorruptError, "neither 0 nor 1")


def test_a_template_is_only_text() -> None:
    """What ran code in another reader is a string here."""
    payload = "{{ ''.__class__.__mro__[1].__subclasses__()[140]('touch pwned', shell=True) }}"
    with tk.open(located(file([key("tokenizer.chat_template", 8, text(payload))]))) as state:
        assert state.metadata == {"tokenizer.chat_template": payload}
    assert not Path("pwned").exists()


@pytest.mark.parametrize("count", [2, 65_535])
def test_parts_that_are_not_there(count: int) -> None:
    keys = [
        key("split.no", 2, struct.pack("<H", 0)),
        key("split.count", 2, struct.pack("<H", count)),
        key("split.tensors.count", 5, struct.pack("<i", 1)),
    ]
    name = f"m-00001-of-{count:05}.gguf"
    with pytest.raises(tk.errors.MissingError, match=f"part 2 of {count} is missing"):
        tk.open(Location(MemoryStore({name: file(keys)}), name))
    refuse(file(keys), UnsupportedError, "not named like one")


@pytest.mark.parametrize(("kind", "value"), [(5, struct.pack("<i", -1)), (8, text("3"))])
def test_split_numbers_that_are_none(kind: int, value: bytes) -> None:
    refuse(file([key("split.count", kind, value)]), CorruptError, "split.count is")


DOCUMENTS: list[Any] = [b"{", b"[]", b'{"version":9}', b'{"version":1,"stored":{"x":["bool",[1]]}}']


@pytest.mark.parametrize("document", DOCUMENTS)
def test_notes_that_are_none(document: bytes) -> None:
    with pytest.raises((CorruptError, UnsupportedError)):
        tk.open(located(file([key("tensorkeep", 8, text(document))])))


def test_notes_whose_types_do_not_fit() -> None:
    document = b'{"version":1,"stored":{"w":["float64",[4]]}}'
    refuse(file([key("tensorkeep", 8, text(document))]), CorruptError, "takes 32 bytes, not 16")


def test_every_truncation_and_bit_flip_of_a_file_without_checksums() -> None:
    keys = [
        key("general.architecture", 8, text("llama")),
        key("tokens", 9, struct.pack("<IQ", 8, 2) + text("ab") + text("")),
        key("scores", 9, struct.pack("<IQ", 6, 2) + np.ones(2, "<f4").tobytes()),
        key("nested", 9, struct.pack("<IQIQB", 9, 1, 0, 1, 7)),
        key("flag", 7, b"\1"),
    ]
    data = file(keys, [info("w", (4,)), info("q", (32, 1), 8, 32)], bytes(32) + bytes(34))
    for length in range(len(data)):
        with pytest.raises(TensorKeepError):
            tk.load(located(data[:length]), dtype="float32")
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            try:
                tk.load(located(bytes(flipped)), dtype="float32")
            except TensorKeepError:
                continue
