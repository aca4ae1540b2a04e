"""The header: JSON that gives each tensor's element type, shape and byte range.

A length (little-endian uint64) stands before it, spaces pad it, and the data follows. Everything
that a file may claim is checked here and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from operator import sub
from typing import Any

from tensorkeep.dtypes import DType, count_of
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.notes import MAX_AXES, is_shape
from tensorkeep.state import MAX_TENSORS
from tensorkeep.wire.safetensors import CODES
from tensorkeep.wire.text import bound_values, parse_json

MAX_TEXTS = 100_000  # of `__metadata__`


@dataclass(frozen=True, slots=True)
class Kind:
    """What entries of the same dtype and shape share."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: by name, what a tensor is and where it starts in the data.

    Two plain dicts, so that a header of many thousand tensors is cheap to hold and to make.
    """

    kinds: dict[str, Kind]
    starts: dict[str, int]
    texts: dict[str, str]

    def in_order_of(self, names: Iterable[str]) -> Header:
        """Give the same header with its tensors in another order."""
        return Header({name: self.kinds[name] for name in names}, self.starts, self.texts)


def parse_header(raw: bytes, size: int, where: str) -> Header:
    """Check everything that a header says; `size` is the length of the data behind it.

    Raises:
        CorruptError: it contradicts itself, the format or the file's size.
        UnsafeError: it lists more tensors than any real file.
    """
    if raw.count(b'"data_offsets"') > MAX_TENSORS:
        raise UnsafeError(f"it lists more than {MAX_TENSORS:,} tensors", where=where)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"the header is not UTF-8 at byte {error.start}", where=where) from None
    # An entry is a few values; anything with many more only means to fill the memory.
    bound_values(text, 16 * text.count('"data_offsets"') + MAX_TEXTS, where, "header")
    return _parse_usual(text, size) or _parse_any(text, size, where)


def _parse_any(text: str, size: int, where: str) -> Header:
    document = parse_json(text, where, "header")
    if not isinstance(document, dict):
        raise CorruptError("the header is not a JSON object", where=where)
    texts = document.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(v, str) for v in texts.values()):
        raise CorruptError("__metadata__ does not map text to text", where=where)
    header = Header({}, {}, texts)
    for name, entry in document.items():
        header.kinds[name], header.starts[name] = _entry(name, entry, where)
    end = 0
    for name in sorted(header.starts, key=lambda n: (header.starts[n], header.kinds[n].nbytes)):
        start = header.starts[name]
        if start != end:
            what = "overlap" if start < end else "leave a gap"
            raise CorruptError(
                f"the bytes of {name!r} start at {start}, not {end}: tensors {what}", where=where
            )
        end = start + header.kinds[name].nbytes
    if end != size:
        raise CorruptError(
            f"the tensors take {end:,} bytes, but {size:,} follow the header",
            where=where,
            cure="It is cut short, or something was written behind it.",
        )
    return header


def _entry(name: str, entry: Any, where: str) -> tuple[Kind, int]:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [start, stop]} if (
            len(entry) == 3 and is_shape(shape) and is_shape([start, stop])
        ):
            if code not in CODES:
                raise CorruptError(
                    f"{name!r} has the unknown element type {code!r}",
                    where=where,
                    cure="A newer tensorkeep may know it.",
                )
            kind = _kind(code, tuple(shape))
            if kind is None or stop - start != kind.nbytes:
                raise CorruptError(
                    f"{name!r} has {stop - start} bytes, which is not {code} of shape {shape}",
                    where=where,
                )
            return kind, start
    shown = repr(entry) if len(repr(entry)) < 100 else f"{repr(entry)[:97]}..."
    raise CorruptError(f"the header's entry {name!r} is {shown}, not a tensor", where=where)


def _kind(code: str, shape: tuple[int, ...]) -> Kind | None:
    """Describe a dtype and shape; None where the elements do not fill whole bytes."""
    dtype = CODES[code]
    count = count_of(shape)
    if dtype.packed and count * dtype.bits % 8:
        return None
    return Kind(dtype, shape, dtype.nbytes(count))


_ENTRY = re.compile(
    r'"([^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+","shape":\[[0-9,]*)\],'
    r'"data_offsets":\[(0|[1-9][0-9]{0,17}),(0|[1-9][0-9]{0,17})\]\}'
)
_AXES = re.compile(r"((0|[1-9][0-9]{0,17})(,(0|[1-9][0-9]{0,17}))*)?")


def _parse_usual(text: str, size: int) -> Header | None:
    """Parse a sound header written the way every known writer writes it, many times faster.

    Gives None for anything else, which then goes the long way and gets its error message there.
    """
    text = text.rstrip(" ")
    begin = 1
    texts: dict[str, str] = {}
    if text.startswith('{"__metadata__":{'):
        try:
            pairs, begin = json.JSONDecoder(object_pairs_hook=list).raw_decode(text, 16)
        except (ValueError, RecursionError):
            return None
        texts = dict(pairs)
        if len(pairs) != len(texts) or not all(type(v) is str for v in texts.values()):
            return None
        if text[begin : begin + 1] != ",":
            return None
        begin += 1
    # One flat list of strings: what is between the entries, then the four groups of each.
    parts = _ENTRY.split(text[begin:-1])
    names, described, starts, stops = parts[1::5], parts[2::5], parts[3::5], parts[4::5]
    between = parts[5:-1:5]
    if text[:1] + text[-1:] != "{}" or between.count(",") != len(between):
        return None
    if parts[0] or parts[-1] or not names:
        return None
    if starts[0] != "0" or stops[-1] != str(size) or starts[1:] != stops[:-1]:
        return None
    known: dict[str, Kind] = {}
    for description in set(described):
        code, _, axes = description.partition('","shape":[')
        if code not in CODES or not _AXES.fullmatch(axes):
            return None
        kind = _kind(code, tuple(map(int, axes.split(",") if axes else ())))
        if kind is None or len(kind.shape) > MAX_AXES:
            return None
        known[description] = kind
    kinds = list(map(known.__getitem__, described))
    begins = list(map(int, starts))
    if list(map(sub, map(int, stops), begins)) != [kind.nbytes for kind in kinds]:
        return None
    header = Header(
        dict(zip(names, kinds, strict=True)), dict(zip(names, begins, strict=True)), texts
    )
    if len(header.kinds) != len(names) or "__metadata__" in header.kinds:
        return None
    return header
