"""The tensor files of NNEF: a header of 128 bytes, then the elements, row-major and little endian.

    0    2    4E EF
    2    2    version: 1, 0
    4    4    bytes of data: the elements' bits, rounded up
    8    4    rank, at most 8
    12   32   extents; those beyond the rank are 0
    44   4    bits of an element
    48   4    its kind: 0 float, 1 uint, 2 quint, 3 qint, 4 int, 5 bool; a vendor's in the high half
    52   76   reserved; older files say by the first of these that a uint is signed

Elements that are not whole bytes follow one another without gaps, the highest bit first, where our
own packing begins with the lowest. Element types that have no like here are read as the next wider
one. Files from before October 2018 have four more bytes behind the header, and those of the
provisional specification a shorter one: 4E EF, version, length of the header, rank, extents, kind
and bits in a byte each, and two bytes of quantization.

Facts from the NNEF 1.0 specification and from `nnef` 1.0.10.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.store import Chunk
from tensorkeep.tensor import Tensor

HEADER = 128
MAX_RANK = 8
MAX_DATA = 0xFFFFFFFF
MAGIC = b"\x4e\xef\x01\x00"

_FIELDS = struct.Struct("<4s12I19I")
_OLD_EXCESS = 4  # bytes between the header and the data before October 2018
_FLOAT, _UINT, _QUINT, _QINT, _INT, _BOOL = range(6)
_KINDS = ("float", "uint", "quint", "qint", "int", "bool")
_SIGNED = (_QINT, _INT)
_PIECE = 1 << 20  # elements that are taken apart at a time

STORABLE = frozenset(
    kind
    for kind in dtypes.DTYPES.values()
    if kind.kind in ("bool", "int", "uint")
    or kind in (dtypes.FLOAT16, dtypes.FLOAT32, dtypes.FLOAT64)
)


class Header(NamedTuple):
    """What a header says.

    `dtype` is the element type that the elements are read as; `kind` and `bits` are how the file
    keeps them. The data lies at `start` and is `nbytes` long.
    """

    dtype: DType
    shape: tuple[int, ...]
    kind: str
    bits: int
    start: int
    nbytes: int

    @property
    def quantized(self) -> bool:
        """Whether the elements are quantized values, of which graph.quant tells the meaning."""
        return self.kind in ("qint", "quint")

    @property
    def plain(self) -> bool:
        """Whether the data is canonical as it is."""
        return self.bits == self.dtype.bits and self.bits % 8 == 0 and self.kind != "bool"

    @property
    def remark(self) -> str:
        """What a reader should know of how the elements are kept; empty where nothing is odd."""
        odd = self.kind != "bool" and self.bits != self.dtype.bits
        if self.quantized or odd:
            return f"{self.kind} of {self.bits} bit{'' if self.bits == 1 else 's'}"
        return ""


def read_header(head: bytes, size: int, where: str) -> Header:
    """Parse the header of a tensor file.

    Args:
        head: the first 128 bytes, or all where there are fewer.
        size: the bytes of the whole file.
        where: names the file in messages.

    Raises:
        CorruptError: it is damaged, or does not fit the file.
        UnsupportedError: elements of a vendor's own type, or another version.

    >>> tensor = Tensor.of(np.zeros((2, 3), "float32"))
    >>> read_header(write_header(tensor), 128 + 24, "example").shape
    (2, 3)
    """
    if head[:2] != MAGIC[:2]:
        raise CorruptError(
            f"is no NNEF tensor: it starts with {head[:4]!r}, not {MAGIC!r}", where=where
        )
    if len(head) >= 4 and head[:4] != MAGIC:
        raise UnsupportedError(
            f"has version {head[2]}.{head[3]} of NNEF's tensor files; read is 1.0", where=where
        )
    provisional = _read_provisional(head, size)
    if len(head) < HEADER:
        if provisional:
            return provisional
        raise CorruptError(
            f"ends after {len(head)} bytes, within its header of {HEADER}",
            where=where,
            cure="Use another copy of the file.",
        )
    try:
        return _read_final(head, size, where)
    except (CorruptError, UnsupportedError):
        if provisional:
            return provisional
        raise


def _read_final(head: bytes, size: int, where: str) -> Header:
    _, length, rank, *rest = _FIELDS.unpack(head[:HEADER])
    extents, (bits, code), reserved = rest[:MAX_RANK], rest[8:10], rest[10:]
    if rank > MAX_RANK:
        raise CorruptError(f"has a rank of {rank:,}; NNEF's is at most {MAX_RANK}", where=where)
    if code >> 16:
        raise UnsupportedError(
            f"has elements of a vendor's own type, {code:#x}, which is not known here",
            where=where,
            cure="Write it with a type of NNEF's own.",
        )
    if code == _UINT and reserved[0]:
        code = _INT
    dtype = _element(code, bits, where)
    shape = tuple(extents[:rank])
    needed = (math.prod(shape) * bits + 7) // 8
    if needed != length:
        raise CorruptError(
            f"says {length:,} bytes of data, but {bits} bits for each element of shape {shape} "
            f"take {needed:,}",
            where=where,
        )
    start = HEADER + (_OLD_EXCESS if size == HEADER + _OLD_EXCESS + length else 0)
    if size != start + length:
        raise CorruptError(
            f"has {size:,} bytes, but its header and {length:,} bytes of data are "
            f"{HEADER + length:,}",
            where=where,
            cure="It is cut short, or its header lies about sizes.",
        )
    return Header(dtype, shape, _KINDS[code], bits, start, length)


def _element(code: int, bits: int, where: str) -> DType:
    """Give the element type that elements of a kind and a width are read as."""
    allowed: tuple[int, ...] | range = range(1, 65)
    if code == _FLOAT:
        allowed = (16, 32, 64)
    elif code == _BOOL:
        allowed = (1, 8)
    if code >= len(_KINDS):
        raise CorruptError(f"has elements of the kind {code}, which NNEF has not", where=where)
    if bits not in allowed:
        raise CorruptError(
            f"has {_KINDS[code]} elements of {bits:,} bits, which NNEF has not", where=where
        )
    if code == _BOOL:
        return dtypes.BOOL
    family = "float" if code == _FLOAT else "int" if code in _SIGNED else "uint"
    width = bits if bits in (2, 4) else next(w for w in (8, 16, 32, 64) if w >= bits)
    return dtypes.dtype(f"{family}{width}")


def _read_provisional(head: bytes, size: int) -> Header | None:
    """Parse the header of the provisional specification; None where it is none."""
    if len(head) < 16:
        return None
    length, rank = struct.unpack_from("<II", head, 4)
    if rank > MAX_RANK or length != 16 + 4 * rank or len(head) < length:
        return None
    shape = struct.unpack_from(f"<{rank}I", head, 12)
    code, bits, quantization = struct.unpack_from("<BBH", head, length - 4)
    nbytes = math.prod(shape) * 4
    if (code, bits, quantization) != (_FLOAT, 32, 0) or size != length + nbytes:
        return None
    return Header(dtypes.FLOAT32, tuple(shape), "float", 32, length, nbytes)


def open_elements(data: Source, header: Header) -> Tensor:
    """Give the tensor that a file holds.

    Args:
        data: the bytes behind the header.
        header: what the header says.
    """
    if header.plain:
        return Tensor(header.dtype, header.shape, data)
    return Tensor(header.dtype, header.shape, Elements(data, header))


class Elements(Source):
    """Elements in another packing than ours: what is read of them is repacked, and no more."""

    __slots__ = ("_data", "_header")

    def __init__(self, data: Source, header: Header) -> None:
        self._data = data
        self._header = header
        super().__init__(header.dtype.nbytes(math.prod(header.shape)), data.where)

    @property
    def quantized(self) -> bool:
        """Whether the file says so of its elements."""
        return self._header.quantized

    def close(self) -> None:
        self._data.close()

    def _read(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        out = bytearray(stop - start)
        self._readinto(start, memoryview(out))
        return memoryview(out).toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        done, step = 0, _PIECE * max(1, self._header.dtype.bits // 8)
        while done < buffer.nbytes:
            begin = start + done
            stop = min(start + buffer.nbytes, (begin // step + 1) * step)
            buffer[done : done + stop - begin] = self._repacked(begin, stop)
            done += stop - begin

    def _repacked(self, start: int, stop: int) -> bytes:
        header = self._header
        if header.dtype.packed:
            data = bytes(self._data.read(start, stop)).translate(_TURNED[header.bits])
            spare = -math.prod(header.shape) * header.bits % 8
            if spare and stop == self.size:  # what pads the last byte is no part of the tensor
                data = data[:-1] + bytes([data[-1] & 0xFF >> spare])
            return data
        if header.kind == "bool" and header.bits == 8:
            whole: npt.NDArray[np.bool_] = (
                np.frombuffer(self._data.read(start, stop), np.uint8) != 0
            )
            return whole.tobytes()
        width = header.dtype.bits // 8
        first, last = start // width, -(-stop // width)
        flat = self._widened(first, last).tobytes()
        return flat[start - first * width :][: stop - start]

    def _widened(self, first: int, last: int) -> npt.NDArray[np.uint8]:
        """Give elements `first` to `last` as rows of little-endian bytes."""
        header, count = self._header, last - first
        bits, width = header.bits, header.dtype.bits // 8
        begin, end = first * bits // 8, -(-last * bits // 8)
        data = np.frombuffer(self._data.read(begin, end), np.uint8)
        signed = header.kind in ("int", "qint")
        out = np.zeros((count, width), np.uint8)
        if bits % 8 == 0:
            out[:, : bits // 8] = data.reshape(count, bits // 8)
            if signed:
                out[:, bits // 8 :] = np.where(out[:, bits // 8 - 1, None] & 0x80, 0xFF, 0)
            return out
        skip = first * bits - begin * 8
        flat = np.unpackbits(data)[skip : skip + count * bits].reshape(count, bits)
        wide = np.zeros((count, 8 * width), np.uint8)
        wide[:, 8 * width - bits :] = flat
        if signed:
            wide[:, : 8 * width - bits] = flat[:, :1]
        return np.ascontiguousarray(np.packbits(wide, axis=1)[:, ::-1])


def _turned(bits: int) -> bytes:
    """Give the table that turns the order of the elements within a byte around."""
    mask, per = (1 << bits) - 1, 8 // bits
    return bytes(
        sum((byte >> bits * slot & mask) << bits * (per - 1 - slot) for slot in range(per))
        for byte in range(256)
    )


_TURNED = {bits: _turned(bits) for bits in (2, 4)}


def misfit(dtype: DType, shape: tuple[int, ...]) -> str:
    """Say why no tensor file holds such a tensor; empty where one does.

    >>> misfit(dtypes.FLOAT32, (2, 3)), misfit(dtypes.BFLOAT16, (2, 3))
    ('', 'NNEF has no bfloat16')
    """
    if dtype not in STORABLE:
        return f"NNEF has no {dtype}"
    if len(shape) > MAX_RANK:
        return f"NNEF has no more than {MAX_RANK} axes, and it has {len(shape)}"
    if any(axis > MAX_DATA for axis in shape) or data_size(dtype, shape) > MAX_DATA:
        return "a tensor file of NNEF holds less than 4 GiB"
    return ""


def data_size(dtype: DType, shape: tuple[int, ...]) -> int:
    """Give the bytes of a tensor file behind its header."""
    bits = 1 if dtype is dtypes.BOOL else dtype.bits
    return (math.prod(shape) * bits + 7) // 8


def write_header(tensor: Tensor, *, quantized: bool = False) -> bytes:
    """Give the header of the file that holds a tensor, which `misfit` has nothing against.

    Args:
        tensor: what it holds.
        quantized: whether integers stand for what graph.quant says.

    >>> write_header(Tensor.of(np.zeros(3, bool)))[44:50].hex()
    '010000000500'
    """
    code = {"float": _FLOAT, "int": _INT, "uint": _UINT, "bool": _BOOL}[tensor.dtype.kind]
    if quantized:
        code = {_INT: _QINT, _UINT: _QUINT}.get(code, code)
    bits = 1 if code == _BOOL else tensor.dtype.bits
    extents = (*tensor.shape, *[0] * (MAX_RANK - len(tensor.shape)))
    length = data_size(tensor.dtype, tensor.shape)
    return _FIELDS.pack(MAGIC, length, len(tensor.shape), *extents, bits, code, *[0] * 19)


def pieces(tensor: Tensor) -> Iterator[Chunk]:
    """Give what stands behind the header, a few megabytes at a time."""
    for piece in tensor.pieces():
        if tensor.dtype is dtypes.BOOL:
            yield np.packbits(np.frombuffer(piece, np.uint8)).data
        elif tensor.dtype.packed:
            yield bytes(piece).translate(_TURNED[tensor.dtype.bits])
        else:
            yield piece
