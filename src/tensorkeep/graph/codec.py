"""TensorProto <-> Tensor: raw bytes, lists of values, text, and bytes in another file.

From onnx.proto and ONNX's docs/ExternalData.md: the bytes of an external tensor are those of the
file `location` (a path below the model's folder) from `offset` on, `length` of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError, MissingError, UnsupportedError
from tensorkeep.graph.elements import KINDS, NUMBERS, field_of
from tensorkeep.graph.schema import ENTRY, EXTERNAL
from tensorkeep.message import Message
from tensorkeep.source import MemorySource, Source, Window
from tensorkeep.tensor import Tensor

# Opens the file that an external tensor names.
Opener = Callable[[str], Source]

LISTS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_MAX_AXES = 64
_APART = 6  # bits: elements of that many are not packed in a list, as narrower ones are
_MOST_DIGITS = 19


def no_files(location: str) -> Source:
    """Open no file: for a model that is in no folder.

    Raises:
        MissingError: always.
    """
    raise MissingError(
        f"the model is in no folder, so there is no file {location[:80]!r} beside it"
    )


def read_tensor(message: Message, where: str, opener: Opener = no_files) -> Tensor:
    """Give the tensor that a TensorProto describes; its values are read when they are asked for.

    A tensor whose file is missing, or that has no data at all, tells so when it is read.

    Args:
        message: a TensorProto.
        where: names it in messages.
        opener: opens the file that an external tensor names.

    Raises:
        CorruptError: its element type, shape and data contradict one another.
        UnsafeError: it names a file that is not the model's own.
        UnsupportedError: it is a segment of a tensor.
    """
    number = message.data_type
    if number not in KINDS:
        raise CorruptError(
            f"has element type {number}, which ONNX does not have",
            where=where,
            cure=f"There are 1 (float32) to {len(KINDS)}.",
        )
    kind = KINDS[number]
    shape = tuple(message.dims.tolist())
    if len(shape) > _MAX_AXES or any(axis < 0 for axis in shape):
        raise CorruptError(f"has shape {shape[:8]}, which no array can have", where=where)
    if "segment" in message:
        problem = "holds one of several segments of a tensor, which nothing puts together"
        raise UnsupportedError(problem, where=where)
    if message.data_location == EXTERNAL:
        return _read_external(message, kind, shape, where, opener)
    if "raw_data" in message and kind is not dtypes.STRING:
        source, start, stop = _window(message, where)
        try:
            return Tensor(kind, shape, source, start, stop - start)
        except CorruptError as error:  # which names the file that it is a window on
            raise CorruptError(error.problem, where=where, cure=error.cure) from None
    count = dtypes.count_of(shape)
    if kind is dtypes.STRING:
        return _read_strings(message, shape, count, where)
    name = field_of(kind)
    if count and name not in message:
        return Tensor(kind, shape, Absent(kind.nbytes(count), where, _no_values(message, name)))
    found = message.window(name)
    if found and name in ("float_data", "double_data") and sys.byteorder == "little":
        source, start, stop = found
        if stop - start == kind.nbytes(count):
            return Tensor(kind, shape, source, start, stop - start)
    # A copy, whose values stay when the message is given others.
    return Tensor(kind, shape, _Listed(message.copy(), name, kind, count, where))


def _window(message: Message, where: str) -> tuple[Source, int, int]:
    found = message.window("raw_data")
    if found is not None:
        return found
    data = message.raw_data
    return MemorySource(data, where), 0, len(data)


def _read_strings(message: Message, shape: tuple[int, ...], count: int, where: str) -> Tensor:
    texts = message.string_data
    if len(texts) != count:
        problem = f"string of shape {shape} has {count:,} elements, not {len(texts):,}"
        raise CorruptError(problem, where=where)
    data = dtypes.pack_strings(texts)
    return Tensor(dtypes.STRING, shape, MemorySource(data, where), 0, len(data))


def external_entries(message: Message) -> dict[str, str]:
    """Give what a TensorProto says of the file that holds its bytes."""
    return {entry.key: entry.value for entry in message.external_data}


def _read_external(
    message: Message, kind: DType, shape: tuple[int, ...], where: str, opener: Opener
) -> Tensor:
    if kind is dtypes.STRING:
        raise CorruptError("is text, which cannot be in another file", where=where)
    entries = external_entries(message)
    size = kind.nbytes(dtypes.count_of(shape))
    location = entries.get("location", "")
    offset = _natural(entries, "offset", 0, where)
    length = _natural(entries, "length", size, where)
    if not location:
        raise CorruptError("is in another file, but does not say in which", where=where)
    if length != size:
        raise CorruptError(
            f"{kind} of shape {shape} takes {size:,} bytes, but is said to take {length:,} "
            f"of {location!r}",
            where=where,
        )
    try:
        source = opener(location)
    except MissingError as error:
        missing = MissingError(f"is in {location[:80]!r}: {error.problem}", cure=error.cure)
        return Tensor(kind, shape, Absent(size, where, missing))
    if offset + size > source.size:
        raise CorruptError(
            f"is said to be bytes {offset:,} to {offset + size:,} of {location!r}, which has "
            f"{source.size:,}",
            where=where,
            cure="That file is cut short, or belongs to another model.",
        )
    return Tensor(kind, shape, source, offset, size)


def _natural(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise CorruptError(f"its {key} in another file is {text[:40]!r}, no count", where=where)
    return int(text)


_no_data = MissingError("holds no data, as in a model whose weights were taken out")


def _no_values(message: Message, name: str) -> MissingError:
    """Say that values are not in the list where they belong, and in which they are."""
    other = next((field for field in LISTS if field in message), "")
    return MissingError(f"has no {name}, but {other}") if other else _no_data


class Absent(Source):
    """Bytes that are missing, which only reading them is an error for."""

    __slots__ = ("problem",)

    def __init__(self, size: int, where: str, problem: MissingError) -> None:
        super().__init__(size, where)
        self.problem = problem

    def reach(self, start: int, stop: int) -> None:
        if start < stop:
            raise MissingError(self.problem.problem, where=self.where, cure=self.problem.cure)

    def _read(self, start: int, stop: int) -> memoryview:
        self.reach(start, stop)
        return memoryview(b"")


class _Listed(Source):
    """The canonical bytes of values that stand in a list."""

    __slots__ = ("_count", "_data", "_kind", "_message", "_name")

    def __init__(self, message: Message, name: str, kind: DType, count: int, where: str) -> None:
        super().__init__(kind.nbytes(count), where)
        self._message = message
        self._name = name
        self._kind = kind
        self._count = count
        self._data: memoryview | None = None

    def reach(self, start: int, stop: int) -> None:
        self._all()  # whose count is not the shape's word

    def _read(self, start: int, stop: int) -> memoryview:
        return self._all()[start:stop]

    def _all(self) -> memoryview:
        if self._data is None:
            self._data = self._decode()
        return self._data

    def _decode(self) -> memoryview:
        kind, values = self._kind, self._message[self._name]
        if kind.packed and kind.bits != _APART:
            expected = self.size
        else:
            expected = 2 * self._count if kind.kind == "complex" else self._count
        if values.size != expected:
            raise CorruptError(
                f"{self._count:,} elements of {kind} take {expected:,} values, but {self._name} "
                f"has {values.size:,}",
                where=self.where,
            )
        return _narrow(values, kind, self.where)


def _narrow(values: Any, kind: DType, where: str) -> memoryview:
    """Give the canonical bytes of values that were kept in a wider type."""
    if kind in (dtypes.FLOAT32, dtypes.FLOAT64) or kind.kind == "complex":
        return np.ascontiguousarray(values).view(np.uint8).data
    if kind.kind in ("int", "uint") and not kind.packed:
        held = kind.numpy
        least, most = int(np.iinfo(held).min), int(np.iinfo(held).max)
    else:  # the bits of one element, or of several in a byte
        held = np.dtype("<u2" if kind.bits == 16 else "u1")
        least, most = 0, (2 if kind is dtypes.BOOL else 1 << held.itemsize * 8) - 1
        if kind.kind == "float" and not kind.packed:
            least = ~(most >> 1)  # the sign was carried on into the wider type
        elif kind.bits == _APART:
            most = (1 << _APART) - 1
    if values.size and not least <= int(values.min()) <= int(values.max()) <= most:
        wide = values[(values < least) | (values > most)][0]
        raise CorruptError(f"holds {wide}, which is no {kind}", where=where)
    narrow = values.astype(held)
    if kind.bits == _APART:
        narrow = dtypes.pack(narrow.view(kind.numpy), kind)
    return np.ascontiguousarray(narrow).view(np.uint8).data


def fill_tensor(message: Message, tensor: Tensor) -> None:
    """Have a TensorProto hold a tensor; its bytes are read when the message is written.

    Its name, documentation, metadata and what is not known of it stay.

    Raises:
        UnsupportedError: ONNX has no such element type.
    """
    if tensor.dtype not in NUMBERS:
        raise UnsupportedError(
            f"ONNX has no element type {tensor.dtype}",
            cure='Unpack it with dtype="float32" or "float16".',
        )
    clear_tensor(message)
    message.dims = np.array(tensor.shape, np.int64)
    message.data_type = NUMBERS[tensor.dtype]
    if tensor.dtype is dtypes.STRING:
        texts = tensor.numpy().reshape(-1)
        message.string_data = [text.encode("utf-8", "surrogateescape") for text in texts]
    else:
        message.raw_data = Window(tensor.source, tensor.offset, tensor.nbytes)


def clear_tensor(message: Message) -> None:
    """Take the values out of a TensorProto; its type and shape stay."""
    for name in (*LISTS, "raw_data", "external_data", "data_location", "segment"):
        if name in message:
            message.drop(name)


def set_external(
    message: Message, location: str, offset: int, length: int, checksum: str = ""
) -> None:
    """Have a TensorProto say that its bytes are in another file."""
    clear_tensor(message)
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    if checksum:
        entries["checksum"] = checksum
    message.external_data = [Message(ENTRY, key=k, value=v) for k, v in entries.items()]
    message.data_location = EXTERNAL


__all__ = [
    "LISTS",
    "Absent",
    "Opener",
    "clear_tensor",
    "external_entries",
    "fill_tensor",
    "no_files",
    "read_tensor",
    "set_external",
]
