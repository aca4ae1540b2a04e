"""The fields of a protobuf message that begin in the first bytes of a file; nothing here raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

_WIDTHS = {FIXED64: 8, FIXED32: 4}
_UNKNOWN_SIZE = 1 << 62

Known = Mapping[int, tuple[int, ...]]  # the wire types that a field may have, by its number


class Glimpse(NamedTuple):
    """A field of the top level; `data` is what of it stands in the head."""

    number: int
    wire: int
    data: bytes
    whole: bool

    def fields(self, known: Known) -> list[Glimpse] | None:
        """List the fields of the message that it holds; None where it holds no such message."""
        return glimpse(self.data, len(self.data) if self.whole else _UNKNOWN_SIZE, known)


def glimpse(head: bytes, size: int, known: Known) -> list[Glimpse] | None:
    """List the fields that begin in the head; None where they are not such a message's.

    Args:
        head: the first bytes of the message.
        size: how many it has in all.
        known: the fields that it may have.

    >>> [field.data for field in glimpse(bytes.fromhex("12 02 68 69"), 4, {2: (LENGTH,)})]
    [b'hi']
    """
    found: list[Glimpse] = []
    at = 0
    while at < len(head):
        tag, start = read_varint(head, at)
        number, wire = tag >> 3, tag & 7
        if start < 0:
            return found if len(head) < size and len(head) - at < 10 else None
        if wire not in known.get(number, ()):
            return None
        length = _WIDTHS.get(wire, 0)
        if wire == VARINT:
            length = max(read_varint(head, start)[1] - start, 1)
        elif wire == LENGTH:
            length, start = read_varint(head, start)
        if start < 0 or start + length > size:
            return found if start < 0 and len(head) < size else None
        data = head[start : start + length]
        if data or not length:
            found.append(Glimpse(number, wire, data, len(data) == length))
        at = start + length
    return found


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    r"""Decode a varint: its value and where it ends; (0, -1) where it is cut short or too long.

    >>> read_varint(bytes.fromhex("ac 02"), 0), read_varint(b"\xff", 0)
    ((300, 2), (0, -1))
    """
    value = 0
    for place in range(min(10, len(data) - at)):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return 0, -1
