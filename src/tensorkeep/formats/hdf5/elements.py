"""Which element type an HDF5 datatype is, told from its class and its bit fields.

Floats are known by their fields, not by name, so that the types that HDF5 2.0 has names for
(bfloat16 and the two 8-bit ones) are read from files of any version. What has no datatype in HDF5
is an unsigned integer, or an opaque of the same width as h5py makes of ml_dtypes' arrays, with an
attribute `dtype` that names it: Keras's convention, and ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.formats.hdf5.file import h5py

TAG = "dtype"
SHAPE = "shape"

# Bytes, then sign, exponent and mantissa (where, and how wide), then the exponent's bias.
FLOATS: dict[tuple[int, tuple[int, ...], int], DType] = {
    (1, (7, 2, 5, 0, 2), 15): dtypes.FLOAT8_E5M2,
    (1, (7, 3, 4, 0, 3), 7): dtypes.FLOAT8_E4M3FN,
    (2, (15, 7, 8, 0, 7), 127): dtypes.BFLOAT16,
    (2, (15, 10, 5, 0, 10), 15): dtypes.FLOAT16,
    (4, (31, 23, 8, 0, 23), 127): dtypes.FLOAT32,
    (8, (63, 52, 11, 0, 52), 1023): dtypes.FLOAT64,
}
_COMPLEX = {dtypes.FLOAT32: dtypes.COMPLEX64, dtypes.FLOAT64: dtypes.COMPLEX128}
_PARTS = {(b"r", b"i"), (b"re", b"im"), (b"real", b"imag"), (b"real", b"imaginary")}
_BOOLEAN = {b"FALSE": 0, b"TRUE": 1}


@dataclass(frozen=True, slots=True)
class Elements:
    """How the elements of a dataset are stored.

    Args:
        dtype: what they are; None where nothing here holds them.
        width: bytes of one number, which is what byte order is about.
        swapped: whether its bytes stand in big-endian order.
        inner: axes that each element has of its own.
        remark: what a reader should know; the reason, where `dtype` is None.
        text: "fixed" or "variable" for strings.
        raw: whether nothing but its width is known, so that a tag may say what it is.
    """

    dtype: DType | None
    width: int = 1
    swapped: bool = False
    inner: tuple[int, ...] = ()
    remark: str = ""
    text: str = ""
    raw: bool = False


def elements_of(kind: Any) -> Elements:
    """Say what a low-level `h5py.h5t.TypeID` describes."""
    return _described(kind.encode())


@lru_cache(1024)
def _described(encoded: bytes) -> Elements:
    return _describe(h5py().h5t.decode(encoded))


def _describe(kind: Any) -> Elements:
    h5t = h5py().h5t
    what, size = kind.get_class(), kind.get_size()
    if what in (h5t.INTEGER, h5t.BITFIELD):
        return _integer(kind, size, signed=what == h5t.INTEGER and kind.get_sign() != 0)
    if what == h5t.FLOAT:
        return _float(kind, size)
    if what == h5t.ENUM:
        return _enum(kind)
    if what == h5t.STRING:
        variable = kind.is_variable_str()
        return Elements(dtypes.STRING, size, text="variable" if variable else "fixed")
    if what == h5t.OPAQUE:
        tag = kind.get_tag().decode(errors="replace")
        remark = f"opaque, {size} bytes each" + (f", tagged {tag!r}" if tag else "")
        return Elements(dtypes.UINT8, inner=(size,), remark=remark, raw=True)
    if what == h5t.ARRAY:
        base = elements_of(kind.get_super())
        return replace(base, inner=(*kind.get_array_dims(), *base.inner), raw=False)
    if what == h5t.COMPOUND:
        return _compound(kind, size)
    names = {h5t.REFERENCE: "references to objects", h5t.VLEN: "lists of varying length"}
    return Elements(None, remark=f"holds {names.get(what, 'elements of an unknown class')}")


def _integer(kind: Any, size: int, *, signed: bool) -> Elements:
    bits = kind.get_precision()
    if size not in (1, 2, 4, 8) or bits != 8 * size:
        return Elements(None, remark=f"holds integers of {bits} bits in {size} bytes")
    found = DTYPES[f"{'int' if signed else 'uint'}{bits}"]
    return _ordered(kind, Elements(found, size, raw=not signed))


def _float(kind: Any, size: int) -> Elements:
    h5t = h5py().h5t
    found = FLOATS.get((size, tuple(kind.get_fields()), kind.get_ebias()))
    if found is None or kind.get_norm() != h5t.NORM_IMPLIED:
        return Elements(
            None, remark=f"holds floats of {kind.get_precision()} bits, of no usual kind"
        )
    return _ordered(kind, Elements(found, size))


def _ordered(kind: Any, elements: Elements) -> Elements:
    h5t = h5py().h5t
    order = kind.get_order()
    if elements.width == 1 or order == h5t.ORDER_LE:
        return elements
    if order == h5t.ORDER_BE:
        return replace(elements, swapped=True, remark="big-endian")
    return Elements(None, remark="holds numbers in the byte order of a VAX")


def _enum(kind: Any) -> Elements:
    members = {
        kind.get_member_name(i): kind.get_member_value(i) for i in range(kind.get_nmembers())
    }
    base = elements_of(kind.get_super())
    if members == _BOOLEAN and base.width == 1:
        return Elements(dtypes.BOOL)
    listed = ", ".join(f"{k.decode(errors='replace')}={v}" for k, v in list(members.items())[:8])
    more = ", ..." if len(members) > 8 else ""
    return replace(base, remark=f"an enumeration: {listed}{more}", raw=False)


def _compound(kind: Any, size: int) -> Elements:
    count = kind.get_nmembers()
    names = tuple(kind.get_member_name(i) for i in range(count))
    if names in _PARTS:
        parts = [elements_of(kind.get_member_type(i)) for i in range(count)]
        offsets = [kind.get_member_offset(i) for i in range(count)]
        both = _COMPLEX.get(parts[0].dtype) if parts[0].dtype else None
        width = parts[0].width
        if both and parts[0] == parts[1] and offsets == [0, width] and size == 2 * width:
            return replace(parts[0], dtype=both)
    listed = ", ".join(name.decode(errors="replace") for name in names[:8])
    return Elements(None, remark=f"holds records of the fields {listed}")
