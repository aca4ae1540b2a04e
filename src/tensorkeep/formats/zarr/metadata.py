"""What zarr.json (v3) or .zarray (v2) says of an array: type, chunks, codecs, fill value."""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.formats.zarr.codecs import Codec, codec
from tensorkeep.notes import is_shape
from tensorkeep.wire.text import show

MAX_CHUNKS = 2**48  # a grid of more has no file names


@dataclass(frozen=True, slots=True)
class Array:
    """An array as its metadata describes it.

    Args:
        kind: its element type.
        text: how it holds strings: "vlen", "<U5", "|S3"; empty where it holds none.
        shape: the sizes of its axes.
        chunks: the sizes of a chunk's axes.
        big: whether its elements are big endian.
        axes: the order in which a chunk's axes are stored, the slowest first.
        codecs: what a chunk's bytes went through, in the order of writing.
        shard: the chunks of several to a file, where there are any.
        fill: the bytes of an element that is not stored.
        prefix: what the keys of chunks start with.
        separator: what stands between the numbers in them.
        attributes: JSON values that belong to it.
    """

    kind: DType
    text: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    big: bool
    axes: tuple[int, ...]
    codecs: tuple[Codec, ...]
    shard: Shard | None
    fill: bytes
    prefix: str
    separator: str
    attributes: Mapping[str, Any]

    @property
    def width(self) -> int:
        """The bytes of an element in a chunk; 0 where they differ."""
        if self.text == "vlen":
            return 0
        return np.dtype(self.text).itemsize if self.text else self.kind.numpy.itemsize

    @property
    def inner(self) -> tuple[int, ...]:
        """The sizes of what is decoded at once."""
        return self.shard.chunks if self.shard else self.chunks

    @property
    def raw(self) -> bool:
        """Whether the bytes of a chunk are those of its elements."""
        plain = self.axes == tuple(range(len(self.shape))) and not self.big
        return plain and not self.codecs and not self.text

    def key(self, place: tuple[int, ...]) -> str:
        """Name a chunk by its place in the grid, as a key below the array."""
        numbers = self.separator.join(map(str, place))
        return (
            f"{self.prefix}{self.separator}{numbers}"
            if self.prefix and place
            else (self.prefix or numbers or "0")
        )

    def place(self, key: str) -> tuple[int, ...] | None:
        """Give the place of a chunk by its key below the array; None for any other file."""
        numbers = key.removeprefix(self.prefix).removeprefix(self.separator).split(self.separator)
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            return None
        place = tuple(map(int, numbers))
        return place if len(place) == len(self.shape) and self.key(place) == key else None


@dataclass(frozen=True, slots=True)
class Shard:
    """How a file holds several chunks: their sizes, and how the table of where they are is kept."""

    chunks: tuple[int, ...]
    crc: bool
    at_end: bool


def parse_v3(document: Mapping[str, Any], where: str) -> Array:
    """Read the zarr.json of an array.

    Raises:
        CorruptError: it contradicts itself.
        UnsupportedError: a type, codec or grid that is not known here.
    """
    shape = _shape(document.get("shape"), "shape", where)
    match document.get("chunk_grid"):
        case {"name": "regular", "configuration": {"chunk_shape": found}}:
            chunks = _chunks(found, shape, where)
        case other:
            raise UnsupportedError(f"the chunk grid {show(other)} is not regular", where=where)
    kind, text = _v3_type(document.get("data_type"), where)
    prefix, separator = _v3_keys(document.get("chunk_key_encoding"), where)
    if document.get("storage_transformers"):
        raise UnsupportedError("storage transformers are not known here", where=where)
    listed = document.get("codecs")
    if not isinstance(listed, list) or not listed:
        raise CorruptError("it lists no codecs", where=where)
    axes, big, codecs, shard = _v3_codecs(listed, chunks, bool(text), where)
    return Array(
        kind,
        text,
        shape,
        chunks,
        big,
        axes,
        codecs,
        shard,
        _fill(document.get("fill_value"), kind, text, where),
        prefix,
        separator,
        _attributes(document.get("attributes"), where),
    )


