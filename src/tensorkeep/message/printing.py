"""What the text format and JSON have in common: the values of a message as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorkeep.message.checking import check_item
from tensorkeep.message.parsing import Span
from tensorkeep.message.scanning import Piece, open_bytes
from tensorkeep.message.schema import Field
from tensorkeep.message.values import Numbers

if TYPE_CHECKING:
    from tensorkeep.message.message import Message

_ROW = 1 << 15  # numbers that are written together
_JOINED = 64 << 10  # characters from which on a chunk is handed out


def fields_of(message: Message) -> Iterator[tuple[Field, Any]]:
    """Give the fields that are there, by ascending number, with their values as a row.

    Bytes that were not read stay where they lie.

    Raises:
        ArgumentError: a list holds what its field cannot.
    """
    known = message._fields
    for field in message.schema.fields:
        if field.name in known and field.name in message:
            yield field, _values_of(message, field)


def _values_of(message: Message, field: Field) -> Any:
    lazy = field.message is not None or field.scalar.name == "bytes"
    value = message._fields[field.name] if lazy else message[field.name]
    if not field.repeated:
        return (value,)
    if not field.numeric and message._seen and field.name in message._seen:
        return [check_item(field, item) for item in value]  # anything may have been put in
    return value


def read_pieces(piece: Piece, value: Any, size: int) -> Iterator[bytes | memoryview]:
    """Give bytes, read or not, in pieces of `size`."""
    first, last = value if type(value) is Span else (0, 0)
    if type(value) is not Span:
        source = open_bytes(value)
        piece, last = Piece(source, source.where), source.size
    for start in range(first, last, size):
        yield piece.read(start, min(start + size, last))


def has_own_nan(field: Field, values: Any) -> bool:
    r"""Whether a NaN among floats has bits of its own, where text has one NaN for all.

    >>> from tensorkeep.message import schemas
    >>> row = schemas("Row\n  1 f float")["Row"]["f"]
    >>> nans = np.array([0x7FC00000, 0xFFC00000], "<u4").view("<f4")
    >>> has_own_nan(row, nans[:1]), has_own_nan(row, nans)
    (False, True)
    """
    if not isinstance(field.scalar.zero, float):
        return False
    kind = field.scalar.dtype
    floats = np.asarray(values, kind)
    found = floats[np.isnan(floats)].view(f"<u{kind.itemsize}")
    return bool((found != np.array(np.nan, kind).view(found.dtype)).any())


def rows_of(values: Any) -> Iterator[list[Any]]:
    """Give the values of an array or a list as lists of a bounded length."""
    for start in range(0, len(values), _ROW):
        row = values[start : start + _ROW]
        yield row.tolist() if isinstance(row, np.ndarray) else list(row)


def shortest(numbers: list[float]) -> Numbers:
    """Give float32 values as float64 of six digits, or as many more as read back the same."""
    exact = np.array(numbers, np.float32)
    short = np.array(numbers, np.float64)
    left = np.flatnonzero(np.isfinite(exact))
    for digits in range(6, 10):
        if not left.size:
            break
        tried = np.array([float(f"{value:.{digits}g}") for value in exact[left].tolist()])
        with np.errstate(over="ignore"):
            good = tried.astype(np.float32) == exact[left]
        short[left[good]] = tried[good]
        left = left[~good]
    return short


def join_texts(texts: Iterable[str]) -> Iterator[bytes]:
    """Encode texts, small ones joined."""
    small: list[str] = []
    size = 0
    for text in texts:
        small.append(text)
        size += len(text)
        if size >= _JOINED:
            yield "".join(small).encode()
            small.clear()
            size = 0
    if small:
        yield "".join(small).encode()
