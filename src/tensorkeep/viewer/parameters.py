"""What is asked for, taken from an address: typed, bounded, and nothing that is not known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl

from tensorkeep.errors import ArgumentError

Range = tuple[int, int]

_MOST = 2**53
_INTEGER = re.compile(r"-?[0-9]{1,16}", re.ASCII)
_MOST_FIELDS = 16


class Parameters:
    """The parameters of an address, each taken once.

    >>> asked = Parameters("of=0,2&rows=0:64")
    >>> asked.integers("of"), asked.range("rows"), asked.integer("most", 256)
    ((0, 2), (0, 64), 256)
    >>> asked.finish()
    """

    def __init__(self, query: str) -> None:
        try:
            pairs = parse_qsl(
                query,
                keep_blank_values=True,
                strict_parsing=bool(query),
                errors="strict",
                max_num_fields=_MOST_FIELDS,
            )
        except ValueError:
            raise ArgumentError("the parameters of the address are no name=value pairs") from None
        self._given = dict(pairs)
        if len(self._given) != len(pairs):
            raise ArgumentError("a parameter of the address is given twice")

    def text(self, name: str, default: str = "", allowed: Sequence[str] = ()) -> str:
        """Take a text, one of those allowed."""
        value = self._given.pop(name, default)
        if allowed and value not in allowed:
            raise ArgumentError(f"{name} is one of {', '.join(allowed)}", cure=_CURE)
        return value

    def integer(
        self, name: str, default: int | None = None, low: int = 0, high: int = _MOST
    ) -> int:
        """Take an integer between two, both included."""
        value = self._given.pop(name, None)
        if value is None and default is not None:
            return default
        return _integer(name, value or "", low, high)

    def integers(self, name: str, most: int = 64, high: int = _MOST) -> tuple[int, ...] | None:
        """Take integers with commas between them; None where there is no such parameter."""
        value = self._given.pop(name, None)
        if value is None:
            return None
        if not value:
            return ()
        parts = value.split(",", most)
        if len(parts) > most:
            raise ArgumentError(f"{name} takes at most {most} integers", cure=_CURE)
        return tuple(_integer(name, part, 0, high) for part in parts)

    def range(self, name: str) -> Range | None:
        """Take FROM:TO; None where there is no such parameter."""
        value = self._given.pop(name, None)
        if value is None:
            return None
        start, colon, stop = value.partition(":")
        if not colon:
            raise ArgumentError(f"{name} is not FROM:TO", cure=_CURE)
        return _integer(name, start, 0, _MOST), _integer(name, stop, 0, _MOST)

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self._given:
            raise ArgumentError("the address has a parameter that is not known", cure=_CURE)


_CURE = "Load the page again: it may be older than the server."


def _integer(name: str, text: str, low: int, high: int) -> int:
    value = int(text) if _INTEGER.fullmatch(text) else low - 1
    if not low <= value <= high:
        raise ArgumentError(f"{name} takes integers from {low} to {high}", cure=_CURE)
    return value
