"""One level of a message: its fields by name, read as far as that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tensorkeep.errors import UnsafeError
from tensorkeep.message.scanning import Piece, scan_pieces
from tensorkeep.message.schema import BYTES, Field, Schema
from tensorkeep.message.values import NumberSpans, decode_number

# What is kept for a message, or for a stretch of numbers or unknown fields, takes a hundred bytes.
# Many are allowed only if they hold something, such as the operators of a large net.
_MANY = 1 << 16
_LEAST = 8  # bytes on average


class Span(NamedTuple):
    """Where bytes lie that were not read."""

    start: int
    stop: int


# Makes the message that lies in a range, or has the known one go on there.
Place = Callable[[Schema, Piece, int, int, Any], Any]


def parse_level(
    schema: Schema, origin: Piece, spans: tuple[Span, ...], place: Place
) -> tuple[dict[str, Any], tuple[Span, ...]]:
    """Read the fields of a message: those of the schema by name, and where other ones lie.

    Several spans are read as if they followed one another.

    Raises:
        CorruptError: they are not whole fields.
        UnsafeError: they are far too many messages.
    """
    values: dict[str, Any] = {}
    unknown: list[Span] = []
    by_tag, runs = schema.by_tag, schema.runs
    kept, most = 0, _MANY
    for first, last in spans:
        most = max(most, (last - first) // _LEAST)
    for first, last in spans:
        for piece, tokens, run in scan_pieces(origin, first, last, schema.name, runs):
            base = piece.base
            for token in tokens:
                field = by_tag.get(token[0])
                if field is None:
                    kept += _add_unknown(unknown, token[1] + base, token[3] + base)
                elif field.message is not None:
                    kept += 1
                    known = None if field.repeated else values.get(field.name)
                    message = place(field.message, piece, token[2] + base, token[3] + base, known)
                    _keep(values, field, message)
                elif not field.numeric:
                    _keep(values, field, _take_bytes(field, piece, token[2], token[3]))
                elif field.repeated:
                    kept += _add_numbers(values, field, piece.base, token, run)
                else:
                    values[field.name] = decode_number(field, piece.data, token[2], token[3])
                if field is not None and field.oneof:
                    for other in schema.oneofs[field.name]:
                        values.pop(other, None)
            if kept > most:
                problem = (
                    f"{schema.name} holds more than {most:,} fields with almost nothing in them"
                )
                raise UnsafeError(
                    problem, where=piece.where, cure="It was made to fill the memory."
                )
    return values, tuple(unknown)


def _keep(values: dict[str, Any], field: Field, value: Any) -> None:
    if not field.repeated:
        values[field.name] = value
    elif field.name in values:
        values[field.name].append(value)
    else:
        values[field.name] = [value]


def _add_unknown(unknown: list[Span], start: int, stop: int) -> int:
    """Append a range, or lengthen the last one; gives the count of those added."""
    if unknown and unknown[-1].stop == start:
        unknown[-1] = Span(unknown[-1].start, stop)
        return 0
    unknown.append(Span(start, stop))
    return 1


def _add_numbers(
    values: dict[str, Any], field: Field, base: int, token: tuple[int, int, int, int], run: bool
) -> int:
    """Note where numbers lie; gives the count of ranges added."""
    tag, head, start, stop = token
    numbers = values.get(field.name)
    if numbers is None:
        numbers = values[field.name] = NumberSpans()
    before = len(numbers.spans)
    if tag & 7 != BYTES and (run or start - head == len(field.head)):
        numbers.add(True, head + base, stop + base)
    else:  # packed, or with a tag longer than it needs to be
        numbers.add(False, start + base, stop + base)
    return len(numbers.spans) - before


def _take_bytes(field: Field, piece: Piece, start: int, stop: int) -> Any:
    """Give text and repeated bytes that are at hand, and where other ones lie."""
    kind = field.scalar.name
    if stop > len(piece.data) or (kind == "bytes" and not field.repeated):
        return Span(start + piece.base, stop + piece.base)
    data = piece.data[start:stop]
    return data if kind == "bytes" else str(data, "utf-8", "surrogateescape")
