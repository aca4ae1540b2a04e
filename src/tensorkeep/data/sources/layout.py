"""Where the fields of a record lie, learned of one record and recognised in those like it.

Records of one dataset differ in their values and in little else. So one is parsed in full, and its
layout kept: which bytes are values, and what all others are. Another record of that size whose
other bytes are the same has its values at the same places, and is not parsed: many are looked at
together, by a few steps over arrays. A number takes as many bytes as its value needs; where that
moves nothing but its own end, the layout knows how many, and the high bits of these tell.

Facts: caffe2.proto; protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.data.ranges import Bytes, Numbers, gather
from tensorkeep.errors import FormatError
from tensorkeep.source import MemorySource, Source
from tensorkeep.wire.caffe2.datum import parse_datum
from tensorkeep.wire.caffe2.decode import Part, parse_tensor
from tensorkeep.wire.caffe2.elements import (
    BYTE_DATA,
    RAW_DATA,
    UNDEFINED,
    VARINT_FIELDS,
)
from tensorkeep.wire.caffe2.fields import BYTES, Record

RAW, BOOL, BFLOAT16, NUMBERS = "raw", "bool", "bfloat16", "numbers"

MOST_ITEMS = 16  # numbers or strings of a field
MOST_FIELDS = 32
_LARGE = 256  # bytes of values that are gathered for themselves, not with what is around them
_MOST_FIXED = 4 << 10  # bytes of one layout that are compared
_MOST_LAYOUTS = 2048
_MOST_ALIKE = 8  # layouts of one size
_MOST_FAILURES = 64

Spans = tuple[tuple[int, int], ...]
Array = npt.NDArray[Any]
Fits = npt.NDArray[np.bool_]


class Kind(NamedTuple):
    """What the values of a field are once they are decoded."""

    dtype: np.dtype[Any]  # of objects for text
    shape: tuple[int, ...]


class Place(NamedTuple):
    """A field of a record: its values, and where in the record they lie."""

    kind: Kind
    coding: str
    spans: Spans  # one, or one for each number

    @property
    def start(self) -> int:
        """Where the values begin."""
        return self.spans[0][0] if self.spans else 0

    @property
    def size(self) -> int:
        """The bytes of all values."""
        return self.spans[-1][1] - self.start if self.spans else 0

    @property
    def large(self) -> bool:
        """Whether the values are gathered for themselves."""
        return self.size >= _LARGE and self.coding in (RAW, BOOL, BFLOAT16)


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes of a record that are looked at together: what they are, and which bits have to be."""

    start: int
    expected: Bytes
    mask: Bytes


class Layout:
    """Where the fields lie in records of one size, and what is around them.

    Args:
        places: the fields by name.
        data: a record.
    """

    def __init__(self, places: dict[str, Place], data: bytes) -> None:
        self.places = places
        self.number: int | None = None  # among those whose records are remembered
        mask = np.full(len(data), 0xFF, np.uint8)
        larges = []
        for place in places.values():
            for start, stop in place.spans:
                mask[start:stop] = 0x80 if place.coding == NUMBERS else 0
            if place.large:
                larges.append(place.spans[0])
        bytes_ = np.frombuffer(data, np.uint8)
        larges.sort()
        starts, stops = [0, *(b for _, b in larges)], [*(a for a, _ in larges), len(data)]
        between = [(a, b) for a, b in zip(starts, stops, strict=True) if a < b]
        self._runs = [_Run(a, bytes_[a:b] & mask[a:b], mask[a:b]) for a, b in between]

    @property
    def fixed(self) -> int:
        """The bytes that are kept of it."""
        return sum(run.mask.size for run in self._runs)

    def match(self, view: Bytes, starts: Numbers) -> tuple[Fits | None, list[Bytes]]:
        """Say which records of the size have this layout; give what was looked at for that.

        None stands for all of them.
        """
        fits: Fits | None = None
        looked = []
        for run in self._runs:
            found = gather(view, starts + run.start, run.mask.size)
            differs = (found & run.mask) != run.expected
            if differs.any():
                same = ~differs.any(axis=1)
                fits = same if fits is None else fits & same
            looked.append(found)
        return fits, looked

    def values(self, place: Place, looked: list[Bytes], count: int) -> Array:
        """Decode a field that is not large from what was looked at."""
        if place.coding == NUMBERS:
            columns = [
                _number(self._bytes(looked, *span, count), place.kind.dtype) for span in place.spans
            ]
            out = columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
        else:
            out = finish(self._bytes(looked, place.start, place.start + place.size, count), place)
        return out.reshape(count, *place.kind.shape)

    def _bytes(self, looked: list[Bytes], start: int, stop: int, count: int) -> Bytes:
        for run, found in zip(self._runs, looked, strict=True):
            if run.start <= start and stop <= run.start + run.mask.size:
                return found[:, start - run.start : stop - run.start]
        return np.empty((count, 0), np.uint8)


def finish(found: Bytes, place: Place) -> Array:
    """Make values of their bytes, a row for each record; shares memory where it can."""
    rows = np.ascontiguousarray(found)
    if place.coding == BOOL:
        values: Array = rows != 0
    elif place.coding == BFLOAT16:
        values = (rows.view("<u2").astype("<u4") << 16).view("<f4")
    elif rows.size:
        values = rows.view(place.kind.dtype)
    else:
        values = np.empty(0, place.kind.dtype)
    return values.reshape(len(rows), *place.kind.shape)


def _number(found: Bytes, dtype: np.dtype[Any]) -> Array:
    """Decode a varint of each row."""
    value: npt.NDArray[np.uint64] = (found[:, 0] & 0x7F).astype(np.uint64)
    for column in range(1, found.shape[1]):
        value |= (found[:, column] & 0x7F).astype(np.uint64) << np.uint64(7 * column)
    return cast(value, dtype)


