"""Files as values, by the ending of their name: what the members of tar shards are decoded by.

npy                             the array
npz                             its arrays, each a field
cls cls2 index inx id count     a whole number in decimal digits
txt text transcript             text in UTF-8
json jsn                        the JSON value
jpg png ppm bmp webp gif tiff   a picture: uint8 of height, width and 3
anything else                   the bytes, pickles too: they are never run
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep.data.dataset import JSON, Field
from tensorkeep.data.pictures import ENDINGS, decode_picture
from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.npy import USUAL, read_header
from tensorkeep.wire.text import parse_json
from tensorkeep.wire.zip import check_member, open_member, read_directory

NUMBERS = frozenset(("cls", "cls2", "index", "inx", "id", "count"))

_NUMBER = re.compile(rb"\s*([+-]?[0-9]{1,19})\s*", re.ASCII)
_LONGEST = 256  # bytes of a number with blanks around it
_NPY = ".npy"
_NOTES = "tensorkeep.json"  # which our own .npz files may hold besides


@dataclass(frozen=True, slots=True)
class Decoder:
    """How the bytes of a file become a value.

    Args:
        decode: makes it of the bytes and of what messages call the file.
        field: what is known of the value beforehand.
    """

    decode: Callable[[memoryview, str], Any]
    field: Field


def decoder(ending: str) -> Decoder:
    """Give the decoder for the last part of a file name, in lower case.

    >>> decoder("txt").decode(memoryview(b"a cat"), "example")
    'a cat'
    """
    return _DECODERS.get(ending, _RAW)


def whole_number(data: bytes | memoryview) -> int | None:
    """Read a whole number of 64 bits; None where that is not what the bytes are.

    >>> whole_number(b"7"), whole_number(b"cat")
    (7, None)
    """
    match = _NUMBER.fullmatch(data)
    number = int(match[1]) if match else None
    return number if number is not None and -(1 << 63) <= number < 1 << 63 else None


def array_names(data: memoryview, where: str) -> list[str]:
    """Name the arrays of a .npz file.

    Raises:
        CorruptError: it is damaged.
    """
    members = list(read_directory(MemorySource(data, where)))
    for name in members:
        if not name.endswith(_NPY) and name != _NOTES:
            raise CorruptError(f"holds {name[:60]!r}, which is no array", where=where)
    return [name.removesuffix(_NPY) for name in members if name != _NOTES]


def decode_array_of(data: memoryview, name: str, where: str) -> Any:
    """Decode one array of a .npz file, checked by the archive's CRC-32.

    Raises:
        MissingError: it has no such array.
        CorruptError: it is damaged.
    """
    archive = MemorySource(data, where)
    members = read_directory(archive)
    member = members.get(name + _NPY)
    if member is None:
        there = ", ".join(key.removesuffix(_NPY) for key in list(members)[:8])
        raise MissingError(f"has no array {name!r}, but {there or 'none'}", where=where)
    check_member(archive, member)
    return _array(open_member(archive, member), where)


def _decode_npy(data: memoryview, where: str) -> Any:
    return _array(MemorySource(data, where), where)


def _array(source: Source, where: str) -> Any:
    header = read_header(
        source.read(0, min(USUAL, source.size)),
        lambda count: source.read(0, count),
        source.size,
        where,
        {},
    )
    tensor: Tensor = header.tensor(source, header.length)
    return tensor.numpy().copy()


def _decode_number(data: memoryview, where: str) -> np.int64:
    number = whole_number(data) if len(data) < _LONGEST else None
    if number is None:
        raise CorruptError(
            f"holds {bytes(data[:40])!r}, where a whole number is needed",
            where=where,
            cure="Give the file another ending, such as .txt.",
        )
    return np.int64(number)


def _decode_text(data: memoryview, where: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise CorruptError(
            f"is not UTF-8 at byte {error.start}",
            where=where,
            cure="Give the file another ending, such as .bin, to have its bytes.",
        ) from None


def _decode_json(data: memoryview, where: str) -> Any:
    return parse_json(data, where)


def _decode_bytes(data: memoryview, where: str) -> bytes:
    return bytes(data)


_UNKNOWN = Field()
_RAW = Decoder(_decode_bytes, _UNKNOWN)
_DECODERS = {
    "npy": Decoder(_decode_npy, _UNKNOWN),
    **dict.fromkeys(NUMBERS, Decoder(_decode_number, Field("int64", ()))),
    **dict.fromkeys(("txt", "text", "transcript"), Decoder(_decode_text, Field("string", ()))),
    **dict.fromkeys(("json", "jsn"), Decoder(_decode_json, Field(JSON))),
    **dict.fromkeys(ENDINGS, Decoder(decode_picture, Field("uint8"))),
}
