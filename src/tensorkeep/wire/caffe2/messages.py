"""Blobs that are no tensors, as BlobProto messages.

Facts: the serializers that Caffe2 (PyTorch 1.10) registers beside those of tensors, read and run.
"""

from __future__ import annotations

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.message.schema import encode_varint
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import elements, schema
from tensorkeep.wire.caffe2.values import (
    COUNTER,
    DB_READER,
    INDEX,
    INT8_TENSOR,
    MAPS,
    MUTEX,
    QTENSOR,
    READER_DEFAULTS,
    READER_EXTRAS,
    STRING,
    TENSOR_VECTOR,
    TREE_CURSOR,
    Blob,
    DBReaderState,
    Index,
    Int8Tensor,
    Map,
    QTensor,
    TreeCursor,
)

_VALUES: dict[str, type | tuple[type, ...]] = {
    STRING: bytes,
    INT8_TENSOR: Int8Tensor,
    QTENSOR: QTensor,
    COUNTER: int,
    MUTEX: type(None),
    TENSOR_VECTOR: type(None),
    INDEX: Index,
    TREE_CURSOR: TreeCursor,
    DB_READER: DBReaderState,
    **dict.fromkeys(MAPS, Map),
}


def blob_message(name: str, blob: Blob) -> Message:
    """Give the BlobProto of a blob that is no tensor.

    Raises:
        UnsupportedError: Caffe2 has no serializer for its kind, or the value is not of that kind.
    """
    expected = _VALUES.get(blob.kind)
    if expected is None:
        cure = "Leave it out: Caffe2 cannot save it either."
        raise UnsupportedError(f"no serializer writes a {blob.kind!r}", where=name, cure=cure)
    if not isinstance(blob.value, expected):
        problem = f"a {blob.kind!r} cannot hold {type(blob.value).__name__}"
        if blob.kind == TENSOR_VECTOR:
            cure = "Save what UnPackRecords makes of them."
            raise UnsupportedError("packed records cannot be saved", where=name, cure=cure)
        raise UnsupportedError(problem, where=name)
    message = Message(schema.BLOB, name=name, type=blob.kind)
    try:
        _fill(message, name, blob)
    except (ArgumentError, UnsupportedError) as error:
        raise UnsupportedError(f"cannot be a {blob.kind!r}: {error.problem}", where=name) from None
    return message


def round_float32(value: float) -> float:
    """Round as a float does that Caffe2 keeps; too large ones become infinite."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _fill(message: Message, name: str, blob: Blob) -> None:
    value = blob.value
    if isinstance(value, bytes):
        message.content = value
    elif value is None:
        message.content = b""
    elif isinstance(value, Int8Tensor):
        message.qtensor = _int8_message(name, value)
    elif isinstance(value, QTensor):
        message.qtensor = _qtensor_message(name, value)
    elif isinstance(value, int):
        message.tensor = Message(
            schema.TENSOR,
            dims=[1],
            data_type=elements.CODES[dtypes.INT64],
            name=name,
            int64_data=[value],
        )
    elif isinstance(value, Index):
        message.tensor = _tensor_message(value.keys)
        message.content = f"{value.max_elements} {int(value.frozen)}".encode()
    elif isinstance(value, TreeCursor):
        if value.offsets is not None:
            message.tensor = _tensor_message(value.offsets)
        if any(len(field.split()) != 1 for field in value.fields):
            raise UnsupportedError("a field's name with a space in it would come back as two")
        fields = "".join(f"{field} " for field in value.fields)
        message.content = fields.encode("utf-8", "surrogateescape")
    elif isinstance(value, Map):
        message.content = _map_message(value, MAPS[blob.kind]).encode()
    elif isinstance(value, DBReaderState):
        message.content = _reader_content(value)


def _int8_message(name: str, value: Int8Tensor) -> Message:
    kind = value.data.dtype
    if kind not in (dtypes.UINT8, dtypes.INT32):
        raise UnsupportedError(f"it holds uint8 or int32, not {kind}")
    return Message(
        schema.QTENSOR,
        dims=value.data.shape,
        precision=8,
        scale=round_float32(value.scale),
        bias=float(value.zero_point),
        is_signed=False,
        data=value.data.numpy().reshape(-1),
        name=name,
        data_type=elements.CODES[kind],
    )


def _qtensor_message(name: str, value: QTensor) -> Message:
    return Message(
        schema.QTENSOR,
        dims=value.shape,
        precision=value.precision,
        scale=value.scale,
        bias=value.bias,
        is_signed=value.is_signed,
        data=value.data.numpy().reshape(-1),
        name=name,
    )


def _map_message(value: Map, kinds: tuple[str, str]) -> Message:
    both = (value.keys, value.values)
    for tensor, kind in zip(both, kinds, strict=True):
        if tensor.dtype.name != kind or tensor.shape != value.keys.shape or tensor.ndim != 1:
            raise UnsupportedError(f"{tensor} is not a row of {kind}")
    return Message(schema.TENSORS, protos=[_tensor_message(tensor) for tensor in both])


def _reader_content(value: DBReaderState) -> bytes:
    """Give a DBReaderProto; what it has no field for goes behind, where Caffe2 skips it."""
    message = Message(schema.DB_READER)
    message.name, message.source, message.db_type = value.name, value.source, value.db_type
    if value.key:
        message.key = value.key
    extra = b"".join(
        encode_varint(number << 3) + encode_varint(found)
        for name, number in READER_EXTRAS.items()
        if (found := getattr(value, name)) != READER_DEFAULTS[name]
    )
    return message.encode() + extra


def _tensor_message(tensor: Tensor) -> Message:
    """Give a nameless TensorProto of int32, int64 or string values."""
    values = tensor.numpy().reshape(-1)
    message = Message(
        schema.TENSOR,
        dims=tensor.shape,
        data_type=elements.CODES[tensor.dtype],
        device_detail=Message(schema.DEVICE, device_type=0),
        segment=Message(schema.SEGMENT, begin=0, end=tensor.size),
    )
    if tensor.dtype is dtypes.STRING:
        message.string_data = [text.encode("utf-8", "surrogateescape") for text in values]
    elif tensor.dtype in (dtypes.INT32, dtypes.INT64):
        message[elements.FIELD_NAMES[elements.FIELDS[tensor.dtype]]] = values
    else:
        raise UnsupportedError(f"keys are int32, int64 or string, not {tensor.dtype}")
    return message
