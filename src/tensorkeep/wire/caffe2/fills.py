"""Fills: the operators of an init net that write one tensor each, and arrays as such operators.

A fill has no input and one output. `GivenTensorFill` and its kin hold the values in an argument,
`ConstantFill`, `DiagonalFill` and `RangeFill` the rule to make them; the others draw at random.

Arguments, types and errors as of Caffe2 in PyTorch 1.10.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType, count_of
from tensorkeep.errors import UnsafeError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.message.schema import encode_varint
from tensorkeep.message.varints import encode_varints, varints_size
from tensorkeep.source import MemorySource, Source, Window
from tensorkeep.store import Chunk
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.arguments import (
    FLOAT_TAG,
    FLOATS,
    INT_TAG,
    INTS,
    STRINGS,
    TAGGED_FLOAT,
    Argument,
    Operator,
    Range,
    read_floats,
    read_operator,
)
from tensorkeep.wire.caffe2.elements import DTYPE_OF
from tensorkeep.wire.caffe2.messages import round_float32
from tensorkeep.wire.caffe2.values import INT8_TENSOR, TENSOR, Blob, Int8Tensor

GIVEN: dict[str, DType] = {
    "GivenTensorFill": dtypes.FLOAT32,
    "GivenTensorDoubleFill": dtypes.FLOAT64,
    "GivenTensorIntFill": dtypes.INT32,
    "GivenTensorInt64Fill": dtypes.INT64,
    "GivenTensorInt16Fill": dtypes.INT16,
    "GivenTensorBoolFill": dtypes.BOOL,
    "GivenTensorStringFill": dtypes.STRING,
    "GivenTensorByteStringToUInt8Fill": dtypes.UINT8,
    "Int8GivenTensorFill": dtypes.UINT8,
    "Int8GivenIntTensorFill": dtypes.INT32,
}
RULED = frozenset(("ConstantFill", "Float16ConstantFill", "DiagonalFill", "RangeFill"))
RANDOM = frozenset(
    (
        "Float16UniformFill",
        "GaussianFill",
        "MSRAFill",
        "UniformFill",
        "UniformIntFill",
        "UniqueUniformFill",
        "XavierFill",
    )
)
# What keeps an element type exactly: not doubles, since the values of their fill are floats.
FILL_OF: dict[DType, str] = {
    kind: name
    for name, kind in GIVEN.items()
    if kind is not dtypes.FLOAT64 and not name.startswith("Int8")
}
MAX_RULED = 1 << 30  # bytes that a rule may make, since the file does not hold them
_TEXT = 64  # bytes that a string of it takes beside its letters, once it is an object

_GIVEN_CODES = (1, 2, 4, 5, 9, 10, 13)  # of DataType, that GivenTensorFill takes as its dtype
_BYTE_CODE = 3
_INT64_CODE = 10
_MAX_AXES = 64
_BLOCK = 1 << 20  # elements that are encoded at a time


def is_fill(operator: Operator) -> bool:
    """Say whether an operator writes one tensor out of its arguments alone."""
    known = operator.type in GIVEN or operator.type in RULED
    return known and not operator.inputs and len(operator.outputs) == 1


def read_fill(operator: Operator | Message) -> Blob:
    """Give what a fill writes; numbers stay where they are until they are read.

    Raises:
        CorruptError: its arguments contradict each other.
        UnsupportedError: it is no fill, draws at random, or needs an input.
        UnsafeError: it makes far more than the file holds.

    >>> from tensorkeep.wire.caffe2.schema import ARGUMENT, OPERATOR
    >>> shape = Message(ARGUMENT, name="shape", ints=[2, 2])
    >>> fill = Message(OPERATOR, type="ConstantFill", output=["w"], arg=[shape])
    >>> read_fill(fill).value.numpy().tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    if isinstance(operator, Message):
        data = operator.encode()
        operator = read_operator(MemorySource(data), 0, len(data), "the net")
    if not is_fill(operator):
        raise UnsupportedError(
            f"{operator.type} gives no tensor of its arguments alone", where=operator.where
        )
    if operator.type in RULED:
        return Blob(TENSOR, _ruled(operator), operator.device)
    tensor = _given(operator)
    if not operator.type.startswith("Int8"):
        return Blob(TENSOR, tensor, operator.device)
    scale, zero_point = operator.float("Y_scale", 1.0), operator.integer("Y_zero_point", 0)
    return Blob(INT8_TENSOR, Int8Tensor(tensor, scale, zero_point), operator.device)


