"""Tensors to records: a head, the values, and a tail, with all but the values prepared.

What two tensors of one type, shape and length of name have in common is kept as a frame, since
files hold ten thousands of small ones.

Facts: caffe2.proto and Caffe2's tensor serializers (PyTorch 1.10), read and run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import UnsupportedError
from tensorkeep.message.schema import encode_varint
from tensorkeep.message.varints import ahead, encoded_blocks, varints_size
from tensorkeep.store import Chunk
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import elements
from tensorkeep.wire.caffe2.elements import (
    BYTE_DATA,
    DOUBLE_DATA,
    FLOAT,
    FLOAT_DATA,
    INT32_DATA,
    RAW_DATA,
    STRING_DATA,
    VARINT_FIELDS,
)
from tensorkeep.wire.caffe2.options import NEVER, SaveOptions
from tensorkeep.wire.caffe2.values import Device

LONGEST_RECORD = 2**31 - 1  # protobuf and minidb count with 32 bits

Record = tuple[str, Iterable[Chunk], int]

NAME: Final = 7
TENSOR_LEAD: Final = b"\x12\x06Tensor\x1a"

_PLAIN = frozenset((FLOAT_DATA, DOUBLE_DATA, BYTE_DATA))
_BLOCK = 1 << 20  # elements that are encoded at a time
_PIECE = 16 << 20  # bytes that are read at a time
_MOST_FRAMES = 4096


class Frame(NamedTuple):
    """The bytes around the name, again the name, and the values of a record.

    The second name stands before or behind the values, by the number of the field that holds them.
    """

    start: bytes
    middle: bytes
    gap: bytes
    end: bytes
    size: int
    late: bool

    def around(self, name: bytes) -> tuple[bytes, bytes]:
        """Give what stands before and what stands behind the values."""
        start, middle, gap, end, _, late = self
        if late:
            return b"".join((start, name, middle, name, gap)), end
        return start + name + middle, gap + name + end


_FRAMES: dict[tuple[object, ...], Frame] = {}


def encode_tensor(
    name: str, tensor: Tensor, device: Device, options: SaveOptions, code: int | None = None
) -> Iterable[Record]:
    """Give the records of a tensor; values that are stored as they are stay views.

    Args:
        name: the blob's name.
        tensor: the values.
        device: where Caffe2 is to put them.
        options: how to write them.
        code: the DataType to name, where it is not that of the values.

    Raises:
        UnsupportedError: Caffe2 has no such element type, or a record would pass 2 GiB.
    """
    raw = name.encode("utf-8", "surrogateescape")
    field = choose_field(tensor.dtype, options, name)
    kin = (tensor.dtype, tensor.shape, len(raw), field, options.chunk_size, device.type, device.id)
    frame = _FRAMES.get(kin)
    if frame is not None:
        head, tail = frame.around(raw)
        return ((name + "#%0", (head, tensor.read(), tail), frame.size),)
    count, chunk = tensor.size, options.chunk_size
    plan = Plan(tensor, elements.CODES[tensor.dtype] if code is None else code, field, options)
    if chunk != NEVER and count > chunk:
        return _encode_chunks(name, raw, plan, device)
    size, values = plan.values(0, count)
    frame = plan.frame(len(raw), device, 0, count, size)
    if field in _PLAIN and size <= _PIECE:
        if len(_FRAMES) >= _MOST_FRAMES:
            _FRAMES.clear()
        _FRAMES[kin] = frame
    return (_record(name + "#%0", raw, frame, size, values),)


def choose_field(dtype: DType, options: SaveOptions, name: str) -> int:
    """Choose the TensorProto field that holds the values of a type.

    Raises:
        UnsupportedError: Caffe2 has no such element type.
    """
    field = elements.FIELDS.get(dtype)
    if field == FLOAT_DATA:
        return RAW_DATA if options.bfloat16 else FLOAT_DATA
    if field == INT32_DATA and dtype is not dtypes.INT32:
        as_bytes = options.byte_holder or (options.fp16_as_bytes and dtype is dtypes.FLOAT16)
        return BYTE_DATA if as_bytes else INT32_DATA
    if field is None:
        raise UnsupportedError(
            f"Caffe2 has no element type {dtype}",
            where=name,
            cure=f"Convert it to one of {', '.join(map(str, elements.CODES))}.",
        )
    return field


@dataclass(frozen=True, slots=True)
class Plan:
    """A tensor, and how its values are written."""

    tensor: Tensor
    code: int
    field: int
    options: SaveOptions

    def frame(self, name_size: int, device: Device, begin: int, end: int, size: int) -> Frame:
        """Make the frame of the record of elements `begin` to `end`, whose values take `size`."""
        start = b"\n" + varint(name_size)
        again = b":" + varint(name_size)
        field, late = self.field, self.field > NAME
        dims = b"".join(b"\x08" + varint(axis) for axis in self.tensor.shape)
        first = dims + b"\x10" + varint(self.code)
        omitted = size == 0 and field not in (BYTE_DATA, RAW_DATA)
        unlabelled = omitted or field == STRING_DATA  # strings have a label each
        label = b"" if unlabelled else bytes((field << 3 | 2,)) + varint(size)
        where = prefixed(0x42, _device(device))
        segment = prefixed(0x5A, b"\x08" + varint(begin) + b"\x10" + varint(end))
        form = b"" if self.code != FLOAT else b"x\x01" if field == RAW_DATA else b"x\x00"
        if field == RAW_DATA:
            middle, gap, last = first + again, where + segment + label, form
        elif late:
            middle, gap, last = first + again, where + label, segment + form
        else:
            middle, gap, last = first + label, again, where + segment + form
        inside = len(middle) + len(gap) + len(last) + name_size + size
        lead = TENSOR_LEAD + varint(inside)
        total = len(start) + name_size + len(lead) + inside
        return Frame(start, lead + middle, gap, last, total, late)

    def values(self, begin: int, end: int, *, parallel: bool = True) -> tuple[int, Iterable[Chunk]]:
        """Give the length of elements `begin` to `end` as they are written, and their bytes."""
        tensor = self.tensor
        if self.field in _PLAIN:
            width = tensor.dtype.bits // 8
            first, last = tensor.offset + begin * width, tensor.offset + end * width
            if last - first <= _PIECE:
                return last - first, (tensor.source.read(first, last),)
            return last - first, Pieces(lambda: _read(tensor, first, last))
        if self.field == RAW_DATA:
            return 2 * (end - begin), self._blocks(begin, end)
        if end - begin <= _BLOCK:
            chunks = tuple(self._encode(begin, end, parallel))
            return sum(map(len, chunks)), chunks
        blocks = range(begin, end, _BLOCK)
        size = sum(self._size(at, min(at + _BLOCK, end)) for at in blocks)
        return size, self._blocks(begin, end)

    def _blocks(self, begin: int, end: int) -> Iterable[Chunk]:
        blocks = range(begin, end, _BLOCK)

        def encode() -> Iterator[Chunk]:
            for at in blocks:
                yield from self._encode(at, min(at + _BLOCK, end))

        return Pieces(encode)

    def _encode(self, begin: int, end: int, parallel: bool = True) -> Iterable[Chunk]:
        if self.field == STRING_DATA:
            return (_encode_strings(*self._strings(begin, end)),)
        values = self._elements(begin, end)
        if self.field == RAW_DATA:
            return (round_bfloat16(values, nan_safe=self.options.nan_safe).view(np.uint8).data,)
        return encoded_blocks(values, parallel=parallel)

    def _size(self, begin: int, end: int) -> int:
        if self.field == STRING_DATA:
            return _strings_size(self._strings(begin, end)[0])
        return varints_size(self._elements(begin, end))

    def _elements(self, begin: int, end: int) -> npt.NDArray[Any]:
        tensor = self.tensor
        kind = tensor.dtype.numpy if self.field == RAW_DATA else elements.varint_dtype(tensor.dtype)
        start, width = tensor.offset, kind.itemsize
        data = tensor.source.read(start + begin * width, start + end * width)
        return np.frombuffer(data, kind) if end > begin else np.zeros(0, kind)

    def _strings(self, begin: int, end: int) -> tuple[npt.NDArray[Any], memoryview]:
        tensor = self.tensor
        source, start = tensor.source, tensor.offset
        data = source.read(start + 8 * begin, start + 8 * (end + 1))
        offsets = np.frombuffer(data, "<u8").astype(np.int64)
        text = start + 8 * (tensor.size + 1)
        return offsets - offsets[0], source.read(text + int(offsets[0]), text + int(offsets[-1]))


class Pieces:
    """Chunks that are made while they are taken, so that only one is in memory."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[], Iterator[Chunk]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Chunk]:
        return self._make()


