"""How TensorFlow's element types lie in a file, and the translation of those that lie otherwise.

Elements below a byte take a byte each, and a bundle may be big endian. The numbers of the types are
those of types.proto in TensorFlow 2.21.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.source import Source
from tensorkeep.wire.elements import Packed, Swapped

_TYPES = (
    *("float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64", "int64"),
    *("bool", "int8", "uint8", "int32", "bfloat16", "int16", "uint16", "uint16", "complex128"),
    *("float16", "", "", "uint32", "uint64", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("", "float8_e5m2fnuz", "int4", "uint4", "int2", "uint2", "float4_e2m1fn"),
)
HELD = frozenset(DTYPES[name] for name in _TYPES if name)
_QUANTIZED = {11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16"}
_UNREAD = {20: "a resource", 21: "a variant", 27: "float8_e4m3b11fnuz"}


@dataclass(frozen=True, slots=True)
class Element:
    """An element type, the bytes that one takes in a file, and what there is to say of it."""

    dtype: DType
    width: int
    remark: str = ""


def element(number: int) -> Element | None:
    """Find the element type of a number of types.proto; None where it is not read here.

    >>> element(19).dtype.name, element(29).width, element(11).remark
    ('float16', 1, 'qint8')
    """
    kind = DTYPES.get(_TYPES[number - 1]) if 1 <= number <= len(_TYPES) else None
    if kind is None:
        return None
    return Element(kind, max(1, kind.bits // 8), _QUANTIZED.get(number, ""))


def describe(number: int) -> str:
    """Name a type that is not read here."""
    return _UNREAD.get(number, f"type {number}")


def translated(source: Source, offset: int, kind: Element, count: int, big: bool) -> Source | None:
    """Give the canonical bytes of elements that do not lie so; None where they do.

    Args:
        source: the bytes of a file.
        offset: where in it the elements start.
        kind: what they are.
        count: how many there are.
        big: whether they are big endian.
    """
    if kind.dtype.packed:
        return Packed(source, offset, kind.dtype, count)
    unit = kind.width // 2 if kind.dtype.kind == "complex" else kind.width
    return Swapped(source, offset, count * kind.width, unit) if big and unit > 1 else None
