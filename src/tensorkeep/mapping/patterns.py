"""Patterns over the names of tensors, and the names to put in their place."""

from __future__ import annotations

import re
from functools import lru_cache

from tensorkeep.errors import ArgumentError

_REGULAR = "re:"


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    r"""Compile a pattern for `fullmatch`: a glob, or a regular expression behind `re:`.

    In a glob each `*` takes as little as it can and is remembered; `?` and `[...]` stand for one
    character as usual.

    Raises:
        ArgumentError: the regular expression is none.

    >>> compiled("encoder.*.weight").fullmatch("encoder.0.attn.weight").groups()
    ('0.attn',)
    >>> compiled(r"re:h\.(\d+)\..*").fullmatch("h.3.w").groups()
    ('3',)
    """
    if pattern.startswith(_REGULAR):
        try:
            return re.compile(pattern[len(_REGULAR) :], re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            raise ArgumentError(f"{pattern!r} is no regular expression: {error}") from None
    parts = re.split(r"(\*|\?|\[!?\]?[^\]]*\])", pattern)
    try:
        return re.compile("".join(map(_piece, parts)), re.DOTALL)
    except re.error as error:  # a range such as [b-a]
        raise ArgumentError(f"{pattern!r} is no pattern: {error}") from None


def _piece(part: str) -> str:
    if part == "*":
        return "(.*?)"
    if part == "?":
        return "."
    if part.startswith("[") and part.endswith("]") and len(part) > 2:
        inside = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        negated = inside.startswith("!")
        inside = inside[1:] if negated else inside.replace("^", "\\^", 1)
        return f"[{'^' if negated else ''}{inside}]"
    return re.escape(part)


def check_replacement(pattern: str, replacement: str) -> None:
    """Refuse a replacement that asks for more than its pattern remembers.

    Raises:
        ArgumentError: it does.
    """
    groups = compiled(pattern).groups
    if pattern.startswith(_REGULAR):
        try:
            re.compile(f"(?:{compiled(pattern).pattern})|", re.DOTALL)
            wanted = max(map(int, re.findall(r"\\g?<?(\d+)", replacement)), default=0)
        except (re.error, ValueError) as error:
            raise ArgumentError(f"{replacement!r} is no replacement: {error}") from None
    else:
        wanted = replacement.count("*")
    if wanted > groups:
        raise ArgumentError(
            f"{replacement!r} asks for {wanted} parts of a name, {pattern!r} remembers {groups}",
            cure="Each * of the replacement stands for what a * of the pattern took, in order.",
        )


def replaced(pattern: str, replacement: str, found: re.Match[str]) -> str:
    """Give the new name for a name that a pattern matched.

    >>> replaced("model.*", "*", compiled("model.*").fullmatch("model.w"))
    'w'
    """
    if pattern.startswith(_REGULAR):
        try:
            return found.expand(replacement)
        except (re.error, IndexError) as error:
            raise ArgumentError(f"{replacement!r} is no replacement: {error}") from None
    pieces = replacement.split("*")
    taken = [group or "" for group in found.groups()][: len(pieces) - 1]
    return "".join(piece + part for piece, part in zip(pieces, [*taken, ""], strict=True))