def round_bfloat16(
    values: npt.NDArray[np.float32], *, nan_safe: bool = False
) -> npt.NDArray[np.uint16]:
    """Round float32 to the upper 16 bits as Caffe2 does: ties away from zero, NaN not looked at.

    >>> round_bfloat16(np.array([1.0, np.finfo("float32").max], "float32")).tolist()
    [16256, 32640]
    """
    bits = values.view(np.uint32)
    out = ((bits + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)
    if nan_safe and (lost := np.isnan(values)).any():
        out[lost] = (bits[lost] >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
    return out


def _encode_chunks(name: str, raw: bytes, plan: Plan, device: Device) -> Iterator[Record]:
    count, chunk = plan.tensor.size, plan.options.chunk_size
    spans = [(begin, min(begin + chunk, count)) for begin in range(0, count, chunk)]
    # varints of whole chunks are encoded on threads while the ones before are written
    threads = plan.field in VARINT_FIELDS and chunk <= _BLOCK
    values_of = partial(_values, plan, not threads)
    together = max(1, _BLOCK // 2 // chunk) if threads else 0
    encoded = ahead(values_of, spans, together)
    for index, ((begin, end), (size, values)) in enumerate(zip(spans, encoded, strict=True)):
        frame = plan.frame(len(raw), device, begin, end, size)
        yield _record(f"{name}#%{index}", raw, frame, size, values)


def _values(plan: Plan, parallel: bool, span: tuple[int, int]) -> tuple[int, Iterable[Chunk]]:
    return plan.values(*span, parallel=parallel)


def _record(key: str, raw: bytes, frame: Frame, size: int, values: Iterable[Chunk]) -> Record:
    if frame.size > LONGEST_RECORD:
        raise UnsupportedError(
            f"needs a record of {frame.size} bytes; Caffe2 reads up to {LONGEST_RECORD}",
            where=key,
            cure="Give a chunk_size.",
        )
    head, tail = frame.around(raw)
    if isinstance(values, Pieces):
        return key, Pieces(lambda: chain((head,), values, (tail,))), frame.size
    return key, (head, *values, tail), frame.size


def _device(device: Device) -> bytes:
    which = b"\x10" + varint(device.id) if device.type else b""
    return b"\x08" + varint(device.type) + which


def _read(tensor: Tensor, start: int, stop: int) -> Iterator[memoryview]:
    for at in range(start, stop, _PIECE):
        yield tensor.source.read(at, min(at + _PIECE, stop))


def _encode_strings(offsets: npt.NDArray[Any], text: memoryview) -> bytes:
    parts: list[Chunk] = []
    start = 0
    for stop in offsets[1:].tolist():
        parts.append(b"2" + varint(stop - start))
        parts.append(text[start:stop])
        start = stop
    return b"".join(parts)


def _strings_size(offsets: npt.NDArray[Any]) -> int:
    lengths = np.diff(offsets)
    return int(offsets[-1]) + lengths.size + varints_size(lengths)


varint = lru_cache(4096)(encode_varint)


def prefixed(tag: int, data: bytes) -> bytes:
    r"""Put the tag byte and the length before the bytes of a field.

    >>> prefixed(0x0A, b"name")
    b'\n\x04name'
    """
    return bytes((tag,)) + varint(len(data)) + data
