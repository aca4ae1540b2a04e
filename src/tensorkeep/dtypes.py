"""Element types: one row per type, and the packing of those narrower than a byte.

Canonical bytes are C order and little endian. Elements of 2, 4 and 6 bits are packed without
gaps, the first element in the lowest bits of the first byte, as ONNX packs its 2- and 4-bit types.
A `string` tensor of n elements is n + 1 little-endian uint64 offsets followed by the joined UTF-8
bytes (bytes that are not UTF-8 come back as surrogate escapes, so nothing is lost).

Block-quantized types (`BLOCKS`, of the kind "blocks") are bytes as ggml packs them: runs of `group`
elements of a row in `bits / 8` bytes each. They are read as float32. See tensorkeep.blocks.

Bit layouts of the narrow floats: OCP 8-bit Floating Point Specification and OCP Microscaling
Formats (MX) v1.0, as implemented by ml_dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tensorkeep import blocks
from tensorkeep.errors import ArgumentError, CorruptError, UnsupportedError

Kind = Literal["bool", "int", "uint", "float", "complex", "string", "blocks"]


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """An element type: its name, its width in bits as stored, and how NumPy holds one element.

    For the kind "blocks" `bits` is the width of a whole block, and `block` the elements of one.

    >>> BFLOAT16.bits, INT4.nbytes(3), BFLOAT16.numpy.itemsize
    (16, 2, 2)
    >>> dtype("float16") is dtype(np.float16)
    True
    """

    name: str
    kind: Kind
    bits: int
    numpy: np.dtype[Any]
    block: int = 1

    @property
    def packed(self) -> bool:
        """True where several elements share a byte."""
        return self.block > 1 or (self.bits < 8 and self.kind != "bool")

    @property
    def opaque(self) -> bool:
        """True where only the bytes are kept: what they mean is not known here."""
        return self.block > 1 and blocks.LAYOUTS[self.name].dequantizer is None

    @property
    def group(self) -> tuple[int, int]:
        """The least number of elements that are whole bytes, and those bytes.

        >>> INT4.group, FLOAT6_E2M3FN.group, FLOAT32.group, BLOCKS["q8_0"].group
        ((2, 1), (4, 3), (1, 4), (32, 34))
        """
        if self.block > 1:
            return self.block, self.bits // 8
        whole = math.lcm(self.bits, 8)
        return whole // self.bits, whole // 8

    def nbytes(self, count: int) -> int:
        """Give the bytes that `count` elements occupy (for `string`, of the offsets alone)."""
        if self.kind == "string":
            return 8 * (count + 1)
        return (count // self.block * self.bits + 7) // 8

    def __repr__(self) -> str:
        return f"tensorkeep.dtype({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        return dtype, (self.name,)


def _row(name: str, kind: Kind, bits: int, scalar: Any = None) -> DType:
    if scalar is None:
        scalar = getattr(ml_dtypes, name, None) or getattr(np, name)
    return DType(name, kind, bits, np.dtype(scalar))


BOOL = _row("bool", "bool", 8, np.bool_)
UINT2 = _row("uint2", "uint", 2)
UINT4 = _row("uint4", "uint", 4)
UINT8 = _row("uint8", "uint", 8)
UINT16 = _row("uint16", "uint", 16)
UINT32 = _row("uint32", "uint", 32)
UINT64 = _row("uint64", "uint", 64)
INT2 = _row("int2", "int", 2)
INT4 = _row("int4", "int", 4)
INT8 = _row("int8", "int", 8)
INT16 = _row("int16", "int", 16)
INT32 = _row("int32", "int", 32)
INT64 = _row("int64", "int", 64)
FLOAT4_E2M1FN = _row("float4_e2m1fn", "float", 4)
FLOAT6_E2M3FN = _row("float6_e2m3fn", "float", 6)
FLOAT6_E3M2FN = _row("float6_e3m2fn", "float", 6)
FLOAT8_E4M3FN = _row("float8_e4m3fn", "float", 8)
FLOAT8_E4M3FNUZ = _row("float8_e4m3fnuz", "float", 8)
FLOAT8_E5M2 = _row("float8_e5m2", "float", 8)
FLOAT8_E5M2FNUZ = _row("float8_e5m2fnuz", "float", 8)
FLOAT8_E8M0FNU = _row("float8_e8m0fnu", "float", 8)
BFLOAT16 = _row("bfloat16", "float", 16)
FLOAT16 = _row("float16", "float", 16)
FLOAT32 = _row("float32", "float", 32)
FLOAT64 = _row("float64", "float", 64)
COMPLEX64 = _row("complex64", "complex", 64)
COMPLEX128 = _row("complex128", "complex", 128)
STRING = _row("string", "string", 64, np.object_)

DTYPES: dict[str, DType] = {
    row.name: row for row in list(globals().values()) if isinstance(row, DType)
}
# Apart from the others, since no array is of such a type: only files hold them.
BLOCKS: dict[str, DType] = {
    row.name: DType(row.name, "blocks", 8 * row.nbytes, np.dtype(np.float32), row.size)
    for row in blocks.LAYOUTS.values()
}
_BY_NUMPY = {row.numpy: row for row in DTYPES.values() if row is not STRING}


def dtype(value: str | DType | npt.DTypeLike) -> DType:
    """Find the element type called `value`, or the one that holds a NumPy dtype.

    Raises:
        ArgumentError: there is no such name.
        UnsupportedError: a NumPy dtype that no element type holds (object, structured, datetime).

    >>> dtype("bfloat16").bits
    16
    """
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    if isinstance(value, str) and value in BLOCKS:
        return BLOCKS[value]
    try:
        found = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):
        cure = f"Use one of {', '.join(DTYPES)}."
        raise ArgumentError(f"no element type is called {value!r}", cure=cure) from None
    return of_numpy(found)


def of_numpy(found: np.dtype[Any]) -> DType:
    """Find the element type that holds a NumPy dtype of any byte order.

    Raises:
        UnsupportedError: none does (object, structured, datetime).

    >>> of_numpy(np.dtype(">i4")).name
    'int32'
    """
    row = _BY_NUMPY.get(found) or _BY_NUMPY.get(found.newbyteorder("="))
    if row is not None:
        return row
    if found.kind in "US":
        return STRING
    raise UnsupportedError(
        f"NumPy dtype {found} has no element type",
        cure="Convert the array to a number, bool or string type first.",
    )


def pack(array: npt.NDArray[Any], kind: DType) -> npt.NDArray[np.uint8]:
    """Pack elements of a sub-byte type, low bits first; gives a 1-D uint8 array.

    >>> pack(np.array([1, 2, 3], dtype=INT4.numpy), INT4).tolist()
    [33, 3]
    """
    mask = np.uint8((1 << kind.bits) - 1)
    codes = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & mask
    if kind.bits in (2, 4):  # whole elements per byte: shifts are several times faster than bits
        per = 8 // kind.bits
        padded = np.zeros(-(-codes.size // per) * per, np.uint8)
        padded[: codes.size] = codes
        out = padded[0::per].copy()
        for slot in range(1, per):
            out |= padded[slot::per] << np.uint8(slot * kind.bits)
        return out
    bits = np.unpackbits(codes[:, None], axis=1, count=kind.bits, bitorder="little")
    return np.packbits(bits, bitorder="little")


def unpack(data: npt.NDArray[np.uint8], kind: DType, count: int) -> npt.NDArray[Any]:
    """Unpack `count` elements of a sub-byte type into a 1-D array of its NumPy dtype.

    Raises:
        UnsupportedError: a block type of which only the bytes are kept.

    >>> unpack(np.array([33, 3], np.uint8), INT4, 3).tolist()
    [1, 2, 3]
    """
    if kind.block > 1:
        return blocks.dequantize(blocks.LAYOUTS[kind.name], data)
    if kind.bits in (2, 4):
        per = 8 // kind.bits
        mask = np.uint8((1 << kind.bits) - 1)
        codes = np.empty(data.size * per, np.uint8)
        for slot in range(per):
            codes[slot::per] = (data >> np.uint8(slot * kind.bits)) & mask
        codes = codes[:count]
    else:
        bits = np.unpackbits(data, count=count * kind.bits, bitorder="little")
        codes = np.packbits(bits.reshape(count, kind.bits), axis=1, bitorder="little").reshape(-1)
    return codes.view(kind.numpy)


def pack_strings(values: Iterable[str | bytes]) -> bytes:
    """Join strings into the canonical bytes of a `string` tensor.

    >>> unpack_strings(pack_strings(["a", "", "bc"]), 3, "example").tolist()
    ['a', '', 'bc']
    """
    parts = [v if isinstance(v, bytes) else v.encode("utf-8", "surrogateescape") for v in values]
    offsets = np.zeros(len(parts) + 1, "<u8")
    np.cumsum([len(p) for p in parts], out=offsets[1:])
    return offsets.tobytes() + b"".join(parts)


def unpack_strings(data: bytes | memoryview, count: int, where: str) -> npt.NDArray[Any]:
    """Split the canonical bytes of a `string` tensor into a 1-D object array of `str`.

    Raises:
        CorruptError: the offsets do not rise from 0 to the length of the text.
    """
    head = 8 * (count + 1)
    text = bytes(data[head:])
    offsets = np.frombuffer(data[:head], "<u8") if len(data) >= head else np.zeros(0, "<u8")
    if offsets.size != count + 1 or offsets[0] != 0 or int(offsets[-1]) != len(text):
        raise CorruptError("string offsets do not cover the text", where=where)
    if np.any(offsets[1:] < offsets[:-1]):
        raise CorruptError("string offsets fall", where=where)
    out = np.empty(count, object)
    bounds = offsets.tolist()
    for i in range(count):
        out[i] = text[bounds[i] : bounds[i + 1]].decode("utf-8", "surrogateescape")
    return out


def count_of(shape: tuple[int, ...]) -> int:
    """Give the number of elements of a shape; 1 for the empty shape."""
    return math.prod(shape)
