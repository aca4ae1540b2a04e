"""Messages to bytes: ascending field numbers, unknown fields behind the known ones.

Parts are gathered last one first, since the length of a message stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorkeep.errors import ArgumentError
from tensorkeep.message.checking import check_item, encode_text
from tensorkeep.message.parsing import Span
from tensorkeep.message.scanning import MAX_DEPTH, Piece
from tensorkeep.message.schema import Field, encode_varint
from tensorkeep.message.values import Numbers, encode_number, encode_numbers, numbers_size
from tensorkeep.source import Source

if TYPE_CHECKING:
    from tensorkeep.message.message import Message

Chunk = bytes | bytearray | memoryview

_SMALL = 64 << 10  # bytes up to which chunks are read at once and joined
_READ = 8 << 20  # bytes that are read together


@dataclass(frozen=True, slots=True)
class Stream:
    """Bytes of a known size that are made when they are written."""

    size: int
    make: Callable[[], Iterable[Chunk]]
    given: bool = False  # whether they are those of a Source that a field was set to


Parts = list[Chunk | Stream]


def gather_message(
    parts: Parts, message: Message, depth: int = MAX_DEPTH, *, canonical: bool = False
) -> int:
    """Add the fields of a message to the parts, last one first; gives their size.

    With `canonical`, what was read and not changed is written anew as well.

    Raises:
        ArgumentError: messages nest too deeply, or a list holds what its field cannot.
    """
    if depth < 0:
        raise ArgumentError(f"messages nest more than {MAX_DEPTH} levels deep")
    piece = message._piece
    if message._origin and not canonical and message._intact():
        return _gather_spans(parts, piece, message._ranges)
    fields = message._fields
    size = _gather_spans(parts, piece, message._unknown)
    for field in message.schema.backwards:
        value: Any = fields.get(field.name)
        if value is None or (field.implicit and is_default(field, value)):
            continue
        if field.repeated and field.numeric:
            size += _gather_numbers(parts, field, message[field.name])
            continue
        if field.repeated and message._seen and field.name in message._seen:
            value = [check_item(field, item) for item in value]  # anything may have been put in
        for item in reversed(value) if field.repeated else (value,):
            if field.message is not None:
                inner = gather_message(parts, item, depth - 1, canonical=canonical)
                size += inner + _gather_head(parts, field, inner)
            elif field.numeric:
                size += _gather_bytes(parts, field.head + encode_number(field, item))
            else:
                inner = _gather_bytes(parts, _bytes_of(field, item, piece))
                size += inner + _gather_head(parts, field, inner)
    return size


def is_default(field: Field, value: Any) -> bool:
    """Whether a proto3 scalar is left out, since its absence says the same."""
    if type(value) is Span:
        return value.start == value.stop
    if field.numeric:
        return bool(value == 0) and not np.signbit(value)
    if isinstance(value, Source):
        return not value.size
    return field.message is None and not len(value)


def _gather_spans(parts: Parts, piece: Piece, spans: tuple[Span, ...]) -> int:
    return sum(_gather_bytes(parts, _read_span(piece, span)) for span in reversed(spans))


def _gather_bytes(parts: Parts, value: Chunk | Stream) -> int:
    parts.append(value)
    return value.size if isinstance(value, Stream) else len(value)


def _gather_head(parts: Parts, field: Field, size: int) -> int:
    """Add the tag and the length that stand before bytes."""
    return _gather_bytes(parts, field.packed_head + encode_varint(size))


def _gather_numbers(parts: Parts, field: Field, values: Numbers) -> int:
    if not values.size:
        return 0
    size = numbers_size(field, values)
    parts.append(Stream(size, partial(encode_numbers, field, values)))
    return size + _gather_head(parts, field, size) if field.packed else size


def _bytes_of(field: Field, value: Any, piece: Piece) -> Chunk | Stream:
    if type(value) is Span:
        return _read_span(piece, value)
    if isinstance(value, Source):
        return Stream(value.size, partial(_read, Piece(value, ""), Span(0, value.size)), given=True)
    return encode_text(field, value) if isinstance(value, str) else value


def _read_span(piece: Piece, span: Span) -> Chunk | Stream:
    """Give bytes of a source; many are read when they are written."""
    size = span.stop - span.start
    return piece.read(*span) if size <= _SMALL else Stream(size, partial(_read, piece, span))


def _read(piece: Piece, span: Span) -> Iterator[Chunk]:
    for start in range(span.start, span.stop, _READ):
        yield piece.source.read(start, min(start + _READ, span.stop))


def join_parts(parts: Parts) -> Iterator[Chunk]:
    """Give gathered parts first one first, small ones joined."""
    small: list[Chunk] = []
    size = 0
    for part in reversed(parts):
        for chunk in part.make() if isinstance(part, Stream) else (part,):
            if small and size + len(chunk) > _SMALL:
                yield b"".join(small)
                small, size = [], 0
            if len(chunk) > _SMALL:
                yield chunk
            else:
                small.append(chunk)
                size += len(chunk)
    if small:
        yield b"".join(small)
