"""What commands write: text that cannot steer the terminal, aligned tables, and JSON."""

from __future__ import annotations

import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, TextIO

import typer

from tensorkeep.errors import TensorKeepError, TranslationError

# The option that every command has.
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON document and nothing else to stdout.")
]
NamesOption = Annotated[
    list[str] | None,
    typer.Option("--names", metavar="GLOB", help="Only the tensors that match; repeatable."),
]


def say(text: str = "") -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"{text}\n")


def say_json(value: object) -> None:
    """Write one JSON document in ASCII to stdout."""
    sys.stdout.write(json.dumps(plain(value), allow_nan=False) + "\n")


def warn(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{text}\n")


def clean(text: str) -> str:
    r"""Escape what a terminal would obey instead of show: controls, line ends, bidi overrides.

    >>> clean("layer\x1b[2J\n")
    'layer\\x1b[2J\\n'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shorten(text: str, width: int = 100) -> str:
    """Clean a text and cut it to `width` characters.

    >>> shorten("abcdefgh", 5)
    'abcd…'
    """
    shown = clean(text[: width + 1])
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"


def bold(text: str) -> str:
    """Make a text bold where stdout is a terminal that can."""
    return _styled(text, "1", sys.stdout)


def dim(text: str) -> str:
    """Make a text faint where stdout is a terminal that can."""
    return _styled(text, "2", sys.stdout)


def red(text: str, stream: TextIO | None = None) -> str:
    """Make a text bold and red where the stream (stdout otherwise) is a terminal that can."""
    return _styled(text, "1;31", stream or sys.stdout)


def _styled(text: str, code: str, stream: TextIO) -> str:
    plain_only = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain_only or not stream.isatty() else f"\x1b[{code}m{text}\x1b[0m"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Write aligned columns; those named in `right` are aligned to the right.

    The cells are to be clean already; widths are counted as terminals show them.
    """
    lines = [tuple(row) for row in rows]
    columns = list(zip(heads, *lines, strict=True))
    padded = []
    for head, column in zip(heads, columns, strict=True):
        widths = list(map(_width, column))
        widest = max(widths)
        gaps = [" " * (widest - width) for width in widths]
        if head in right:
            padded.append([gap + cell for cell, gap in zip(column, gaps, strict=True)])
        else:
            padded.append([cell + gap for cell, gap in zip(column, gaps, strict=True)])
    head, *body = ("  ".join(line).rstrip() for line in zip(*padded, strict=True))
    sys.stdout.write("\n".join((bold(head), *body)) + "\n")


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def size(count: int) -> str:
    """Say a number of bytes to three digits.

    >>> size(999), size(4_212_345), size(999_999_999)
    ('999 B', '4.21 MB', '1 GB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"


def several(count: int, noun: str) -> str:
    """Count things.

    >>> several(1, "tensor"), several(20_000, "tensor")
    ('1 tensor', '20,000 tensors')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def plain(value: object) -> object:
    """Turn a value into what JSON can hold: inf and nan become text, bytes hex, others text.

    >>> plain({"loss": float("nan"), "at": (1, 2), "z": 1j})
    {'loss': 'nan', 'at': [1, 2], 'z': [0.0, 1.0]}
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case complex():
            return [plain(value.real), plain(value.imag)]
        case bytes():
            return value.hex()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return str(value)


def problem_of(error: TensorKeepError) -> dict[str, object]:
    """Describe an error for JSON; what a translation refuses is listed one by one."""
    described: dict[str, object] = {
        "kind": type(error).__name__,
        "message": str(error),
        "where": error.where,
        "cure": error.cure,
    }
    if isinstance(error, TranslationError):
        described["refusals"] = [each._asdict() for each in error.refusals]
    return described


# How the command line spells what the library's messages tell Python users to say.
_SPELT = {
    "partial=True": "--partial",
    "compute=True": "--compute",
    "lossy=True": "--lossy",
    "overwrite=True": "--overwrite",
    "say format=....": "give --to FORMAT.",
    "cast=True": "--cast",
    "check=False": "--unchecked",
    "batch_size=": "--batch ",
    "layout=": "--layout ",
    "preset=": "--preset ",
}


def spell(text: str) -> str:
    """Say in a message's text what the command line is told, not Python.

    >>> spell("Accept it with lossy=True.")
    'Accept it with --lossy.'
    """
    for python, option in _SPELT.items():
        text = text.replace(python, option)
    return text


def fail(error: TensorKeepError) -> None:
    """Write an error to stderr."""
    text = spell(str(error))
    lines = text.split("\n") if isinstance(error, TranslationError) else [text]
    shown = "\n".join(map(clean, lines))
    warn(f"{red('error:', sys.stderr)} {shown}")
