"""NumPy's arrays, scalars and types in pickles, as its own reducing functions write them.

An array is `_reconstruct(ndarray, (0,), b"b")` with the state (version, shape, type, Fortran order,
bytes), or `_frombuffer(bytes, type, shape, order)` in protocol 5. A type is `dtype("f4", ...)` with
a state that starts with a version and the byte order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.wire.pickle.values import Buildable, Known, Opaque, shown

_WHERE = "the pickle"
_MAX_AXES = 64
_CODE = re.compile(r"[biufcSU][0-9]{1,9}")
_ML_TYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in dir(ml_dtypes)
    if isinstance(getattr(ml_dtypes, name), type)
    and name.startswith(("bfloat", "float", "int", "uint"))
}


class ArrayType(Buildable):
    """An element type: its code, and its byte order once the state is given."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if isinstance(code, Known | Opaque):  # a type of ml_dtypes, or a class such as np.float32
            code = code.name
        self.code = code
        self.order = "="

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise CorruptError("its pickle has a NumPy type of no byte order", where=_WHERE)
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """Give NumPy's own type.

        Raises:
            UnsupportedError: it holds objects, or is a structure, a date or unknown.
        """
        if type(self.code) is str:
            if _CODE.fullmatch(self.code):
                try:
                    return np.dtype(f"{'>' if self.order == '>' else '<'}{self.code}")
                except TypeError:
                    pass
            if self.code in _ML_TYPES:
                return _ML_TYPES[self.code]
        raise UnsupportedError(f"a NumPy array of type {shown(self.code)}")


class PickledArray(Buildable):
    """An array as a pickle holds it: bytes, a type and a shape."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __init__(self) -> None:
        self.shape: Any = (0,)
        self.kind: Any = ArrayType("f8")
        self.fortran = False
        self.data: Any = b""

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) not in (4, 5):
            raise CorruptError("its pickle has a NumPy array of no known state", where=_WHERE)
        self.shape, self.kind, fortran, self.data = state[-4:]
        self.fortran = fortran is True or fortran == 1

    def numpy(self) -> npt.NDArray[Any]:
        """Give the array; it shares the bytes.

        Raises:
            CorruptError: the parts contradict one another.
            UnsupportedError: it holds objects, or is of another type without an equal here.
        """
        kind = type_of(self.kind)
        shape = self.shape
        if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
            raise CorruptError("its pickle has a NumPy array of no shape", where=_WHERE)
        raw = self.data
        if type(raw) is str:  # of Python 2, where all of it happened to be text
            raw = raw.encode()
        if type(raw) not in (bytes, bytearray):
            raise UnsupportedError("a NumPy array of objects")
        if len(shape) > _MAX_AXES or math.prod(n or 1 for n in shape) >= 2**59:
            raise CorruptError("its pickle has a NumPy array of an impossible shape", where=_WHERE)
        count = math.prod(shape)
        if not kind.itemsize or len(raw) != count * kind.itemsize:
            raise CorruptError(
                f"its pickle has a NumPy array of {len(raw):,} bytes where its shape takes "
                f"{count * kind.itemsize:,}",
                where=_WHERE,
            )
        if not count:
            return np.zeros(shape, kind)
        return np.ndarray(shape, kind, raw, order="F" if self.fortran else "C")


class PickledScalar:
    """A NumPy scalar."""

    __slots__ = ("data", "kind")

    def __init__(self, kind: Any, data: Any = b"") -> None:
        self.kind = kind
        self.data = data

    def numpy(self) -> npt.NDArray[Any]:
        """Give the scalar as an array without axes.

        Raises:
            CorruptError: the parts contradict one another.
            UnsupportedError: it holds an object, or is of another type without an equal here.
        """
        array = PickledArray()
        array.shape, array.kind, array.data = (), self.kind, self.data
        return array.numpy()


def type_of(kind: Any) -> np.dtype[Any]:
    """Give the NumPy type that a pickled one means."""
    if isinstance(kind, ArrayType):
        return kind.numpy()
    if isinstance(kind, str):
        return ArrayType(kind).numpy()
    raise CorruptError("its pickle has a NumPy array of no type", where=_WHERE)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    if isinstance(kind, Known) and kind.name == "ndarray":
        return PickledArray()
    if isinstance(kind, Opaque):  # a subclass, such as a matrix
        return Opaque(kind.module, kind.name, (shape, code))
    raise TypeError("it makes an array of what is none")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> PickledArray:
    if order not in ("C", "F"):
        raise TypeError("an array is neither in C nor in Fortran order")
    made = PickledArray()
    made.data, made.kind, made.shape, made.fortran = data, kind, shape, order == "F"
    return made


def _never(*args: Any) -> Any:
    raise TypeError("it is named, never called, in an honest pickle")


def _numpy_names() -> dict[tuple[str, str], Callable[..., Any]]:
    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): _never,
        ("numpy", "dtype"): ArrayType,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        names[f"{core}.multiarray", "scalar"] = PickledScalar
        names[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for kind in ("bool_", *(f"{k}{bits}" for k in ("int", "uint") for bits in (8, 16, 32, 64))):
        names["numpy", kind] = _never
    for kind in ("float16", "float32", "float64", "complex64", "complex128"):
        names["numpy", kind] = _never
    names.update({("ml_dtypes", name): _never for name in _ML_TYPES})
    return names


ARRAYS = _numpy_names()
