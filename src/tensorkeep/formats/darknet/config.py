"""The `.cfg` of a Darknet network: sections in brackets, options as `key = value`.

Blanks mean nothing anywhere, and lines that begin with `#` or `;` are comments. The first section
is the network, each other one a layer, numbered from 0. Facts: option_list.c and parser.c of
Darknet.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field

from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.store import Location

_MAX_SIZE = 4 << 20  # bytes
_MAX_SECTIONS = 10_000
_MOST = 2**31 - 1  # its numbers are of 32 bits
_LISTED = 10_000

_ALIASES = {
    "conv": "convolutional",
    "deconv": "deconvolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "lrn": "normalization",
    "soft": "softmax",
    "network": "net",
}


@dataclass
class Section:
    """A section: what it is, its options, and where it stands in which file."""

    kind: str
    line: int
    where: str
    options: dict[str, str] = field(default_factory=dict)

    def number(self, key: str, default: int, least: int = 0) -> int:
        """Read an option that is an integer.

        Raises:
            CorruptError: it is none, or out of range.
        """
        text = self.options.get(key)
        if text is None:
            return default
        value = _integer(text)
        if value is None or not least <= value <= _MOST:
            raise self.problem(f"has {key}={text[:40]}, which is no number from {least} on")
        return value

    def numbers(self, key: str) -> list[int]:
        """Read an option that is integers with commas between them."""
        values = [_integer(text) for text in self.options.get(key, "").rstrip(",").split(",")]
        if any(value is None for value in values):
            raise self.problem(f"has {key}={self.options.get(key, '')[:40]}, which are no numbers")
        return [value for value in values if value is not None]

    def problem(self, text: str) -> CorruptError:
        """Make the error that says what is wrong with it."""
        return CorruptError(f"line {self.line}: [{self.kind}] {text}", where=self.where)


def _integer(text: str) -> int | None:
    digits = text.strip().removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 12 else None


def find_config(weights: Location) -> Location:
    """Give the `.cfg` with the name of the weights, or else the only one in the folder.

    Raises:
        UnsupportedError: there is none, or a choice.
    """
    stem = posixpath.splitext(weights.name)[0]
    beside = _names(weights)
    own = f"{stem}.cfg"
    found = [own] if own in beside else beside
    if len(found) == 1:
        return weights.beside(found[0])
    what = "no .cfg is" if not found else f"{len(found)} .cfg files, none of them {own}, are"
    raise UnsupportedError(
        f"is nothing but numbers, and {what} beside it to say which layers they belong to",
        where=weights.where,
        cure=f"Put the network's .cfg beside it, as {own}.",
    )


def _names(weights: Location) -> list[str]:
    """List the .cfg files in the folder of the weights."""
    folder = posixpath.dirname(weights.key)
    prefix = f"{folder}/" if folder else ""
    found = []
    for number, key in enumerate(weights.store.keys(prefix)):
        name = key[len(prefix) :]
        if "/" in name or number > _LISTED:  # files come before what is in folders below
            break
        if name.lower().endswith(".cfg"):
            found.append(name)
    return found


def read_config(location: Location) -> list[Section]:
    """Read the sections; the first one is the network.

    Raises:
        CorruptError: a line is neither a section nor an option.
        UnsafeError: it is longer than any network's.
    """
    source, where = location.source, location.where
    if source.size > _MAX_SIZE:
        raise UnsafeError(f"a .cfg of {source.size:,} bytes is over the limit", where=where)
    text = bytes(source.read(0, source.size)).decode("utf-8", "replace").removeprefix("\ufeff")
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            kind = line[1:].partition("]")[0].lower()
            sections.append(Section(_ALIASES.get(kind, kind), number, where))
            if len(sections) > _MAX_SECTIONS:
                raise UnsafeError(f"it has more than {_MAX_SECTIONS:,} sections", where=where)
            continue
        key, equals, value = line.partition("=")
        if not equals or not sections:
            raise CorruptError(f"line {number}: {line[:40]!r} is no option", where=where)
        sections[-1].options[key] = value
    if not sections or sections[0].kind != "net":
        raise CorruptError("does not begin with a [net] section", where=where)
    return sections
