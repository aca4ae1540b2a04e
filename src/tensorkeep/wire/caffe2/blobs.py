"""Parts of a blob to its value; what can stay in the file stays there.

Facts: the deserializers that Caffe2 (PyTorch 1.10) registers, read and run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tensorkeep import dtypes
from tensorkeep.errors import CorruptError
from tensorkeep.message import Message
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import elements, schema
from tensorkeep.wire.caffe2.assemble import Layout, join_parts
from tensorkeep.wire.caffe2.decode import Part, parse_part, parse_tensor
from tensorkeep.wire.caffe2.fields import BYTES, VARINT, Record, signed
from tensorkeep.wire.caffe2.heads import MOST_AXES, Head, Stretches
from tensorkeep.wire.caffe2.messages import round_float32
from tensorkeep.wire.caffe2.values import (
    COUNTER,
    DB_READER,
    INDEX,
    INT8_TENSOR,
    MAPS,
    QTENSOR,
    READER_DEFAULTS,
    READER_EXTRAS,
    STRING,
    TENSOR,
    TREE_CURSOR,
    Blob,
    DBReaderState,
    Index,
    Int8Tensor,
    Map,
    NestedBlobs,
    QTensor,
    TreeCursor,
)

_DEEPEST = 32  # levels of blobs inside blobs
_INDEX_CONTENT = re.compile(rb"\s*(-?\d{1,19})\s+([01])\s*")


def read_blob(parts: Sequence[Part], where: str, *, zeros: bool = False) -> Blob:
    """Read the blob that parts make up: a tensor of all of them, another of the last one.

    Args:
        parts: the records, in the order in which they were met.
        where: how messages name the blob.
        zeros: read as zero what no part holds, instead of refusing it.

    Raises:
        CorruptError: the bytes are not what the kind needs.
    """
    return _read(parts, where, zeros, _DEEPEST)


def _read(parts: Sequence[Part], where: str, zeros: bool, depth: int) -> Blob:
    last = parts[-1]
    kind, head = last.head.kind, last.head
    if kind == TENSOR:
        if head.dtype is None:
            return Blob(kind, _read_nested(parts, where, zeros, depth), head.device)
        return Blob(
            kind, join_parts(parts, head.dtype, _shape(head), where, zeros=zeros), head.device
        )
    if kind == STRING:
        return Blob(kind, last.content)
    if kind in MAPS:
        return Blob(kind, _read_map(last, MAPS[kind], where))
    read = _READERS.get(kind)
    return Blob(kind, None if read is None else read(last, where))


def _shape(head: Head) -> tuple[int, ...]:
    return (0,) if head.code == elements.UNDEFINED else head.shape


def _read_nested(parts: Sequence[Part], where: str, zeros: bool, depth: int) -> NestedBlobs:
    if depth == 0:
        raise CorruptError(f"nests blobs deeper than {_DEEPEST} levels", where=where)
    shape = parts[-1].head.shape
    layout = Layout(parts, dtypes.count_of(shape), where, zeros=False)
    blobs = []
    for section, _, _ in layout.between(0, layout.count):
        for start, stop in section.spans():
            part = parse_part("", section.part.source, where, start=start, stop=stop)
            part.check(where)
            if part.end - part.begin != part.count:
                raise CorruptError("a blob within it is a chunk only", where=where)
            blobs.append(_read((part,), where, zeros, depth - 1))
    return NestedBlobs(shape, blobs)


def _read_counter(part: Part, where: str) -> int:
    if part.head.code != elements.CODES[dtypes.INT64] or part.dims != (1,):
        raise CorruptError("is a counter, but holds no single int64", where=where)
    return int(_tensor(part, where).numpy()[0])


def _read_index(part: Part, where: str) -> Index:
    content = _INDEX_CONTENT.fullmatch(part.content)
    if content is None or not part.has_tensor:
        raise CorruptError(
            f"is an index, but says {part.content[:40]!r} of its size and state", where=where
        )
    return Index(_tensor(part, where), int(content[1]), content[2] == b"1")


def _read_cursor(part: Part, where: str) -> TreeCursor:
    names = part.content.decode("utf-8", "surrogateescape").split(" ")
    offsets = _tensor(part, where) if part.has_tensor else None
    return TreeCursor(offsets, [name for name in names if name])


def _read_reader(part: Part, where: str) -> DBReaderState:
    content = MemorySource(part.content, where)
    message = Message.parse(schema.DB_READER, content, where=where)
    extra = dict(READER_DEFAULTS)
    names = {number: name for name, number in READER_EXTRAS.items()}
    for number, wire, _, _, value in Record(content, 0, content.size, where).walk(0, content.size):
        if number in names and wire == VARINT:
            extra[names[number]] = signed(value)
    if not 0 <= extra["shard_id"] < extra["num_shards"] or extra["record"] < 0:
        raise CorruptError(
            f"is a reader of shard {extra['shard_id']} of {extra['num_shards']}, at record "
            f"{extra['record']}",
            where=where,
        )
    return DBReaderState(message["name"], message.source, message.db_type, message.key, **extra)


def _read_map(part: Part, kinds: tuple[str, str], where: str) -> Map:
    start, stop = part.head.content or (0, 0)
    start, stop = part.start + start, part.start + stop
    found = []
    for number, wire, begin, end, _ in Record(part.source, start, stop, where).walk(start, stop):
        if number == 1 and wire == BYTES:
            inner = parse_tensor("", part.source, where, begin, end)
            inner.check(where)
            found.append(_tensor(inner, where))
    if len(found) != 2 or tuple(str(tensor.dtype) for tensor in found) != kinds:
        raise CorruptError(f"is a map, but holds {found} for {kinds}", where=where)
    if found[0].size != found[1].size:
        raise CorruptError(f"has {found[0].size} keys for {found[1].size} values", where=where)
    return Map(*found)


def _tensor(part: Part, where: str) -> Tensor:
    """Read the tensor that a blob of another kind carries."""
    if part.dtype is None:
        raise CorruptError("carries a tensor of no type", where=where)
    if part.end - part.begin != part.count:
        raise CorruptError("carries a chunk of a tensor", where=where)
    return join_parts((part,), part.dtype, _shape(part.head), where)


def _read_int8(part: Part, where: str) -> Int8Tensor:
    message = _qtensor(part, where)
    dtype = elements.DTYPE_OF.get(message.data_type)
    if dtype not in (dtypes.UINT8, dtypes.INT32):
        raise CorruptError(f"is an {INT8_TENSOR} of data_type {message.data_type}", where=where)
    shape = _qtensor_shape(message, where)
    count = dtypes.count_of(shape)
    values = _integers(message, elements.CODES[dtype], shape, count, where)
    return Int8Tensor(values, round_float32(message.scale), _int32(message.bias))


def _read_qtensor(part: Part, where: str) -> QTensor:
    message = _qtensor(part, where)
    shape = _qtensor_shape(message, where)
    count = dtypes.count_of(shape) if shape else 0  # a scalar has no room, though it may be saved
    nbytes = (message.precision + message.is_signed) * -(-count // 8)
    data = _integers(message, elements.CODES[dtypes.UINT8], (nbytes,), nbytes, where)
    scale, bias = message.scale, message.bias
    return QTensor(shape, message.precision, scale, bias, message.is_signed, data)


def _qtensor_shape(message: Message, where: str) -> tuple[int, ...]:
    shape = tuple(message.dims.tolist())
    if len(shape) > MOST_AXES or any(axis < 0 for axis in shape):
        raise CorruptError(f"has {len(shape)} axes: {str(shape)[:100]}", where=where)
    return shape


def _integers(
    message: Message, code: int, shape: tuple[int, ...], count: int, where: str
) -> Tensor:
    """Give the data of a QTensorProto as a tensor, left in the file."""
    dtype = elements.DTYPE_OF[code]
    window = message.window("data")
    if window is None or window[0] is None:
        values = message.data
        if values.size != count:
            raise CorruptError(f"has {values.size} values for {count}", where=where)
        return Tensor.of(values.astype(dtype.numpy).reshape(shape), where)
    source, start, stop = window
    head = Head()
    head.kind, head.code, head.shape, head.has_tensor = TENSOR, code, shape, True
    values = Stretches()
    values.add(0, stop - start)
    head.finish({elements.INT32_DATA: values})
    part = Part("", source, start, stop - start, head)
    part.check(where)
    return join_parts((part,), dtype, shape, where)


def _int32(value: float) -> int:
    """Cut a double to an int as C does; what does not fit becomes the lowest one, as on x86."""
    return int(value) if -(2**31) - 1 < value < 2**31 else -(2**31)


def _qtensor(part: Part, where: str) -> Message:
    stop = part.start + part.size
    blob = Message.parse(schema.BLOB, part.source, part.start, stop, where)
    if "qtensor" not in blob:
        raise CorruptError("carries no QTensorProto", where=where)
    message: Message = blob.qtensor
    message.check_required()
    return message


_READERS: dict[str, Callable[[Part, str], object]] = {
    COUNTER: _read_counter,
    INDEX: _read_index,
    TREE_CURSOR: _read_cursor,
    DB_READER: _read_reader,
    INT8_TENSOR: _read_int8,
    QTENSOR: _read_qtensor,
}
