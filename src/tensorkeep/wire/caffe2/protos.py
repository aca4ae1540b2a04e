"""One record of training data: a TensorProtos, whose tensors are the fields of one sample.

    TensorProtos  1 protos, repeated TensorProto
    TensorProto   1 dims, 2 data_type, the values (3 float_data, 4 int32_data, 5 byte_data,
                  6 string_data, 9 double_data or 10 int64_data), 7 name

Plain bytes of uint8 are of the type BYTE, which every Caffe2 reads: of the type UINT8 older ones
look in int32_data alone, where a pixel takes up to two bytes and has to be decoded.

Facts: caffe2.proto, and Caffe2's TensorProtosDBInput and tensor deserializer (PyTorch 1.10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import elements
from tensorkeep.wire.caffe2.assemble import join_parts
from tensorkeep.wire.caffe2.decode import Part, parse_tensor
from tensorkeep.wire.caffe2.elements import BYTE, BYTE_DATA, STRING_DATA, VARINT_FIELDS
from tensorkeep.wire.caffe2.encode_tensor import (
    LONGEST_RECORD,
    NAME,
    Plan,
    choose_field,
    prefixed,
    varint,
)
from tensorkeep.wire.caffe2.fields import BYTES, Record
from tensorkeep.wire.caffe2.options import SaveOptions

Value = Tensor | npt.NDArray[Any] | np.generic | str | bytes | int | float | bool

MOST_FIELDS = 4096  # of one sample
_FEW = 16  # varints that are decoded with the record
_WORD = 2**64 - 1
_PROTOS = 1
_OPTIONS = SaveOptions()


def decode_record(source: Source, start: int, stop: int, where: str) -> list[tuple[str, Tensor]]:
    """Give the name and the values of every tensor of a record; "" where one has no name.

    Values that lie in the record as they do in memory stay there; others are decoded when they
    are read. On which device a tensor was is not told.

    Args:
        source: where the record lies.
        start: its first byte.
        stop: the byte after its last.
        where: names it in messages.

    Raises:
        CorruptError: it is no TensorProtos, or a tensor in it is damaged.
        UnsupportedError: a tensor is of a type that no deserializer reads.
    """
    record = Record(source, start, stop, where, kind="TensorProtos")
    found: list[tuple[str, Tensor]] = []
    for number, wire, begin, end, _ in record.walk(start, stop):
        if (number, wire) != (_PROTOS, BYTES):
            record.refuse(begin, f"is number {number}, which it has not")
        if len(found) == MOST_FIELDS:
            raise UnsupportedError(f"has more than {MOST_FIELDS:,} tensors", where=where)
        part = parse_tensor("", source, where, begin, end)
        name = ""
        if part.head.names:
            first, last = part.head.names[-1]
            name = record.read(begin + first, begin + last).decode("utf-8", "surrogateescape")
        found.append((name, _tensor(part, f"{where}: {name!r}" if name else where)))
    return found


def encode_record(tensors: Mapping[str, Value]) -> bytes:
    r"""Give the record of one sample: its fields in their order, under their names.

    Args:
        tensors: arrays, Tensors, numbers, text or bytes by name; "" leaves a name out.

    Raises:
        ArgumentError: there is no tensor.
        UnsupportedError: Caffe2 has no such element type, or the record would pass 2 GiB.

    >>> encode_record({"label": np.int32(7)})
    b'\n\x0c\x10\x02"\x01\x07:\x05label'
    """
    if not tensors:
        raise ArgumentError("a record needs a tensor", cure="Leave the sample out.")
    data = b"".join(prefixed(0x0A, _encode(name, value)) for name, value in tensors.items())
    if len(data) > LONGEST_RECORD:
        raise UnsupportedError(
            f"needs a record of {len(data):,} bytes; Caffe2 reads up to {LONGEST_RECORD:,}",
            cure="Make samples smaller: one record is one sample.",
        )
    return data


def _tensor(part: Part, where: str) -> Tensor:
    part.check(where)
    head = part.head
    if head.offset >= 0 and head.dtype is not None:
        nbytes = head.dtype.nbytes(head.count)
        return Tensor(head.dtype, head.shape, part.source, part.start + head.offset, nbytes)
    if head.dtype is None:
        raise CorruptError("is a tensor of no type", where=where)
    if head.end - head.begin != head.count:
        raise CorruptError(
            f"is a chunk of a tensor: elements {head.begin} to {head.end} of {head.count}",
            where=where,
            cure="A record of training data has whole ones.",
        )
    shape = (0,) if head.code == elements.UNDEFINED else head.shape
    few = _few(part, head.dtype) if 0 < head.count <= _FEW else None
    return join_parts((part,), head.dtype, shape, where) if few is None else few


def _few(part: Part, dtype: DType) -> Tensor | None:
    """Decode some varints at once, such as a label; None where there is more to look at."""
    head = part.head
    if head.field not in VARINT_FIELDS or not head.values.together:
        return None
    numbers: list[int] = []
    value = shift = 0
    for byte in part.source.read(part.start + head.values.start, part.start + head.values.stop):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value & _WORD)
            value = shift = 0
    if shift or len(numbers) != head.count or max(numbers) >> 32:  # long ones are told if wrong
        return None
    lanes = np.array(numbers, np.uint64).astype(elements.varint_dtype(dtype))
    return Tensor.of(lanes.view(dtype.numpy).reshape(head.shape), part.source.where)


def _encode(name: str, value: Value) -> bytes:
    try:
        tensor = _tensor_of(value)
        plain = tensor.dtype is dtypes.UINT8
        field = BYTE_DATA if plain else choose_field(tensor.dtype, _OPTIONS, "")
        plan = Plan(tensor, BYTE if plain else elements.CODES[tensor.dtype], field, _OPTIONS)
        size, chunks = plan.values(0, tensor.size)
    except TensorKeepError as error:
        if error.where:
            raise
        raise type(error)(error.problem, where=f"the field {name!r}", cure=error.cure) from None
    labelled = size > 0 and field != STRING_DATA  # strings have a label each
    label = bytes((field << 3 | 2,)) + varint(size) if labelled else b""
    values = (label, *chunks)
    raw = name.encode("utf-8", "surrogateescape")
    called = (prefixed(NAME << 3 | 2, raw),) if raw else ()
    dims = b"".join(b"\x08" + varint(axis) for axis in tensor.shape)
    first = dims + b"\x10" + varint(plan.code)
    return b"".join((first, *called, *values) if field > NAME else (first, *values, *called))


def _tensor_of(value: Value) -> Tensor:
    """Make a tensor of a value; bytes count as text, whatever they hold."""
    if isinstance(value, Tensor):
        return value
    array = np.array(value, object) if isinstance(value, str | bytes) else np.asarray(value)
    if array.dtype == object:
        texts = np.empty(array.shape, object)
        for place, item in np.ndenumerate(array):
            raw = isinstance(item, bytes)
            texts[place] = item.decode("utf-8", "surrogateescape") if raw else item
        array = texts
    return Tensor.of(array, "")
