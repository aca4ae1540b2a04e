"""One record of Caffe's own image databases: a Datum, which Caffe2 calls CaffeDatum.

    1 channels, 2 height, 3 width    numbers
    4 data      the pixels as bytes, or a whole image file where 7 encoded is true
    5 label     a number; 0 where it is absent
    6 float_data                     pixels as float32, instead of data

Facts: Caffe's caffe.proto and Caffe2's caffe2_legacy.proto.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import CorruptError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.fields import BYTES, FIXED32, VARINT, Record, int32
from tensorkeep.wire.glimpse import glimpse

_CHANNELS, _HEIGHT, _WIDTH, _DATA, _LABEL, _FLOATS, _ENCODED = range(1, 8)
_KNOWN = {
    **dict.fromkeys((_CHANNELS, _HEIGHT, _WIDTH, _LABEL, _ENCODED), (VARINT,)),
    _DATA: (BYTES,),
    _FLOATS: (BYTES, FIXED32),
}
_MOST_AXIS = 1 << 20

Span = tuple[int, int]


@dataclass(frozen=True)
class Datum:
    """What a record says, and where in the source its values lie."""

    shape: tuple[int, int, int]
    encoded: bool
    data: Span | None
    label: int
    label_at: Span | None
    floats: list[Span]


def is_datum(head: bytes, size: int) -> bool:
    """A Datum: a shape, and pixels as many as it says or an image file.

    >>> is_datum(bytes.fromhex("08 01 10 01 18 02 22 02 ff 00 28 07"), 12)
    True
    """
    found = glimpse(head, size, _KNOWN)
    numbers = [field.number for field in found or ()]
    shape = (_CHANNELS, _HEIGHT, _WIDTH)
    if not all(numbers.count(axis) == 1 for axis in shape):
        return False
    return numbers.count(_DATA) == 1 or _FLOATS in numbers


def parse_datum(source: Source, start: int, stop: int, where: str) -> Datum:
    """Parse a record; the values are not read.

    Raises:
        CorruptError: it is no Datum, or its shape contradicts its pixels.
    """
    record = Record(source, start, stop, where, kind="Datum")
    numbers = dict.fromkeys((_CHANNELS, _HEIGHT, _WIDTH, _LABEL, _ENCODED), 0)
    data = label_at = None
    floats: list[Span] = []
    for number, wire, begin, end, value in record.walk(start, stop):
        if wire not in _KNOWN.get(number, ()):
            record.refuse(begin, f"is number {number} of wire type {wire}, which it has not")
        if number == _DATA:
            data = begin, end
        elif number == _FLOATS:
            floats.append((begin, end))
        else:
            numbers[number] = int32(value)
            label_at = (begin, end) if number == _LABEL else label_at
    shape = numbers[_CHANNELS], numbers[_HEIGHT], numbers[_WIDTH]
    if not all(0 <= axis <= _MOST_AXIS for axis in shape):
        raise CorruptError(f"has the shape {shape}", where=where)
    encoded = bool(numbers[_ENCODED])
    size = 0 if data is None else data[1] - data[0]
    taken = sum(end - begin for begin, end in floats)
    count = shape[0] * shape[1] * shape[2]
    if not encoded and (size, taken) not in ((count, 0), (0, 4 * count)):
        raise CorruptError(
            f"has {size:,} bytes of data and {taken:,} of float_data for the shape {shape}",
            where=where,
        )
    return Datum(shape, encoded, data, numbers[_LABEL], label_at, floats)


def decode_datum(source: Source, start: int, stop: int, where: str) -> list[tuple[str, Tensor]]:
    """Give the fields of a record: "data" and "label"; an image file as one string.

    Raises:
        CorruptError: it is no Datum, or its shape contradicts its pixels.
    """
    datum = parse_datum(source, start, stop, where)
    label = Tensor.of(np.array(datum.label, np.int32), where)
    begin, end = datum.data or (start, start)
    if datum.encoded:
        file = np.array(bytes(source.read(begin, end)).decode("utf-8", "surrogateescape"), object)
        return [("data", Tensor.of(file, where)), ("label", label)]
    if datum.floats:
        raw = b"".join(bytes(source.read(*span)) for span in datum.floats)
        floats = np.frombuffer(raw, "<f4").reshape(datum.shape)
        return [("data", Tensor.of(floats, where)), ("label", label)]
    return [("data", Tensor(dtypes.UINT8, datum.shape, source, begin)), ("label", label)]
