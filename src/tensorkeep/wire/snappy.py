"""Snappy: the raw format, as blocks of LevelDB's tables are packed with it. Reading alone.

The length of the unpacked bytes as a varint, then elements. The lowest two bits of an element's
first byte say what it is: 0, bytes that follow (their number less one in the upper six bits, or in
1 to 4 bytes more where those say 60 to 63); 1, a copy of 4 to 11 bytes from up to 2047 bytes back;
2 and 3, a copy of 1 to 64 bytes, 16 or 32 bits saying from how far back. Facts: the format
description that comes with Snappy.
"""

from __future__ import annotations

from tensorkeep.errors import CorruptError, UnsafeError

_GROWTH = 22  # three bytes make 64 at most


def unpack(data: bytes | memoryview, most: int, where: str) -> bytes:
    """Unpack one block.

    Args:
        data: the block.
        most: the bytes that it may unpack to.
        where: names the file in messages.

    Raises:
        CorruptError: it is damaged.
        UnsafeError: it says that it unpacks to more than `most` bytes.

    >>> unpack(bytes([10, 4, 97, 98, 30, 2, 0]), 100, "example")
    b'ababababab'
    """
    packed = bytes(data)
    size, at = _length(packed, where)
    if size > _GROWTH * len(packed):
        raise _damaged(f"{len(packed):,} packed bytes cannot make {size:,}", where)
    if size > most:
        raise UnsafeError(
            f"a packed block of {size:,} bytes is over the limit of {most:,}", where=where
        )
    out = bytearray()
    end = len(packed)
    while at < end:
        tag = packed[at]
        at += 1
        kind, count = tag & 3, tag >> 2
        if kind == 0:
            if count >= 60:
                extra = count - 59
                count = int.from_bytes(packed[at : at + extra], "little")
                at += extra
            count += 1
            if at + count > end or len(out) + count > size:
                raise _damaged("a packed block ends early", where)
            out += packed[at : at + count]
            at += count
            continue
        if kind == 1:
            width, back, count = 1, (tag >> 5) << 8, (count & 7) + 4
        else:
            width, back, count = (2 if kind == 2 else 4), 0, count + 1
        back += int.from_bytes(packed[at : at + width], "little")
        at += width
        if at > end or not 0 < back <= len(out) or len(out) + count > size:
            raise _damaged("a packed block copies from outside itself", where)
        start = len(out) - back
        if back >= count:
            out += out[start : start + count]
        else:  # it copies what it is writing
            pattern = bytes(out[start:])
            out += (pattern * (count // back + 1))[:count]
    if len(out) != size:
        raise _damaged(f"a packed block makes {len(out):,} bytes, not {size:,}", where)
    return bytes(out)


def _length(packed: bytes, where: str) -> tuple[int, int]:
    size = 0
    for at, byte in enumerate(packed[:5]):
        size |= (byte & 127) << (7 * at)
        if byte < 128:
            return size, at + 1
    raise _damaged("a packed block has no length", where)


def _damaged(problem: str, where: str) -> CorruptError:
    return CorruptError(problem, where=where, cure="Use another copy of the file.")
