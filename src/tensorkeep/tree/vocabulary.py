"""What writing and reading a skeleton have to agree on."""

from __future__ import annotations

import math
from typing import Any

ROOT = "array"
MAX_DEPTH = 100
EXACT_INT = 2**53  # what JSON readers that use doubles still get right

# What a defaultdict may make of a missing key, by the name in the file.
FACTORIES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (bool, dict, float, int, list, set, str, tuple)
}


def part_of(key: Any) -> str:
    """Spell a key as a part of a tensor's name; huge integers in hex, which has no limit."""
    return hex(key) if type(key) is int and abs(key) >= EXACT_INT else str(key)


def is_plain(key: Any) -> bool:
    """Say whether something can be a key, or an item of a set: hashed alike wherever it is read."""
    waiting = [key]
    while waiting:
        part = waiting.pop()
        if type(part) is tuple:
            waiting.extend(part)
        elif part is not None and type(part) not in (str, int, float, bool):
            return False
    return True


def float_text(value: float) -> str:
    """Write a float that JSON has no number for, which `float` reads.

    >>> float_text(-math.inf), float_text(math.copysign(math.nan, -1))
    ('-inf', '-nan')
    """
    return "-nan" if math.isnan(value) and math.copysign(1, value) < 0 else repr(value)
