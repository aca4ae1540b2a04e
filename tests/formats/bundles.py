"""Sorted tables and TensorFlow's bundles, written here byte by byte, so that they can lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.wire.crc32c import crc32c, mask
from tensorkeep.wire.sstable import MAGIC

NUMBERS = dict(
    [
        *[("float32", 1), ("float64", 2), ("int32", 3), ("uint8", 4), ("int16", 5), ("int8", 6)],
        *[("complex64", 8), ("int64", 9), ("bool", 10), ("uint16", 17), ("complex128", 18)],
        *[("float16", 19), ("uint64", 23)],
    ]
)
STRING, VARIANT, QINT8, INT4 = 7, 21, 11, 29


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(entries: Sequence[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    out, restarts, last = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % interval == 0:
            restarts += [len(out)] if number else []
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    return (
        bytes(out) + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))
    )


def sealed(data: bytes, kind: int = 0) -> bytes:
    whole = data + bytes([kind])
    return whole + struct.pack("<I", mask(crc32c(whole)))


def table_of(
    blocks: Sequence[tuple[bytes, bytes, int]], metaindex: bytes = block([]), gap: bytes = b""
) -> bytes:
    """Join blocks, each with the key that the index has for it and its kind."""
    out, index = bytearray(), []
    for key, data, kind in blocks:
        index.append((key, varint(len(out)) + varint(len(data))))
        out += sealed(data, kind)
    out += gap
    handles = b""
    for data in (metaindex, block(index, 1)):
        handles += varint(len(out)) + varint(len(data))
        out += sealed(data)
    return bytes(out) + handles.ljust(40, b"\0") + MAGIC


def table(entries: Sequence[tuple[bytes, bytes]], size: int = 5, interval: int = 16) -> bytes:
    rows = [entries[at : at + size] for at in range(0, len(entries), size)]
    return table_of([(row[-1][0], block(row, interval), 0) for row in rows])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value % (1 << 64)) if value else b""


def header(shards: int = 1, big: bool = False, minimum: int = 0) -> bytes:
    version = field(1, 1) + field(2, minimum)
    return field(1, shards) + field(2, int(big)) + field(3, version)


def entry(
    number: int,
    shape: Sequence[int],
    offset: int = 0,
    size: int = 0,
    crc: int = 0,
    *,
    shard: int = 0,
    slices: Sequence[Sequence[tuple[int, int]]] = (),
) -> bytes:
    sizes = b"".join(field(2, field(1, axis)) for axis in shape)
    out = field(1, number) + field(2, sizes) + field(3, shard) + field(4, offset) + field(5, size)
    out += varint(6 << 3 | 5) + struct.pack("<I", crc)
    for box in slices:
        extents = (
            field(1, start) + (varint(2 << 3) + varint(n) if n >= 0 else b"") for start, n in box
        )
        out += field(7, b"".join(field(1, extent) for extent in extents))
    return out


def string_bytes(values: Sequence[bytes], big: bool = False) -> tuple[bytes, int]:
    """Give the bytes of a string tensor, and its masked CRC."""
    order = ">" if big else "<"
    lengths = struct.pack(f"{order}{len(values)}I", *map(len, values))
    stored = struct.pack(f"{order}I", mask(crc32c(lengths)))
    data = b"".join(map(varint, map(len, values))) + stored + b"".join(values)
    return data, mask(crc32c(lengths + stored + b"".join(values)))


def bundle(
    arrays: Mapping[str, Any], *, big: bool = False, key: str = "model", extra: Any = ()
) -> dict[str, bytes]:
    """Give both files of a checkpoint of arrays, and of lists of bytes."""
    data, rows = bytearray(), [(b"", header(big=big)), *extra]
    for name, value in arrays.items():
        if isinstance(value, list):
            raw, crc = string_bytes(value, big)
            number, shape = STRING, (len(value),)
        else:
            array: npt.NDArray[Any] = np.asarray(value)
            raw = array.astype(array.dtype.newbyteorder(">" if big else "<")).tobytes()
            number, shape, crc = NUMBERS[array.dtype.name], array.shape, mask(crc32c(raw))
        rows.append((name.encode(), entry(number, shape, len(data), len(raw), crc)))
        data += raw
    return files(rows, bytes(data), key)


def files(rows: Sequence[tuple[bytes, bytes]], data: bytes, key: str = "model") -> dict[str, bytes]:
    return {f"{key}.index": table(sorted(rows)), f"{key}.data-00000-of-00001": data}