class _Elements(Source):
    """Elements that are made when they are read."""

    __slots__ = ("_make", "_width")

    def __init__(
        self, count: int, width: int, where: str, make: Callable[[int, int], npt.NDArray[Any]]
    ) -> None:
        self._make = make
        self._width = width
        super().__init__(count * width, where)

    def _read(self, start: int, stop: int) -> memoryview:
        first, last = start // self._width, -(-stop // self._width)
        skip = start - first * self._width
        data = self._make(first, last).view(np.uint8).data
        return data[skip : skip + stop - start].toreadonly()


class _Repeated(Source):
    """The canonical bytes of one string, many times; made when they are read."""

    __slots__ = ("_count", "_value")

    def __init__(self, count: int, value: bytes, where: str) -> None:
        self._count = count
        self._value = value
        super().__init__(dtypes.STRING.nbytes(count) + count * len(value), where)

    def _read(self, start: int, stop: int) -> memoryview:
        head, length = dtypes.STRING.nbytes(self._count), len(self._value)
        parts = []
        if start < head:
            first, last = start // 8, -(-min(stop, head) // 8)
            offsets = np.arange(first, last, dtype="<u8") * np.uint64(length)
            parts.append(offsets.tobytes()[start - 8 * first : min(stop, head) - 8 * first])
        if stop > head and length:
            first, last = max(start, head) - head, stop - head
            skip = first % length
            whole = self._value * -(-(skip + last - first) // length)
            parts.append(whole[skip : skip + last - first])
        return memoryview(b"".join(parts))


def _shape(operator: Operator) -> tuple[int, ...]:
    argument = operator.arguments.get("shape")
    if argument is None:
        return ()
    held = sum(part.size for part in argument.parts) + (argument.run.size if argument.run else 0)
    axes = argument.integers().tolist() if held <= 11 * _MAX_AXES else []
    if held > 11 * _MAX_AXES or len(axes) > _MAX_AXES:
        raise operator.problem(f"has a shape of more than {_MAX_AXES} axes")
    if any(axis < 0 for axis in axes):
        raise operator.problem(f"cannot have the shape {tuple(axes)}")
    return tuple(axes)


def _given(operator: Operator) -> Tensor:
    kind, shape = GIVEN[operator.type], _shape(operator)
    if operator.type == "GivenTensorFill" and "dtype" in operator.arguments:
        code = operator.integer("dtype", 1)
        if code not in _GIVEN_CODES:
            raise operator.problem(f"cannot have the dtype {code}")
        kind = DTYPE_OF[code]
    values = operator.arguments.get("values", Argument(operator.where))
    if operator.type == "Int8GivenTensorFill":
        return _given_bytes(operator, values.s, shape)
    wanted = {"float": FLOATS, "string": STRINGS}.get(kind.kind, INTS)
    if kind is dtypes.UINT8:
        wanted = STRINGS
    if values.repeated not in (0, wanted):
        raise operator.problem(f"has values that are not {kind}")
    if kind is dtypes.UINT8:
        return _given_bytes(operator, next(iter(values.parts), None), shape)  # the others are idle
    if kind is dtypes.STRING:
        _check_count(operator, shape, len(values.parts))
        data = dtypes.pack_strings([bytes(part.read()) for part in values.parts])
        return Tensor(kind, shape, MemorySource(data, operator.where), 0, len(data))
    if kind.kind == "float":
        return _given_floats(operator, values, kind, shape)
    return _given_integers(operator, values, kind, shape)


def _check_count(operator: Operator, shape: tuple[int, ...], count: int) -> None:
    if count != count_of(shape):
        raise operator.problem(f"has the shape {shape}, but {count:,} values")


def _given_bytes(operator: Operator, held: Range | None, shape: tuple[int, ...]) -> Tensor:
    held = held or Range(MemorySource(b"", operator.where), 0, 0)
    _check_count(operator, shape, held.size)  # which Caffe2 does not do: it cuts a longer string
    return Tensor(dtypes.UINT8, shape, Window(held.source, held.start, held.size, operator.where))


def _given_floats(
    operator: Operator, values: Argument, kind: DType, shape: tuple[int, ...]
) -> Tensor:
    run = values.run
    if run is None:
        packed = b"".join(part.read() for part in values.parts)
        if len(packed) % 4:
            raise operator.problem("has values that are cut short")
        floats = np.frombuffer(packed, "<f4")
        count = floats.size
    else:
        count, rest = divmod(run.size, TAGGED_FLOAT.itemsize)
        if rest:
            raise operator.problem("has other fields among its values")
    _check_count(operator, shape, count)

    def make(first: int, last: int) -> npt.NDArray[Any]:
        found = floats[first:last] if run is None else read_floats(run, first, last, values.where)
        return found.astype(kind.numpy)

    return _made(operator, kind, shape, make)


def _given_integers(
    operator: Operator, values: Argument, kind: DType, shape: tuple[int, ...]
) -> Tensor:
    held = sum(part.size for part in values.parts) + (values.run.size if values.run else 0)
    if count_of(shape) > held:  # each takes a byte at least
        _check_count(operator, shape, held)

    @cache
    def decode() -> npt.NDArray[Any]:
        words = values.integers()
        _check_count(operator, shape, words.size)
        found: npt.NDArray[Any] = words.astype(kind.numpy)
        if kind is not dtypes.BOOL and np.any(found != words):
            raise operator.problem(f"has values that do not fit {kind}")
        return found

    return _made(operator, kind, shape, lambda first, last: decode()[first:last])


def _made(
    operator: Operator,
    kind: DType,
    shape: tuple[int, ...],
    make: Callable[[int, int], npt.NDArray[Any]],
) -> Tensor:
    where = f"{operator.where}: {operator.outputs[0]}"
    return Tensor(kind, shape, _Elements(count_of(shape), kind.numpy.itemsize, where, make))


def _ruled(operator: Operator) -> Tensor:
    shape = _shape(operator)
    kind, value = _rule(operator)
    count = count_of(shape)
    size = kind.nbytes(count)
    if kind is dtypes.STRING:
        size += count * (len(value) + _TEXT)
    if size > MAX_RULED:
        raise UnsafeError(
            f"{operator.type} makes {size:,} bytes of {operator.outputs[0]!r}, which the file does "
            f"not hold; the limit is {MAX_RULED:,}",
            where=operator.where,
        )
    if kind is dtypes.STRING:
        texts = _Repeated(count, value, f"{operator.where}: {operator.outputs[0]}")
        return Tensor(kind, shape, texts, 0, texts.size)
    step = _step(operator, shape) if operator.type == "DiagonalFill" else 1

    def make(first: int, last: int) -> npt.NDArray[Any]:
        if operator.type == "RangeFill":
            return np.arange(first, last).astype(kind.numpy)
        values = np.zeros(last - first, kind.numpy)
        values[-first % step :: step] = value
        return values

    return _made(operator, kind, shape, make)


def _rule(operator: Operator) -> tuple[DType, Any]:
    """Choose the element type and the value as the operators do."""
    if operator.type == "RangeFill":
        return dtypes.FLOAT32, None
    if operator.type == "Float16ConstantFill":
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            return dtypes.FLOAT16, np.float32(operator.float("value", 0.0)).astype(np.float16)
    value = operator.arguments.get("value")
    code = operator.integer("dtype", 1)
    if "dtype" not in operator.arguments and value is not None and value.f is None:
        if value.i is None:
            raise operator.problem("has a value that is no number, and no dtype")
        code = _INT64_CODE
    kind = DTYPE_OF.get(code)
    if kind is None or kind is dtypes.FLOAT16 or code == _BYTE_CODE:
        raise operator.problem(f"cannot have the dtype {code}")
    if kind is dtypes.STRING:
        if operator.type == "DiagonalFill" or (value is not None and value.s is None):
            raise operator.problem("has a value that is not text, or cannot be")
        return kind, b"" if value is None or value.s is None else bytes(value.s.read())
    if kind.kind == "float":
        return kind, operator.float("value", 0.0)
    number = operator.integer("value", 0)
    if kind is dtypes.BOOL:
        return kind, number != 0
    limits = np.iinfo(kind.numpy)
    if not limits.min <= number <= limits.max:
        raise operator.problem(f"has the value {number}, which does not fit {kind}")
    return kind, number


def _step(operator: Operator, shape: tuple[int, ...]) -> int:
    """Give how far apart the elements of a diagonal lie, in the flattened tensor."""
    if len(shape) < 2:
        raise operator.problem(f"needs two axes at least, not the shape {shape}")
    if len(shape) == 2:
        return shape[1] + 1
    if len(set(shape)) > 1:
        raise operator.problem(f"needs axes of one length, not the shape {shape}")
    side = shape[0]
    step = 1
    for _ in shape[1:]:
        step = step * side + 1
    return step


def encode_fill(name: str, blob: Blob) -> tuple[int, Iterator[Chunk]]:
    """Write the fill that makes a tensor, as Caffe2's mobile exporter does.

    Floats of other widths are cast to float32, the only ones that a fill holds.

    Args:
        name: of the tensor.
        blob: a tensor or an Int8Tensor.

    Returns:
        The bytes of the OperatorDef: how many there are, and themselves.

    Raises:
        UnsupportedError: no fill holds its type.
    """
    quantized = blob.value if isinstance(blob.value, Int8Tensor) else None
    tensor = quantized.data if quantized is not None else blob.value
    type_name = _fill_type(name, tensor, quantized is not None)
    size, values = _encode_values(tensor, 4 if type_name == "Int8GivenTensorFill" else STRINGS)
    head = b"".join(
        [
            _delimited(2, name.encode("utf-8", "surrogateescape")),
            _delimited(3, b""),
            _delimited(4, type_name.encode()),
            _argument("shape", _tagged_integers(np.array(tensor.shape, np.int64)).tobytes()),
        ]
    )
    named = _delimited(1, b"values")
    head += _head(5, len(named) + size) + named
    tail = b""
    if quantized is not None:
        tail += _argument("Y_scale", b"\x15" + struct.pack("<f", round_float32(quantized.scale)))
        tail += _argument("Y_zero_point", b"\x18" + encode_varint(quantized.zero_point))

    def chunks() -> Iterator[Chunk]:
        yield head
        yield from values
        if tail:
            yield tail

    return len(head) + size + len(tail), chunks()


def _fill_type(name: str, tensor: Tensor, quantized: bool) -> str:
    if quantized and tensor.dtype in (dtypes.UINT8, dtypes.INT32):
        return "Int8GivenTensorFill" if tensor.dtype is dtypes.UINT8 else "Int8GivenIntTensorFill"
    if tensor.dtype.kind == "float" and tensor.dtype is not dtypes.FLOAT64:
        return "GivenTensorFill"
    if tensor.dtype is dtypes.FLOAT64:
        return "GivenTensorDoubleFill"
    if quantized or tensor.dtype not in FILL_OF:
        raise UnsupportedError(f"no fill holds {name!r}, which is {tensor.dtype}")
    return FILL_OF[tensor.dtype]


def _encode_values(tensor: Tensor, bytes_field: int) -> tuple[int, Iterator[Chunk]]:
    """Give the repeated field of the argument `values`: its size, and its bytes."""
    kind = tensor.dtype
    if kind is dtypes.UINT8:
        head = _head(bytes_field, tensor.nbytes)
        return len(head) + tensor.nbytes, _chain(head, tensor.pieces())
    if kind is dtypes.STRING:
        texts = [str(text).encode("utf-8", "surrogateescape") for text in tensor.numpy().flat]
        fields = b"".join(_delimited(STRINGS, text) for text in texts)
        return len(fields), iter([fields])
    if kind.kind == "float":
        return tensor.size * TAGGED_FLOAT.itemsize, _tagged_floats(tensor)
    flat = tensor.numpy().reshape(-1)
    blocks = range(0, flat.size, _BLOCK)
    return tensor.size + varints_size(flat), (
        _tagged_integers(flat[start : start + _BLOCK]).data for start in blocks
    )


def _chain(head: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield head
    yield from rest


def _tagged_floats(tensor: Tensor) -> Iterator[Chunk]:
    width = tensor.dtype.numpy.itemsize
    for piece in tensor.pieces(_BLOCK * width):
        values = np.frombuffer(piece, tensor.dtype.numpy)
        tagged = np.empty(values.size, TAGGED_FLOAT)
        tagged["tag"] = FLOAT_TAG
        with np.errstate(all="ignore"):  # what is too large becomes infinite
            tagged["value"] = values.astype(np.float32)
        yield tagged.view(np.uint8).data


def _tagged_integers(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    words = np.full(2 * values.size, INT_TAG, np.int64)
    words[1::2] = values
    return encode_varints(words)


def _argument(name: str, value: bytes) -> bytes:
    return _delimited(5, _delimited(1, name.encode()) + value)


def _delimited(number: int, data: bytes) -> bytes:
    return _head(number, len(data)) + data


def _head(number: int, size: int) -> bytes:
    return bytes([number << 3 | 2]) + encode_varint(size)
