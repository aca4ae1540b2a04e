"""The numbers of a message: from their encodings to values and back."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError
from tensorkeep.message.scanning import Piece
from tensorkeep.message.schema import VARINT, Field, encode_varint
from tensorkeep.message.varints import decode_varints, encode_varints, varints_size

Numbers = npt.NDArray[Any]

_FEW = 64  # bytes of varints that are decoded faster one by one
_BLOCK = 1 << 18  # elements that are encoded together
_WORD = (1 << 64) - 1


class NumberSpans:
    """Where the numbers of a field lie, and what they are once they were asked for.

    A tagged span holds a tag before each number; the others hold numbers alone.
    """

    __slots__ = ("array", "spans")

    def __init__(self) -> None:
        self.spans: list[tuple[bool, int, int]] = []
        self.array: Numbers | None = None

    def add(self, tagged: bool, start: int, stop: int) -> None:
        """Append a span, or lengthen the last one."""
        if tagged and self.spans:
            before, first, last = self.spans[-1]
            if before and last == start:
                self.spans[-1] = (True, first, stop)
                return
        self.spans.append((tagged, start, stop))


def decode_number(field: Field, data: bytes, start: int, stop: int) -> Any:
    """Decode one number that stands at `start`; a float32 NaN as NumPy's, which keeps its bits."""
    scalar = field.scalar
    if scalar.wire == VARINT:
        value = data[start]
        if value > 127:
            value = _decode_varint(data, start, stop)
        return _from_word(field, value)
    value = _UNPACKERS[scalar.name](data, start)[0]
    if value != value:
        return np.frombuffer(data, scalar.dtype, 1, start)[0]
    return value


_UNPACKERS: dict[str, Callable[[bytes, int], tuple[Any]]] = {
    name: struct.Struct(code).unpack_from
    for name, code in {
        "float": "<f",
        "double": "<d",
        "fixed32": "<I",
        "sfixed32": "<i",
        "fixed64": "<Q",
        "sfixed64": "<q",
    }.items()
}


def _decode_varint(data: bytes, start: int, stop: int) -> int:
    value = 0
    for byte in reversed(data[start:stop]):
        value = value << 7 | byte & 127
    return value & _WORD


def _from_word(field: Field, word: int) -> Any:
    scalar = field.scalar
    if word <= 0x7FFFFFFF and not scalar.zigzag:
        return word != 0 if scalar.name == "bool" else word
    if scalar.name == "bool":
        return True
    bits = scalar.high.bit_length() + (scalar.low < 0)
    word &= (1 << bits) - 1
    if scalar.zigzag:
        return word >> 1 ^ -(word & 1)
    return word - (1 << bits) if word > scalar.high else word


def decode_numbers(field: Field, numbers: NumberSpans, piece: Piece) -> Numbers:
    """Decode the numbers of a repeated field to a 1-D read-only array, as a view where they lie.

    Raises:
        CorruptError: the bytes are not a whole count of numbers.
    """
    parts = [_decode_span(field, span, piece) for span in numbers.spans]
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    array.flags.writeable = False
    return array


def _decode_span(field: Field, span: tuple[bool, int, int], piece: Piece) -> Numbers:
    tagged, start, stop = span
    dtype = field.scalar.dtype
    data = piece.read(start, stop)
    where = f"{piece.where}: {field.name} at byte {start:,}"
    if field.scalar.wire == VARINT:
        if tagged and stop - start <= _FEW:
            return np.array(_few_varints(field, bytes(data)), dtype)
        return _many_varints(field, data, tagged, where)
    skip = len(field.head) if tagged else 0
    stride = skip + dtype.itemsize
    if len(data) % stride:
        problem = f"{len(data):,} bytes are no whole count of {field.scalar.name}s"
        raise CorruptError(problem, where=where)
    if not data:
        return np.zeros(0, dtype)
    found: Numbers = np.ndarray((len(data) // stride,), dtype, data, skip, (stride,))
    return found


def _many_varints(field: Field, data: bytes | memoryview, tagged: bool, where: str) -> Numbers:
    dtype = field.scalar.dtype
    if not tagged and not field.scalar.zigzag:
        return decode_varints(data, dtype, where=where)
    words = decode_varints(data, np.dtype(np.uint64), where=where)
    if tagged:
        words = words[1::2]
    if not field.scalar.zigzag:
        return words.astype(dtype)
    halves: Numbers = words.astype(f"<u{dtype.itemsize}")
    numbers: Numbers = (halves >> 1).astype(dtype) ^ -(halves & 1).astype(dtype)
    return numbers


def _few_varints(field: Field, data: bytes) -> list[Any]:
    skip = len(field.head)
    found = []
    at = 0
    while at < len(data):
        start = at = at + skip
        while data[at] > 127:
            at += 1
        at += 1
        found.append(_from_word(field, _decode_varint(data, start, at)))
    return found


def encode_number(field: Field, value: Any) -> bytes:
    """Encode one number, without its tag."""
    scalar = field.scalar
    if scalar.wire == VARINT:
        if scalar.zigzag:
            value = value << 1 ^ value >> 63
        return encode_varint(int(value))
    if isinstance(value, np.generic):
        return value.tobytes()
    return np.array(value, scalar.dtype).tobytes()


def numbers_size(field: Field, values: Numbers) -> int:
    """Give the bytes that the numbers of a field take, without the tag and length of a packed one.

    Unpacked ones are counted with their tags.
    """
    tags = 0 if field.packed else values.size * len(field.head)
    if field.scalar.wire == VARINT:
        return varints_size(_words(field, values)) + tags
    return values.size * values.itemsize + tags


def encode_numbers(field: Field, values: Numbers) -> Iterator[memoryview]:
    """Encode the numbers of a field block by block; unpacked ones with their tags."""
    if field.packed and field.scalar.wire != VARINT and values.flags.c_contiguous:
        yield values.view(np.uint8).data
        return
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        if field.scalar.wire == VARINT:
            yield encode_varints(_with_tags(field, _words(field, block))).data
        else:
            yield _rows(field, block).reshape(-1).data


def _words(field: Field, values: Numbers) -> Numbers:
    if field.scalar.zigzag:
        words = values.view(f"<u{values.itemsize}")
        signs: Numbers = (values >> (8 * values.itemsize - 1)).view(words.dtype)
        return words << 1 ^ signs
    return values


def _with_tags(field: Field, words: Numbers) -> Numbers:
    if field.packed:
        return words
    both = np.empty(2 * words.size, np.uint64)
    both[::2] = field.number << 3 | VARINT
    both[1::2] = words.astype(np.int64).view(np.uint64) if words.dtype.kind == "i" else words
    return both


def _rows(field: Field, values: Numbers) -> npt.NDArray[np.uint8]:
    skip = 0 if field.packed else len(field.head)
    rows = np.empty((values.size, skip + values.itemsize), np.uint8)
    rows[:, :skip] = np.frombuffer(field.head, np.uint8)[:skip]
    rows[:, skip:] = np.ascontiguousarray(values).view(np.uint8).reshape(values.size, -1)
    return rows