def _v3_codecs(
    listed: list[Any], chunks: tuple[int, ...], text: bool, where: str
) -> tuple[tuple[int, ...], bool, tuple[Codec, ...], Shard | None]:
    axes = tuple(range(len(chunks)))
    rest = list(listed)
    while rest and _name(rest[0]) == "transpose":
        axes = _transposed(axes, _settings(rest.pop(0)).get("order"), where)
    first = rest.pop(0) if rest else None
    match _name(first):
        case "bytes" | "endian":
            big = _settings(first).get("endian", "little") == "big"
            return axes, big, tuple(codec(found, where) for found in rest), None
        case "vlen-utf8" | "vlen-bytes" if text:
            return axes, False, tuple(codec(found, where) for found in rest), None
        case "sharding_indexed" if not rest and axes == tuple(range(len(chunks))):
            settings = _settings(first)
            inner = _chunks(settings.get("chunk_shape"), chunks, where)
            if any(whole % part for whole, part in zip(chunks, inner, strict=True)):
                raise CorruptError("the chunks of a shard do not fill it", where=where)
            packing, table = settings.get("codecs"), settings.get("index_codecs")
            if not isinstance(packing, list) or not isinstance(table, list):
                raise CorruptError("its shards have no codecs", where=where)
            names = list(map(_name, table))
            place = settings.get("index_location", "end")
            if names not in (["bytes"], ["bytes", "crc32c"]) or place not in ("start", "end"):
                raise UnsupportedError("the tables of its shards are packed", where=where)
            axes, big, codecs, nested = _v3_codecs(packing, inner, text, where)
            if nested is not None:
                raise UnsupportedError("shards within shards are not read here", where=where)
            return axes, big, codecs, Shard(inner, len(names) == 2, place == "end")
    raise UnsupportedError(f"the codec {show(_name(first))} is not known here", where=where)


def _transposed(axes: tuple[int, ...], order: Any, where: str) -> tuple[int, ...]:
    if order == "F":
        return axes[::-1]
    if order == "C":
        return axes
    plain = isinstance(order, list) and all(type(axis) is int for axis in order)
    if not plain or sorted(order) != list(range(len(axes))):
        raise CorruptError(f"{show(order)} is no order of {len(axes)} axes", where=where)
    return tuple(axes[axis] for axis in order)


def _name(found: Any) -> str:
    name = found.get("name") if isinstance(found, dict) else found
    return name if isinstance(name, str) else ""


def _settings(found: Any) -> Mapping[str, Any]:
    settings = found.get("configuration") if isinstance(found, dict) else None
    return settings if isinstance(settings, dict) else {}


def _v3_type(found: Any, where: str) -> tuple[DType, str]:
    match found:
        case {"name": "fixed_length_utf32", "configuration": {"length_bytes": int(size)}}:
            if size >= 0 and size % 4 == 0:
                return STRING, f"<U{_wide(size // 4, where)}"
        case {"name": "null_terminated_bytes", "configuration": {"length_bytes": int(size)}}:
            if size >= 0:
                return STRING, f"|S{_wide(size, where)}"
    name = _name(found)
    if name == "r8":
        name = "uint8"
    if name in ("string", "variable_length_bytes", "bytes"):
        return STRING, "vlen"
    if name in DTYPES:
        return DTYPES[name], ""
    raise UnsupportedError(f"the data type {show(found)} is not known here", where=where)


def _wide(size: int, where: str) -> int:
    if size > 1 << 20:
        raise UnsupportedError(f"strings of {size:,} characters are not read", where=where)
    return max(size, 1)


def _v3_keys(found: Any, where: str) -> tuple[str, str]:
    name, settings = _name(found), _settings(found)
    separator = settings.get("separator", "/" if name == "default" else ".")
    if name not in ("default", "v2") or separator not in ("/", "."):
        raise CorruptError(f"chunks cannot be named by {show(found)}", where=where)
    return ("c" if name == "default" else ""), separator


