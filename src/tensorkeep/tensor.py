"""Tensor: an element type, a shape and where the bytes are. Nothing is read until asked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.selection import Selection, neighbours, select
from tensorkeep.source import MemorySource, Source
from tensorkeep.threads import at_once

_PIECE = 16 << 20
_NEAR = 128 << 10  # bytes between two runs that are cheaper to fetch than another request
_SPAN = 4 << 20  # what one of those requests fetches at most, unless it is for a single run


class Tensor:
    """A lazy array: `nbytes` bytes of `source` from `offset` on, in C order and little endian.

    Args:
        dtype: the element type.
        shape: the sizes of the axes; empty for a scalar.
        source: the bytes that hold it.
        offset: where in the source it starts, in bytes.
        nbytes: its length in bytes; needed for `string` only, which the shape does not tell.

    Raises:
        CorruptError: the source does not hold that many bytes.

    >>> t = Tensor.of(np.arange(6, dtype="int16").reshape(2, 3))
    >>> t, t[1, 1:].tolist()
    (Tensor(int16, (2, 3)), [4, 5])
    """

    __slots__ = ("dtype", "nbytes", "offset", "shape", "source")

    dtype: DType
    shape: tuple[int, ...]
    source: Source
    offset: int
    nbytes: int

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        source: Source,
        offset: int = 0,
        nbytes: int = -1,
    ) -> None:
        _SET_DTYPE(self, dtype)
        _SET_SHAPE(self, shape)
        _SET_SOURCE(self, source)
        _SET_OFFSET(self, offset)
        _SET_NBYTES(self, nbytes)
        # The sound case first and alone: files of many thousand tensors pay for these lines.
        least = dtype.nbytes(math.prod(shape))
        for axis in shape:
            if axis < 0:
                raise CorruptError(f"shape {shape} has a negative axis", where=source.where)
        if not least or nbytes != least or not 0 <= offset <= offset + nbytes <= source.size:
            self._check(least)
        if dtype.block > 1 and (not shape or shape[-1] % dtype.block):
            raise CorruptError(
                f"{dtype} comes in blocks of {dtype.block} elements, which rows of shape {shape} "
                "are not made of",
                where=source.where,
            )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Tensor does not change; {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Tensor does not change; {name!r} cannot be deleted")

    def __reduce__(self) -> tuple[object, ...]:
        if self.dtype.kind == "blocks":
            return _of_bytes, (self.dtype, self.shape, bytes(self.read()), self.source.where)
        return Tensor.of, (self.numpy(), self.source.where)

    def _check(self, least: int) -> None:
        if math.prod(axis or 1 for axis in self.shape) >= 2**59 or len(self.shape) > 64:
            raise CorruptError(f"no array can have shape {self.shape}", where=self.source.where)
        if self.nbytes < 0:
            if self.dtype is dtypes.STRING:
                raise ArgumentError("a string tensor needs its nbytes", where=self.source.where)
            _SET_NBYTES(self, least)
        elif self.nbytes != least and (self.dtype is not dtypes.STRING or self.nbytes < least):
            raise CorruptError(
                f"{self.dtype} of shape {self.shape} takes {least} bytes, not {self.nbytes}",
                where=self.source.where,
            )
        if not 0 <= self.offset <= self.offset + self.nbytes <= self.source.size:
            raise CorruptError(
                f"{self.dtype} of shape {self.shape} needs bytes {self.offset} to "
                f"{self.offset + self.nbytes}, but there are {self.source.size}",
                where=self.source.where,
                cure="The file is cut short, or its header lies about sizes.",
            )

    @staticmethod
    def of(array: npt.ArrayLike, where: str = "memory") -> Tensor:
        """Wrap an array without copying it: any strides, any byte order, strings included.

        Raises:
            UnsupportedError: an object, structured or datetime array.
        """
        values = np.asarray(array)
        if values.dtype == object or values.dtype.kind in "UST":
            try:
                data = dtypes.pack_strings(_texts(values, where))
            except UnicodeEncodeError:
                raise UnsupportedError(
                    "a str with a lone surrogate is not text",
                    where=where,
                    cure="Encode it to bytes first.",
                ) from None
            source = MemorySource(data, where)
            return Tensor(dtypes.STRING, values.shape, source, 0, len(data))
        kind = dtypes.of_numpy(values.dtype)
        if kind is dtypes.BOOL and values.size and values.view(np.uint8).max() > 1:
            values = values.view(np.uint8) != 0  # other bytes than 0 and 1 are true as well
        if values.flags.c_contiguous and not kind.packed and values.dtype.isnative:
            return Tensor(kind, values.shape, _PlainSource(values, where))
        return Tensor(kind, values.shape, _ArraySource(values, kind, where))

    @property
    def size(self) -> int:
        """The number of elements."""
        return dtypes.count_of(self.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def read(self) -> memoryview:
        """Give the canonical bytes, without a copy where they are in memory or mapped."""
        return self.source.read(self.offset, self.offset + self.nbytes)

    def pieces(self, size: int = _PIECE) -> Iterator[memoryview]:
        """Give the canonical bytes in order, `size` bytes at a time."""
        if self.dtype.packed:
            size = max(1, size // 8)  # packing takes several times as much while it runs
        if self.nbytes <= size:
            yield self.read()
            return
        for start in range(0, self.nbytes, size):
            stop = min(start + size, self.nbytes)
            yield self.source.read(self.offset + start, self.offset + stop)

    def numpy(self) -> npt.NDArray[Any]:
        """Give the values as a read-only array, without a copy where they are in memory or mapped.

        Strings come as an object array of `str`, types below 8 bits as their ml_dtypes type, and
        blocks as float32.
        """
        return self.decode(self.read(), self.shape)

    def decode(self, data: memoryview, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Turn canonical bytes of this dtype into an array that shares them where it can."""
        count = dtypes.count_of(shape)
        if self.dtype is dtypes.STRING:
            return dtypes.unpack_strings(data, count, self.source.where).reshape(shape)
        if self.dtype.opaque:
            raise UnsupportedError(
                f"elements of the type {self.dtype} cannot be turned into numbers here",
                where=self.source.where,
                cure="Their bytes can be read, copied and compared.",
            )
        if self.dtype.packed:
            codes = np.frombuffer(data, np.uint8) if data.nbytes else np.zeros(0, np.uint8)
            return dtypes.unpack(codes, self.dtype, count).reshape(shape)
        if count == 0:
            return np.zeros(shape, self.dtype.numpy)
        return np.ndarray(shape, self.dtype.numpy, data)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a slice; only the bytes it needs are read where the layout allows it."""
        try:
            chosen = select(index, self.shape)
            if chosen is None or self.dtype is dtypes.STRING:
                return np.asarray(self.numpy()[index])
        except ArgumentError as error:
            raise ArgumentError(error.problem, where=f"{self.source.where}: {self!r}") from None
        except TensorKeepError:
            raise
        except (IndexError, TypeError, ValueError) as error:
            raise ArgumentError(f"cannot be indexed so: {error}", where=repr(self)) from None
        return self._gather(chosen)

    def _gather(self, chosen: Selection) -> npt.NDArray[Any]:
        if len(chosen.runs) == 1:
            return chosen.finish(self.elements(*chosen.runs[0]).reshape(chosen.box))
        out = np.empty(dtypes.count_of(chosen.box), self.dtype.numpy)
        at = 0
        if self.source.remote and not self.dtype.packed:
            self._fetch(chosen.runs, out.view(np.uint8).data)
            return chosen.finish(out.reshape(chosen.box))
        for start, stop in chosen.runs:
            out[at : at + stop - start] = self.elements(start, stop)
            at += stop - start
        return chosen.finish(out.reshape(chosen.box))

    def _fetch(self, runs: list[tuple[int, int]], out: memoryview) -> None:
        """Fill memory with runs of elements by few requests, several at a time."""
        size = self.dtype.bits // 8
        at = 0

        def fetch(together: list[tuple[int, int]], at: int) -> None:
            low, high = self.offset + together[0][0] * size, self.offset + together[-1][1] * size
            if len(together) == 1:
                self.source.readinto(low, out[at : at + high - low])
                return
            data = self.source.read(low, high)
            for start, stop in together:
                first = self.offset + start * size - low
                count = (stop - start) * size
                out[at : at + count] = data[first : first + count]
                at += count

        tasks = []
        for together in neighbours(runs, _NEAR // size, _SPAN // size):
            tasks.append((together, at))
            at += sum(stop - start for start, stop in together) * size
        if len(tasks) == 1:
            fetch(*tasks[0])
            return
        at_once([partial(fetch, *task) for task in tasks])

    def elements(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read elements `start` to `stop` of the flattened tensor, and little more (no strings)."""
        if not self.dtype.packed:
            size = self.dtype.bits // 8
            first, last = self.offset + start * size, self.offset + stop * size
            return self.decode(self.source.read(first, last), (stop - start,))
        group, width = self.dtype.group
        whole = start // group * group
        past = min(-(-stop // group) * group, self.size)
        first, last = whole // group * width, self.dtype.nbytes(past)
        data = self.source.read(self.offset + first, self.offset + last)
        return self.decode(data, (past - whole,))[start - whole : stop - whole]

    def __len__(self) -> int:
        if not self.shape:
            raise ArgumentError("a scalar tensor has no length")
        return self.shape[0]

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Export through DLPack; the bytes are copied once, since DLPack memory is writable."""
        return self.numpy().copy().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {self.shape})"


# An immutable object is made twice as fast through its slots as through object.__setattr__.
_SET_DTYPE = Tensor.__dict__["dtype"].__set__
_SET_SHAPE = Tensor.__dict__["shape"].__set__
_SET_SOURCE = Tensor.__dict__["source"].__set__
_SET_OFFSET = Tensor.__dict__["offset"].__set__
_SET_NBYTES = Tensor.__dict__["nbytes"].__set__


def _of_bytes(dtype: DType, shape: tuple[int, ...], data: bytes, where: str) -> Tensor:
    return Tensor(dtype, shape, MemorySource(data, where), 0, len(data))


class _PlainSource(Source):
    """The bytes of an array whose memory is canonical already."""

    __slots__ = ("_array",)

    def __init__(self, array: npt.NDArray[Any], where: str) -> None:
        self._array = array
        super().__init__(array.nbytes, where)

    def _read(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        flat = self._array.reshape(-1).view(np.uint8)
        flat.setflags(write=False)
        return flat.data[start:stop]


class _ArraySource(Source):
    """The canonical bytes of an array that has to be copied for them: strided, swapped or packed.

    Only the rows that a read covers are copied, so writing a huge transposed array stays flat.
    """

    __slots__ = ("_array", "_kind")

    def __init__(self, array: npt.NDArray[Any], kind: DType, where: str) -> None:
        self._array = array
        self._kind = kind
        super().__init__(kind.nbytes(array.size), where)

    def _read(self, start: int, stop: int) -> memoryview:
        # Whole groups of elements that start and end on a byte.
        group, width = self._kind.group
        first = start // width * group
        last = min(-(-stop // width) * group, self._array.size)
        values = _flat_range(self._array, first, last).astype(self._kind.numpy, copy=False)
        data = dtypes.pack(values, self._kind) if self._kind.packed else values.view(np.uint8)
        skip = start - first // group * width
        return data.data[skip : skip + stop - start].toreadonly()


def _flat_range(array: npt.NDArray[Any], start: int, stop: int) -> npt.NDArray[Any]:
    """Copy elements `start` to `stop` in C order, touching only the rows that hold them."""
    if start == stop:
        return np.empty(0, array.dtype)
    if array.ndim <= 1:
        return np.ascontiguousarray(array.reshape(-1)[start:stop])
    row = array[0].size
    first, last = start // row, -(-stop // row)
    if last - first == 1:
        return _flat_range(array[first], start - first * row, stop - first * row)
    return np.ascontiguousarray(array[first:last]).reshape(-1)[start - first * row :][
        : stop - start
    ]


def _texts(values: npt.NDArray[Any], where: str) -> list[str | bytes]:
    try:
        texts = values.reshape(-1).tolist()
    except (ValueError, SystemError) as error:  # what NumPy says to a code over U+10FFFF
        raise CorruptError(f"its strings are damaged: {error}", where=where) from None
    for text in texts:
        if not isinstance(text, str) and values.dtype.kind != "S":
            raise UnsupportedError(
                f"an object array holding {type(text).__name__} has no element type",
                where=where,
                cure="Convert it to a number, bool or string array first.",
            )
    return texts
