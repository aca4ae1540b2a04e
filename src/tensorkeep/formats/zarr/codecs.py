"""What the bytes of a chunk went through: compressors, filters and checksums.

Each is undone into no more bytes than the chunk is declared to have, so that a few bytes cannot
become many. gzip, zlib, bz2, lzma and crc32c need nothing; the others are numcodecs'. Facts from
the codec specifications of Zarr 3, from numcodecs, RFC 8878 (zstd) and the C-Blosc header.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.optional import require
from tensorkeep.wire.crc32c import crc32c

_MEMORY = 256 << 20  # for a dictionary of lzma
_FILTERS = {
    *("delta", "shuffle", "fixedscaleoffset", "bitround", "astype", "quantize"),
    *("crc32", "adler32", "fletcher32", "jenkins_lookup3"),
}


@dataclass(frozen=True, slots=True)
class Codec:
    """One step from bytes to bytes: its name, and how it is set up."""

    name: str
    settings: Mapping[str, Any]

    def decode(self, data: memoryview, limit: int, where: str) -> memoryview:
        """Undo the step.

        Raises:
            CorruptError: the bytes are damaged.
            UnsafeError: they would become more than `limit`.
            MissingDependencyError: numcodecs is needed for it.
        """
        try:
            decoded = _DECODERS.get(self.name, _numcodecs)(self, data, limit, where)
        except TensorKeepError:
            raise
        except MemoryError:
            raise UnsafeError(
                f"{self.name} asks for more memory than there is", where=where
            ) from None
        except Exception as error:  # numcodecs raises what it likes
            raise CorruptError(f"{self.name} cannot undo it: {error}", where=where) from error
        if len(decoded) > limit:
            raise _too_much(self.name, limit, where)
        return decoded


def _too_much(name: str, limit: int, where: str) -> UnsafeError:
    return UnsafeError(
        f"what {name} packed becomes more than the {limit:,} bytes that its chunk has",
        where=where,
        cure="The file is damaged, or made to fill the memory.",
    )


def codec(found: Any, where: str) -> Codec:
    """Read the description of a codec, as v2 (`id`) or v3 (`name`) has it.

    Raises:
        UnsupportedError: it is none that is known here.
    """
    match found:
        case {"id": str(name)}:
            settings = found
        case {"name": str(name)}:
            settings = found.get("configuration") or {}
        case str(name):
            settings = {}
        case _:
            raise CorruptError(f"{found!r:.60} describes no codec", where=where)
    name = name.removeprefix("numcodecs.")
    if not isinstance(settings, dict) or name not in {*_DECODERS, *_FILTERS}:
        raise UnsupportedError(f"the codec {name[:40]!r} is not known here", where=where)
    return Codec(name, settings)


def _inflate(bits: int) -> Callable[[Codec, memoryview, int, str], memoryview]:
    def decode(codec: Codec, data: memoryview, limit: int, where: str) -> memoryview:
        out = bytearray()
        rest: bytes | memoryview = data
        while rest:
            stream = zlib.decompressobj(bits)
            out += stream.decompress(rest, limit + 1 - len(out))
            if len(out) > limit:
                raise _too_much(codec.name, limit, where)
            if not stream.eof:
                raise CorruptError(f"its {codec.name} stream is cut short", where=where)
            rest = stream.unused_data
        return memoryview(out)

    return decode


def _bz2(codec: Codec, data: memoryview, limit: int, where: str) -> memoryview:
    stream = bz2.BZ2Decompressor()
    out = stream.decompress(data, limit + 1)
    if len(out) <= limit and not stream.eof:
        raise CorruptError("its bz2 stream is cut short", where=where)
    return memoryview(out)


def _lzma(codec: Codec, data: memoryview, limit: int, where: str) -> memoryview:
    if codec.settings.get("format", 1) not in (0, 1, 2):
        raise UnsupportedError("raw lzma streams are not read here", where=where)
    stream = lzma.LZMADecompressor(memlimit=_MEMORY)
    out = stream.decompress(bytes(data), limit + 1)
    if len(out) <= limit and not stream.eof:
        raise CorruptError("its lzma stream is cut short", where=where)
    return memoryview(out)


def _crc32c(codec: Codec, data: memoryview, limit: int, where: str) -> memoryview:
    body, stored = data[:-4], int.from_bytes(data[-4:], "little")
    if len(data) < 4 or (found := crc32c(body)) != stored:
        shown = f"{found:08x}, {stored:08x} was saved" if len(data) >= 4 else "cut off"
        raise CorruptError(
            f"is damaged: its CRC-32C is {shown}", where=where, cure="Use another copy."
        )
    return body


def _numcodecs(codec: Codec, data: memoryview, limit: int, where: str) -> memoryview:
    numcodecs = require(
        "numcodecs",
        f"its chunks are packed with {codec.name}, which needs numcodecs",
        'Install it with: pip install "tensorkeep[zarr]".',
        where,
    )
    claimed = _CLAIMS[codec.name](data) if codec.name in _CLAIMS else 0
    if claimed > limit:
        raise _too_much(codec.name, limit, where)
    settings = {k: v for k, v in codec.settings.items() if k != "id"}
    if codec.name == "blosc" and isinstance(settings.get("shuffle"), str):
        settings = {}  # v3 names the shuffle; undoing it needs nothing but the header
    if codec.name == "zstd":
        settings = {}
    decoder = numcodecs.get_codec({"id": codec.name, **settings})
    out = decoder.decode(np.frombuffer(data, np.uint8))
    if isinstance(out, bytes | bytearray | memoryview):
        return memoryview(out)
    return np.ascontiguousarray(out).view(np.uint8).reshape(-1).data.toreadonly()


def _zstd_claim(data: memoryview) -> int:
    """Give the bytes that zstd frames become, or at most become where a frame does not say."""
    at = total = 0
    while at < len(data):
        magic = int.from_bytes(data[at : at + 4], "little")
        if 0x184D2A50 <= magic <= 0x184D2A5F:  # a frame to be skipped
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        if magic != 0xFD2FB528 or at + 5 > len(data):
            raise ValueError("it is not a zstd frame")
        flags = data[at + 4]
        single = flags >> 5 & 1
        width = (single, 2, 4, 8)[flags >> 6]
        place = at + 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
        size = int.from_bytes(data[place : place + width], "little") + (256 if width == 2 else 0)
        at, blocks = _zstd_blocks(data, place + width)
        at += 4 * (flags >> 2 & 1)
        # What a frame claims and what its blocks can hold: the larger could be made room for.
        total += size if width else blocks
        if width and size > max(blocks, 1 << 17):
            raise ValueError("a zstd frame claims more than its blocks can hold")
    return total


def _zstd_blocks(data: memoryview, at: int) -> tuple[int, int]:
    total = 0
    while at + 3 <= len(data):
        header = int.from_bytes(data[at : at + 3], "little")
        kind, size = header >> 1 & 3, header >> 3
        total += size if kind < 2 else 1 << 17
        at += 3 + (1 if kind == 1 else size)
        if header & 1:
            break
    return at, total


_CLAIMS: dict[str, Callable[[memoryview], int]] = {
    "zstd": _zstd_claim,
    "blosc": lambda data: int.from_bytes(data[4:8], "little"),
    "lz4": lambda data: int.from_bytes(data[:4], "little"),
}
_DECODERS: dict[str, Callable[[Codec, memoryview, int, str], memoryview]] = {
    "gzip": _inflate(31),
    "zlib": _inflate(15),
    "bz2": _bz2,
    "lzma": _lzma,
    "crc32c": _crc32c,
    "zstd": _numcodecs,
    "blosc": _numcodecs,
    "lz4": _numcodecs,
}
