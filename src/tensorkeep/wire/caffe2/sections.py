"""The values of one record, decoded: all of them, or some without the rest.

Facts: caffe2.proto and Caffe2's tensor deserializers (PyTorch 1.10), read and run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError
from tensorkeep.message import Message
from tensorkeep.message.varints import count_varints, decode_varints, encode_varints
from tensorkeep.source import MemorySource, Source
from tensorkeep.wire.caffe2 import schema
from tensorkeep.wire.caffe2.decode import Part
from tensorkeep.wire.caffe2.elements import FIELD_NAMES, RAW_DATA, STRING_DATA, VARINT_FIELDS
from tensorkeep.wire.caffe2.fields import Record

_BLOCK = 64 << 10  # encoded bytes whose varints are counted together
_LONGEST_VARINT = 10
_BEFORE = np.zeros(1, np.uint8)  # a varint that ended before the first byte


class Section:
    """Elements `begin` to `end` of a tensor, all or some of those that a part holds."""

    __slots__ = ("_counts", "begin", "end", "part")

    def __init__(self, begin: int, end: int, part: Part) -> None:
        self.begin = begin
        self.end = end
        self.part = part
        self._counts: npt.NDArray[np.int64] | None = None

    @property
    def whole(self) -> bool:
        """True where it is all of its part."""
        head = self.part.head
        return self.end - self.begin == head.end - head.begin

    def fill(self, out: npt.NDArray[Any], begin: int, *, parallel: bool = True) -> None:
        """Fill an array with the elements of the tensor from `begin` on.

        Args:
            out: a contiguous array of the tensor's type.
            begin: the number of its first element.
            parallel: decode on several threads; False where the caller does.

        Raises:
            CorruptError: the values are no whole varints, or not as many as the segment says.
        """
        field, first = self.part.head.field, begin - self.part.head.begin
        source, start, stop = stored(self.part)
        if field in VARINT_FIELDS:
            lanes = out.view(np.uint16) if out.dtype == np.float16 else out
            if out.size < self.part.end - self.part.begin:
                start, stop = self._find(source, start, stop, first, out.size)
            data, where = source.read(start, stop), self.part.where
            decode_varints(data, lanes.dtype, out.size, where, out=lanes, parallel=parallel)
        elif field == RAW_DATA:
            raw = source.read(start + 2 * first, start + 2 * (first + out.size))
            bits = out.view(np.uint32)
            bits[...] = np.frombuffer(raw, "<u2")
            np.left_shift(bits, 16, out=bits)
        else:
            values = out.view(np.uint8)
            source.readinto(start + first * out.itemsize, values.data)
            if out.dtype == np.bool_:
                np.minimum(values, 1, out=values)

    def _find(
        self, source: Source, start: int, stop: int, first: int, count: int
    ) -> tuple[int, int]:
        """Find where `count` varints from number `first` on lie, looking at little around them."""
        ends = self.count(source, start, stop)  # how many end in each block or before it
        block = int(np.searchsorted(ends, first, "right"))
        last = int(np.searchsorted(ends, first + count, "left"))
        skipped = int(ends[block - 1]) if block else 0
        begin = start + block * _BLOCK
        near = max(start, begin - _LONGEST_VARINT)  # the first may begin in the block before
        data = np.frombuffer(source.read(near, min(start + (last + 1) * _BLOCK, stop)), np.uint8)
        bounds = np.flatnonzero(np.concatenate((_BEFORE, data)) < 0x80)
        at = int(np.searchsorted(bounds, begin - near, "right")) - 1 + first - skipped
        return near + int(bounds[at]), near + int(bounds[at + count])

    def count(self, source: Source, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Give how many varints end in each block or before it; they are counted once.

        Raises:
            CorruptError: there are not as many as the part has elements, or the last is cut short.
        """
        if self._counts is None:
            places = range(start, stop, _BLOCK)
            each = [count_varints(source.read(at, min(at + _BLOCK, stop))) for at in places]
            counts = np.cumsum(each, dtype=np.int64)
            total, found = self.part.end - self.part.begin, sum(each)
            if found != total or (each and source.read(stop - 1, stop)[0] >= 0x80):
                short = ", and the last is cut short" if found == total else ""
                raise CorruptError(
                    f"holds {found} varints where {total} were expected{short}",
                    where=self.part.where,
                )
            self._counts = counts
        return self._counts

    def spans(self) -> list[tuple[int, int]]:
        """Give from where to where in the source each element of a string tensor lies."""
        begin = self.part.head.begin
        return elements_of(self.part)[self.begin - begin : self.end - begin]

    def strings(self) -> list[bytes]:
        """Give the elements of a string tensor."""
        spans = self.spans()
        if not spans:
            return []
        base = spans[0][0]
        data = bytes(self.part.source.read(base, spans[-1][1]))
        return [data[start - base : stop - base] for start, stop in spans]


def count_values(part: Part) -> None:
    """Count the varints of a part, where its values are such.

    Raises:
        CorruptError: there are not as many as the part has elements.
    """
    head = part.head
    if head.field in VARINT_FIELDS and head.has_tensor:
        source, start, stop = stored(part)
        Section(head.begin, head.end, part).count(source, start, stop)


def stored(part: Part) -> tuple[Source, int, int]:
    """Give where the values lie one after another; loose ones are gathered in memory."""
    head, start = part.head, part.start
    if head.values.together:
        return part.source, start + head.values.start, start + head.values.stop
    found = []
    for first, last in head.tensors:
        tensor = Message.parse(schema.TENSOR, part.source, start + first, start + last, part.where)
        values = tensor[FIELD_NAMES[head.field]]
        found.append(encode_varints(values) if head.field in VARINT_FIELDS else values)
    joined = np.concatenate(found).view(np.uint8)
    return MemorySource(joined.data, part.where), 0, joined.size


def elements_of(part: Part) -> list[tuple[int, int]]:
    """Give from where to where in the source each element of a string tensor lies."""
    head, start = part.head, part.start
    record = Record(part.source, start, start + part.size, part.where)
    tensors = ((start + first, start + last) for first, last in head.tensors)
    return [span for first, last in tensors for span in record.find(STRING_DATA, first, last)]
