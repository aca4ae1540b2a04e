"""String tensors of a bundle.

    the length of each string, as varints; CRC-32C; the strings

The CRC is masked and covers the lengths as uint32 (uint64 where one does not fit), not as varints.
That of the whole tensor, in the index, goes over those, then the CRC's own bytes, then the strings.
Facts: tensor_bundle.cc of TensorFlow, and the files that TensorFlow 2.21 writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError
from tensorkeep.message.varints import decode_varints
from tensorkeep.source import Source
from tensorkeep.wire.crc32c import crc32c, crc32c_of, mask, unmask

_LONGEST = 10  # bytes of a varint
_PIECE = 16 << 20
_CRC = 4


class Strings(Source):
    """The canonical bytes of the strings that lie from `offset` on, `count` of them in `size`.

    Raises:
        CorruptError: the lengths do not make up the size.
    """

    __slots__ = ("_big", "_count", "_head", "_inner", "_offset", "_text")

    def __init__(self, inner: Source, offset: int, size: int, count: int, big: bool) -> None:
        self._inner, self._offset, self._count, self._big = inner, offset, count, big
        data = inner.read(offset, offset + min(size, _LONGEST * count))
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) < 128)
        if ends.size < count:
            raise CorruptError(
                f"{count:,} strings do not fit into {size:,} bytes", where=inner.where
            )
        self._head = int(ends[count - 1]) + 1 if count else 0  # bytes that the lengths take
        self._text = size - self._head - _CRC
        total = _sum(self._lengths())
        if self._text < 0 or total != self._text:
            raise CorruptError(
                f"strings of {total:,} bytes do not make up the {size:,} bytes of their tensor",
                where=inner.where,
                cure="The file is damaged; use another copy.",
            )
        super().__init__(8 * (count + 1) + self._text, inner.where)

    def check(self, kept: int) -> None:
        """Compare both checksums.

        Raises:
            CorruptError: one differs.
        """
        state = crc32c(self._length_bytes())
        stored = self._stored_crc()
        if mask(state) != int.from_bytes(stored, self._order):
            raise self._differs("the lengths of its strings have")
        state = crc32c(stored, state)
        start = self._offset + self._head + _CRC
        for at in range(start, start + self._text, _PIECE):
            state = crc32c(self._inner.read(at, min(at + _PIECE, start + self._text)), state)
        if state != unmask(kept):
            raise self._differs("it has")

    def _read(self, start: int, stop: int) -> memoryview:
        head = 8 * (self._count + 1)
        text = self._offset + self._head + _CRC - head  # where in the file our byte 0 would be
        if start >= head:
            return self._inner.read(text + start, text + stop)
        data = self._offsets()
        if stop <= head:
            return memoryview(data)[start:stop]
        return memoryview(data[start:] + bytes(self._inner.read(text + head, text + stop)))

    @property
    def _order(self) -> Any:
        return "big" if self._big else "little"

    def _lengths(self) -> npt.NDArray[np.uint64]:
        data = self._inner.read(self._offset, self._offset + self._head)
        return decode_varints(data, np.uint64, self._count, self._inner.where)

    def _length_bytes(self) -> bytes:
        lengths, order = self._lengths(), ">" if self._big else "<"
        if not lengths.size or lengths.max() < 1 << 32:
            return lengths.astype(f"{order}u4").tobytes()
        kinds = (f"{order}u4" if length < 1 << 32 else f"{order}u8" for length in lengths)
        return b"".join(
            np.array(length, kind).tobytes() for length, kind in zip(lengths, kinds, strict=True)
        )

    def _stored_crc(self) -> bytes:
        start = self._offset + self._head
        return bytes(self._inner.read(start, start + _CRC))

    def _offsets(self) -> bytes:
        if mask(crc32c(self._length_bytes())) != int.from_bytes(self._stored_crc(), self._order):
            raise self._differs("the lengths of its strings have")
        offsets = np.zeros(self._count + 1, "<u8")
        np.cumsum(self._lengths(), out=offsets[1:])
        return offsets.tobytes()

    def _differs(self, what: str) -> CorruptError:
        return CorruptError(
            f"{what} another CRC-32C than was saved",
            where=self.where,
            cure="Use another copy of the file.",
        )


def check_bytes(source: Source, offset: int, size: int, kept: int, name: str) -> None:
    """Compare the CRC-32C of the bytes of a tensor with the one in the index.

    Raises:
        CorruptError: it differs.
    """
    stop = offset + size
    pieces = (source.read(at, min(at + _PIECE, stop)) for at in range(offset, stop, _PIECE))
    found = crc32c_of(pieces)
    if found != unmask(kept):
        raise CorruptError(
            f"{name!r} has CRC-32C {found:08x}, {unmask(kept):08x} was saved",
            where=source.where,
            cure="Use another copy of the file.",
        )


def _sum(lengths: npt.NDArray[np.uint64]) -> int:
    """Add lengths that may be lies without overflow: as floats where the sum could be one."""
    if lengths.size and float(lengths.max()) * lengths.size >= 2.0**63:
        return int(lengths.astype(np.float64).sum())
    return int(lengths.sum())
