"""What records are made of whose values take differing numbers of bytes, and so lie anywhere.

Such are pixels as numbers of one byte or two, token ids, text, and image files. Of one record is
learned what it consists of, one piece behind the other: bytes that are the same in all of them,
lengths, and values. Others are then walked through together, each at its own place, by a few steps
over arrays; those that turn out to be made in another way are left to who parses them one by one.

Facts: caffe2.proto; protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.data.ranges import Bytes, Numbers, gather
from tensorkeep.data.sources.layout import (
    MOST_FIELDS,
    MOST_ITEMS,
    NUMBERS,
    Array,
    Fits,
    Place,
    cast,
    field_names,
    finish,
    kind_of,
    plain_place,
)
from tensorkeep.errors import FormatError
from tensorkeep.message.varints import decode_varints
from tensorkeep.source import MemorySource
from tensorkeep.wire.caffe2.decode import Part, parse_tensor
from tensorkeep.wire.caffe2.elements import STRING_DATA, VARINT_FIELDS
from tensorkeep.wire.caffe2.fields import BYTES, VARINT, Record

_MOST_OUTLINES = 32
_MOST_FAILURES = 64
_LENGTH, _NUMBER = 5, 10  # bytes of a varint
_MANY, _TEXT = "many", "text"  # codings of a place, besides those of a layout


Words = npt.NDArray[np.uint64]


class _Field(NamedTuple):
    """A field: what its values are, and which of the pieces that were found they are."""

    place: Place  # in the record that was learned from
    pieces: tuple[int, ...]


class _Walk:
    """Many records that are walked through together.

    Args:
        view: where they lie.
        starts: where each begins.
        stops: where each ends.
    """

    def __init__(self, view: Bytes, starts: Numbers, stops: Numbers) -> None:
        self.view = view
        self.at = starts
        self.stops = stops
        self.sound: Fits = np.full(len(starts), view.size > 0)
        self.pieces: list[tuple[Numbers, Numbers]] = []  # where they start, and stop
        self.numbers: dict[int, Words] = {}  # of the pieces that are one
        self._ends: list[Numbers] = []

    def expect(self, data: Bytes) -> None:
        """Go over bytes that are the same in all records."""
        last = self.view.size - len(data)
        if last < 0:
            self.sound[:] = False
            return
        found = gather(self.view, np.minimum(self.at, last), len(data))
        self.sound &= (found == data).all(axis=1)
        self._move(self.at + len(data))

    def enter(self) -> None:
        """Go over a length, into what has it."""
        size, start = self._varint(_LENGTH)
        self._move(start)
        self._ends.append(self.at + size.view(np.int64))

    def leave(self) -> None:
        """Be at the end of what was gone into last."""
        self.sound &= self.at == self._ends.pop()

    def values(self, size: int | None = None) -> None:
        """Go over values of some bytes, or of all up to the end of what was gone into last."""
        start = self.at
        self._move(self._ends[-1] if size is None else start + size)
        self.pieces.append((start, self.at))

    def number(self) -> None:
        """Go over a number."""
        self.numbers[len(self.pieces)], stop = self._varint(_NUMBER)
        start = self.at
        self._move(stop)
        self.pieces.append((start, self.at))

    def _move(self, to: Numbers) -> None:
        self.sound &= to <= self.stops
        self.at = np.minimum(to, self.stops)

    def _varint(self, most: int) -> tuple[Words, Numbers]:
        """Read a varint at each place; give them, and where each ends."""
        value = np.zeros(len(self.at), np.uint64)
        stop = self.at.copy()
        goes_on = np.ones(len(stop), np.bool_)
        for place in range(most):
            byte = self.view.take(self.at + place, mode="clip")
            septet = (byte & 0x7F).astype(np.uint64) << np.uint64(7 * place)
            value |= septet * goes_on
            stop += goes_on
            goes_on &= byte >= 0x80
            if not goes_on.any():
                break
        self.sound &= ~goes_on
        return value, stop


class Outline:
    """What records of one kind consist of.

    Args:
        fields: by name.
        steps: how to walk through one.
    """

    def __init__(self, fields: dict[str, _Field], steps: Sequence[Callable[[_Walk], None]]) -> None:
        self._fields = fields
        self._steps = steps

    def read(
        self, view: Bytes, starts: Numbers, sizes: Numbers, names: Sequence[str] | None
    ) -> tuple[Fits, dict[str, Array]]:
        """Say which records consist of the same; give some fields of these, or all of them."""
        names = list(self._fields) if names is None else names
        walk = _Walk(view, starts, starts + sizes)
        nothing = np.zeros(len(starts), np.bool_), dict[str, Array]()
        if not all(name in self._fields for name in names):
            return nothing
        for step in self._steps:
            step(walk)
        fits: Fits = walk.sound & (walk.at == walk.stops)
        for name in names:
            place, pieces = self._fields[name]
            if place.coding == _MANY:
                fits = _have(view, *walk.pieces[pieces[0]], math.prod(place.kind.shape), fits)
        if not fits.any():
            return nothing
        try:
            return fits, {name: self._values(name, walk, fits) for name in names}
        except FormatError:  # one of them has a number that is too long: it will be said of which
            return nothing

    def _values(self, name: str, walk: _Walk, fits: Fits) -> Array:
        place, pieces = self._fields[name]
        dtype, shape = place.kind
        spans = [(start[fits], stop[fits]) for start, stop in map(walk.pieces.__getitem__, pieces)]
        count = int(np.count_nonzero(fits))
        if not spans:
            return np.empty((count, *shape), dtype)
        if place.coding == NUMBERS:
            columns = [cast(walk.numbers[piece][fits], dtype) for piece in pieces]
            return np.stack(columns, axis=1).reshape(count, *shape)
        if place.coding == _MANY:
            return _decoded(walk.view, *spans[0], dtype).reshape(count, *shape)
        if place.coding == _TEXT:
            return _texts(walk.view, spans).reshape(count, *shape)
        return finish(gather(walk.view, spans[0][0], place.size), place)


def _have(view: Bytes, starts: Numbers, stops: Numbers, count: int, fits: Fits) -> Fits:
    """Say of which records the bytes are so many varints."""
    have = fits.copy()
    for i in np.flatnonzero(fits).tolist():
        ends = view[starts[i] : stops[i]] < 0x80
        have[i] = np.count_nonzero(ends) == count and ends[-1]
    return have


def _decoded(view: Bytes, starts: Numbers, stops: Numbers, dtype: np.dtype[Any]) -> Array:
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    joined = np.concatenate([view[start:stop] for start, stop in spans])
    lanes = np.dtype(np.uint16) if dtype == np.float16 else dtype
    return decode_varints(joined, lanes).view(dtype)


def _texts(view: Bytes, spans: list[tuple[Numbers, Numbers]]) -> Array:
    data = view.data
    out = np.empty((len(spans[0][0]), len(spans)), object)
    for column, (starts, stops) in enumerate(spans):
        bounds = zip(starts.tolist(), stops.tolist(), strict=True)
        out[:, column] = [bytes(data[start:stop]) for start, stop in bounds]
    return out


# --- learning -------------------------------------------------------------------------------------


class Outlines:
    """The outlines that were learned so far; threads share it."""

    def __init__(self) -> None:
        self.known: list[Outline] = []
        self._lock = threading.Lock()
        self._failures = 0

    def learn(self, data: bytes) -> Outline | None:
        """Learn from a record; None where nothing is to be learned, or enough was."""
        if self._failures >= _MOST_FAILURES or len(self.known) >= _MOST_OUTLINES:
            return None
        try:
            outline = outline_of(data)
        except FormatError:  # whoever decodes the record will say so
            outline = None
        with self._lock:
            if outline is None:
                self._failures += 1
            else:
                self.known = [*self.known, outline]
        return outline


def outline_of(data: bytes) -> Outline | None:
    """Find what a TensorProtos consists of; None where it is nothing simple.

    Raises:
        CorruptError: it is none.
    """
    source = MemorySource(data)
    record = Record(source, 0, len(data), "")
    learning = _Learning(data)
    names: list[str] = []
    fields: list[_Field] = []
    for number, wire, begin, end, _ in record.walk(0, len(data)):
        if (number, wire) != (1, BYTES) or len(names) == MOST_FIELDS or learning.long:
            return None
        part = parse_tensor("", source, "", begin, end)
        learning.enter(begin)
        field = _field(part, record, learning)
        if field is None:
            return None
        learning.leave(end)
        first, last = part.head.names[-1] if part.head.names else (0, 0)
        names.append(data[begin + first : begin + last].decode("utf-8", "surrogateescape"))
        fields.append(field)
    return Outline(dict(zip(field_names(names), fields, strict=True)), learning.steps)


class _Learning:
    """The steps through a record, as they are found."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.steps: list[Callable[[_Walk], None]] = []
        self.at = self._from = 0  # up to where it was looked at; from where bytes are the same
        self.pieces = 0

    @property
    def long(self) -> bool:
        """Whether the tag of the next field takes more bytes than it needs."""
        return self._data[self.at] >= 0x80

    def skip(self, to: int) -> None:
        """Take bytes as the same in all records."""
        self.at = to

    def enter(self, to: int) -> None:
        """Take one byte as the same, and those behind it as a length."""
        self._flush(self.at + 1)
        self.steps.append(_Walk.enter)
        self.at = self._from = to

    def leave(self, to: int) -> None:
        """End what has the last length."""
        self._flush(to)
        self.steps.append(_Walk.leave)

    def take(self, to: int, step: Callable[[_Walk], None]) -> int:
        """Take bytes as a piece of values; give its number."""
        self._flush(self.at)
        self.steps.append(step)
        self.at = self._from = to
        self.pieces += 1
        return self.pieces - 1

    def _flush(self, to: int) -> None:
        if self._from < to:
            same = np.frombuffer(self._data[self._from : to], np.uint8)
            self.steps.append(partial(_Walk.expect, data=same))
        self.at = self._from = to