def cast(words: npt.NDArray[np.uint64], dtype: np.dtype[Any]) -> Array:
    """Make values of the numbers that stand for them, as C does."""
    if dtype == np.bool_:
        return np.not_equal(words, 0)
    if dtype == np.float16:
        return words.astype(np.uint16).view(np.float16)
    number: Array = words.astype(dtype)
    return number


def field_names(given: Iterable[str]) -> list[str]:
    """Name the fields of a record: by their number where they have no name of their own.

    >>> field_names(["image", "", "image"])
    ['image', '1', '2']
    """
    names: dict[str, None] = {}
    for number, name in enumerate(given):
        own = name if name and name not in names else str(number)
        while own in names:
            own += "_"
        names[own] = None
    return list(names)


# --- learning -------------------------------------------------------------------------------------


class Layouts:
    """What was learned so far, by the size of the records; threads share it.

    Args:
        parse: finds the fields of a record, such as `of_protos`.
    """

    def __init__(self, parse: Callable[[bytes], dict[str, Place] | None]) -> None:
        self._parse = parse
        self._known: dict[int, list[Layout]] = {}
        self._lock = threading.Lock()
        self._count = self._failures = 0

    @property
    def any(self) -> bool:
        """Whether any was learned."""
        return self._count > 0

    def of_size(self, size: int) -> list[Layout]:
        """Give the layouts of records of a size."""
        return list(self._known.get(size, ()))

    def learn(self, data: bytes) -> Layout | None:
        """Learn from a record; None where nothing is to be learned, or enough was."""
        full = len(self._known.get(len(data), ())) >= _MOST_ALIKE
        if full or self._count >= _MOST_LAYOUTS or self._failures >= _MOST_FAILURES:
            return None
        layout = self._learn(data)
        with self._lock:
            if layout is None or layout.fixed > _MOST_FIXED:
                self._failures += 1
                return None
            self._count += 1
            self._known[len(data)] = [*self._known.get(len(data), ()), layout]
        return layout

    def _learn(self, data: bytes) -> Layout | None:
        try:
            places = self._parse(data)
        except FormatError:  # whoever decodes the record will say so
            return None
        return None if places is None else Layout(places, data)


def of_protos(data: bytes) -> dict[str, Place] | None:
    """Find the fields of a TensorProtos; None where one lies in no simple way.

    Raises:
        CorruptError: it is none.
    """
    source = MemorySource(data)
    record = Record(source, 0, len(data), "")
    names: list[str] = []
    places: list[Place] = []
    for number, wire, begin, end, _ in record.walk(0, len(data)):
        if (number, wire) != (1, BYTES) or len(places) == MOST_FIELDS:
            return None
        part = parse_tensor("", source, "", begin, end)
        place = _place(part, source)
        if place is None:
            return None
        first, last = part.head.names[-1] if part.head.names else (0, 0)
        names.append(data[begin + first : begin + last].decode("utf-8", "surrogateescape"))
        places.append(place)
    return dict(zip(field_names(names), places, strict=True))


def of_datum(data: bytes) -> dict[str, Place] | None:
    """Find the fields of a Datum; None where one lies in no simple way.

    Raises:
        CorruptError: it is none.
    """
    datum = parse_datum(MemorySource(data), 0, len(data), "")
    if datum.floats or datum.encoded or datum.data is None or datum.label_at is None:
        return None
    pixels = Place(Kind(np.dtype(np.uint8), datum.shape), RAW, (datum.data,))
    label = Place(Kind(np.dtype(np.int32), ()), NUMBERS, (datum.label_at,))
    return {"data": pixels, "label": label}


def _place(part: Part, source: Source) -> Place | None:
    """Find the values of a tensor; None where they lie in no simple way."""
    head, kind = part.head, kind_of(part)
    if kind is None or (head.count and not head.values.together):
        return None
    place = plain_place(part, kind)
    if place is not None or head.count > MOST_ITEMS or head.field not in VARINT_FIELDS:
        return place
    start, stop = part.start + head.values.start, part.start + head.values.stop
    spans = list(_varints(bytes(source.read(start, stop)), start))
    return Place(kind, NUMBERS, tuple(spans)) if len(spans) == head.count else None


def kind_of(part: Part) -> Kind | None:
    """Say what the values of a tensor are; None where it is damaged, or a part of one."""
    head = part.head
    if head.problem is not None or head.dtype is None or head.code == UNDEFINED:
        return None
    if (head.begin, head.end) != (0, head.count):
        return None
    text = head.dtype is dtypes.STRING
    return Kind(np.dtype(object) if text else head.dtype.numpy, head.shape)


def plain_place(part: Part, kind: Kind) -> Place | None:
    """Find values that take as many bytes in all records; None where they do not."""
    head = part.head
    start, stop = part.start + head.values.start, part.start + head.values.stop
    if head.count == 0:
        return Place(kind, RAW, ())
    if head.offset >= 0 and head.dtype is not None:
        return Place(kind, RAW, ((start, start + head.dtype.nbytes(head.count)),))
    if head.field == RAW_DATA:
        return Place(kind, BFLOAT16, ((start, stop),))
    if head.field == BYTE_DATA and head.dtype is dtypes.BOOL:
        return Place(kind, BOOL, ((start, stop),))
    return None


def _varints(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Say where each varint lies; nothing of those that are cut short or too long."""
    ends = [i + 1 for i, byte in enumerate(data) if byte < 0x80]
    spans = list(pairwise([0, *ends]))
    if spans and spans[-1][1] == len(data) and all(b - a <= 10 for a, b in spans):
        for a, b in spans:
            yield start + a, start + b
