"""Names that someone may have meant, for messages."""

from __future__ import annotations

from collections.abc import Iterable

_LOOKED_AT = 20_000  # names: comparing more would take seconds


def did_you_mean(name: str, names: Iterable[str], most: int = 3) -> str:
    """Ask for one of the names that look like another; empty where none does.

    >>> did_you_mean("encoder.w", ["encoder.weight", "decoder.w"])
    'Did you mean decoder.w or encoder.weight?'
    >>> did_you_mean("x", ["encoder.weight"])
    ''
    """
    import difflib  # takes a while, and most programs make no mistake

    near = difflib.get_close_matches(name, list(names)[:_LOOKED_AT], n=most)
    return f"Did you mean {' or '.join(near)}?" if near else ""
