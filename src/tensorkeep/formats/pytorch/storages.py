"""Storages: the flat arrays that tensors look at, by the names that pickles give their types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorkeep.dtypes import DTYPES, FLOAT4_E2M1FN, INT8, INT32, UINT8, DType
from tensorkeep.errors import CorruptError
from tensorkeep.source import Source
from tensorkeep.wire.pickle.values import Known, shown

_SAME = """
bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64
complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
"""

# The element types of torch that are held as they are, and how.
TYPES: dict[str, DType] = {
    **{name: DTYPES[name] for name in _SAME.split()},
    "float4_e2m1fn_x2": FLOAT4_E2M1FN,
    "qint8": INT8,
    "quint8": UINT8,
    "qint32": INT32,
}

# Those that are not: their bytes in an element.
OTHER_TYPES = {
    "complex32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
    **{f"bits{n}": 1 for n in ("1x8", "2x4", "4x2", "8")},
    "bits16": 2,
    **{f"{sign}{n}": 1 for sign in ("int", "uint") for n in range(1, 8)},
}
WIDTHS = {name: max(1, kind.bits // 8) for name, kind in TYPES.items()} | OTHER_TYPES

UNTYPED = "untyped"
_CLASSES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
    "Untyped": UNTYPED,
    "_Untyped": UNTYPED,
}
STORAGES = {f"{name}Storage": kind for name, kind in _CLASSES.items()}
MODULES = ("torch", "torch.cuda", "torch.storage")


class Storage:
    """A flat array in a file: its element type by torch's name, and where its bytes are.

    `source` stays None until it is known where they are.
    """

    __slots__ = ("check", "kind", "nbytes", "numel", "source", "start", "swapped")

    def __init__(self, kind: str, numel: int) -> None:
        self.kind = kind
        self.numel = numel
        self.nbytes = numel * width_of(kind)
        self.source: Source | None = None
        self.start = 0
        self.swapped = False
        self.check: Callable[[], None] | None = None


def width_of(kind: str) -> int:
    """Give the bytes of an element of a storage."""
    return 1 if kind == UNTYPED else WIDTHS[kind]


def storage_kind(cls: Any, where: str) -> str:
    """Give the element type of a class of storages, by torch's name.

    Raises:
        CorruptError: it is no such class.
    """
    if isinstance(cls, Known) and cls.module in MODULES and cls.name in STORAGES:
        return STORAGES[cls.name]
    raise CorruptError(f"keeps a storage of the unknown class {shown(cls)}", where=where)


def read_identifier(identifier: Any, where: str) -> tuple[str, str, int]:
    """Read what names a storage: its element type, its key and the number of its elements.

    Raises:
        CorruptError: it is something else.
    """
    if type(identifier) is not tuple or len(identifier) < 5 or identifier[0] != "storage":
        raise CorruptError("its pickle speaks of something else than a storage", where=where)
    _, cls, key, _, numel = identifier[:5]
    if type(key) is not str or type(numel) is not int or not 0 <= numel < 2**60:
        raise CorruptError("its pickle names a storage without a key or a size", where=where)
    return storage_kind(cls, where), key, numel