def parse_v2(document: Mapping[str, Any], attributes: Any, where: str) -> Array:
    """Read the .zarray of an array.

    Raises:
        CorruptError: it contradicts itself.
        UnsupportedError: a type or codec that is not known here.
    """
    shape = _shape(document.get("shape"), "shape", where)
    chunks = _chunks(document.get("chunks"), shape, where)
    order, separator = document.get("order", "C"), document.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise CorruptError(
            f"its order is {show(order)}, its separator {show(separator)}", where=where
        )
    filters = document.get("filters") or []
    if not isinstance(filters, list):
        raise CorruptError("its filters are not a list", where=where)
    kind, text, big = _v2_type(document.get("dtype"), filters, where)
    packed = [found for found in filters if text != "vlen"]
    if (compressor := document.get("compressor")) is not None:
        packed.append(compressor)
    axes = tuple(range(len(shape)))
    return Array(
        kind,
        text,
        shape,
        chunks,
        big,
        axes[::-1] if order == "F" else axes,
        tuple(codec(found, where) for found in packed),
        None,
        _fill(document.get("fill_value"), kind, text, where),
        "",
        separator,
        _attributes(attributes, where),
    )


def _v2_type(found: Any, filters: list[Any], where: str) -> tuple[DType, str, bool]:
    if isinstance(found, str):
        if found == "|O" and [f.get("id") for f in filters if isinstance(f, dict)] in (
            ["vlen-utf8"],
            ["vlen-bytes"],
        ):
            return STRING, "vlen", False
        if found in DTYPES and found != "string":
            return DTYPES[found], "", False
        if match := re.fullmatch(r"[<>|](U|S)(\d{1,8})", found):
            size = _wide(int(match[2]), where)
            text = f"{'|' if match[1] == 'S' else found[0]}{match[1]}{size}"
            return STRING, text, False
        if re.fullmatch(r"[<>|=]([iufc])(\d{1,2})|[<>|]b1", found):
            name = _V2.get(found[1:])
            if name in DTYPES:
                return DTYPES[name], "", found[0] == ">"
    raise UnsupportedError(f"the data type {show(found)} is not known here", where=where)


_V2 = {
    **{f"{k}{n}": f"{w}{8 * n}" for k, w in (("i", "int"), ("u", "uint")) for n in (1, 2, 4, 8)},
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
    "b1": "bool",
}


def _shape(found: Any, what: str, where: str) -> tuple[int, ...]:
    if not is_shape(found):
        raise CorruptError(f"{show(found)} is no {what}", where=where)
    return tuple(found)


def _chunks(found: Any, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    chunks = _shape(found, "shape of a chunk", where)
    if len(chunks) != len(shape) or 0 in chunks:
        if (any(shape) and 0 in chunks) or len(chunks) != len(shape):
            raise CorruptError(f"chunks of {chunks} do not fit the shape {shape}", where=where)
        chunks = tuple(axis or 1 for axis in chunks)
    if math.prod(-(-a // c) for a, c in zip(shape, chunks, strict=True)) > MAX_CHUNKS:
        raise CorruptError(f"chunks of {chunks} are too many for {shape}", where=where)
    return chunks


def _attributes(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, dict | None):
        raise CorruptError("its attributes are not an object", where=where)
    return found or {}


def _fill(found: Any, kind: DType, text: str, where: str) -> bytes:
    """Give the bytes, little endian, of the element that stands for what is not stored."""
    if text or found is None or found == 0:
        return bytes(kind.numpy.itemsize) if not text else b""
    try:
        if isinstance(found, str) and found.startswith("0x"):
            return int(found, 16).to_bytes(kind.numpy.itemsize, "little")
        if kind.kind == "complex":
            parts = found if isinstance(found, list) else [found, 0]
            letter = "<2f" if kind.bits == 64 else "<2d"
            return struct.pack(letter, *(_number(part) for part in parts))
        if isinstance(found, str) and found not in _SPECIAL:
            data = base64.b64decode(found, validate=True)
            if len(data) == kind.numpy.itemsize:
                return data
            raise ValueError("of another size")
        if kind.kind in ("int", "uint"):
            return np.array(int(found)).astype(kind.numpy).tobytes()
        return np.array(_number(found)).astype(kind.numpy).tobytes()
    except (ValueError, TypeError, LookupError, OverflowError, struct.error):
        raise CorruptError(f"{show(found)} is no fill value of {kind}", where=where) from None


_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _number(found: Any) -> float:
    return _SPECIAL[found] if isinstance(found, str) else float(found)