def _field(part: Part, record: Record, learning: _Learning) -> _Field | None:
    """Find what a tensor consists of; None where it is nothing simple."""
    head, kind = part.head, kind_of(part)
    if kind is None:
        return None
    place = plain_place(part, kind)
    if place is None:
        few = NUMBERS if head.count <= MOST_ITEMS else _MANY
        place = Place(kind, _TEXT if head.field == STRING_DATA else few, ())
    pieces: list[int] = []
    for number, wire, begin, end, _ in record.walk(part.start, part.start + part.size):
        bare = wire == VARINT and head.field in VARINT_FIELDS
        if number == head.field and learning.long:
            return None
        if number != head.field or not head.count or not (bare or wire == BYTES):
            learning.skip(end)
        elif bare:
            learning.skip(begin)
            pieces.append(learning.take(end, _Walk.number))
        elif place.coding == NUMBERS:
            learning.enter(begin)
            pieces += [learning.take(end, _Walk.number) for _ in range(head.count)]
            learning.leave(end)
        elif place.coding in (_TEXT, _MANY):
            learning.enter(begin)
            pieces.append(learning.take(end, _Walk.values))
            learning.leave(end)
        else:
            learning.skip(begin)
            pieces.append(learning.take(end, partial(_Walk.values, size=end - begin)))
        if len(pieces) > MOST_ITEMS:
            return None
    expected = head.count if place.coding in (_TEXT, NUMBERS) else min(head.count, 1)
    return _Field(place, tuple(pieces)) if len(pieces) == expected else None
