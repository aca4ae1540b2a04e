"""Types of values: tensors with an element type and axes, and sequences, optionals and maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.graph import NUMBERS
from tensorkeep.graph.graph import Axis
from tensorkeep.graph.schema import TYPE
from tensorkeep.message import Message

# What the command line, NumPy and this library call an element type.
DTypeLike = str | DType | npt.DTypeLike

_ONNX = {
    "float32": "float",
    "float64": "double",
    "float4_e2m1fn": "float4e2m1",
    "float6_e2m3fn": "float6e2m3",
    "float6_e3m2fn": "float6e3m2",
    "float8_e8m0fnu": "float8e8m0",
}
_NAMES = {_ONNX.get(each.name, each.name.replace("_", "")): each for each in NUMBERS}
_TEXTS = {each: name for name, each in _NAMES.items()}
_DEEPEST = 32  # types in types
_ENDINGS = {"sequence": "seq", "optional": "optional", "sparse_tensor": "sparse_tensor"}


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a value.

    Attributes:
        kind: "tensor", "sparse_tensor", "sequence", "optional" or "map".
        dtype: the element type of a tensor; the keys' of a map.
        axes: sizes, or names of sizes that vary, or None where nothing is known; None where the
            rank is not known.
        of: the type of what a sequence, an optional or a map holds.
    """

    kind: str = "tensor"
    dtype: DType | None = None
    axes: tuple[Axis, ...] | None = None
    of: Type | None = None

    @property
    def text(self) -> str:
        """What ONNX calls it, apart from its axes.

        >>> sequence(tensor("float32", [3])).text
        'seq(tensor(float))'
        """
        if self.kind == "map" and self.dtype and self.of and self.of.dtype:
            return f"map({_TEXTS[self.dtype]}, {_TEXTS[self.of.dtype]})"
        if self.of is not None:
            return f"{_ENDINGS[self.kind]}({self.of.text})"
        return f"{self.kind}({_TEXTS[self.dtype]})" if self.dtype else self.kind

    def message(self) -> Message:
        """Give it as a TypeProto."""
        made = Message(TYPE)
        held = made.make(f"{self.kind}_type")
        if self.kind in ("tensor", "sparse_tensor"):
            assert self.dtype is not None
            held.elem_type = NUMBERS[self.dtype]
            if self.axes is not None:
                shape = held.make("shape")
                for axis in self.axes:
                    name = "dim_value" if isinstance(axis, int) else "dim_param"
                    shape.add("dim", **({} if axis is None else {name: axis}))
            return made
        assert self.of is not None
        if self.kind == "map":
            assert self.dtype is not None
            held.key_type = NUMBERS[self.dtype]
            held["value_type"] = self.of.message()
        else:
            held["elem_type"] = self.of.message()
        return made

    def __str__(self) -> str:
        if self.kind != "tensor" or self.dtype is None:
            return self.text
        if self.axes is None:
            return self.dtype.name
        return f"{self.dtype.name}[{', '.join('?' if a is None else str(a) for a in self.axes)}]"


def tensor(dtype: DTypeLike, axes: Iterable[Axis] | None = None) -> Type:
    """Give the type of a tensor.

    Args:
        dtype: its element type.
        axes: sizes, names of sizes that vary ("N"), or None for those that are not known.

    Raises:
        ArgumentError: there is no such type, or an axis is neither a size nor a name.
        UnsupportedError: ONNX has no such element type.

    >>> print(tensor("float32", ["N", 3, None]))
    float32[N, 3, ?]
    """
    kind = dtypes.dtype(dtype)
    if kind not in NUMBERS:
        raise UnsupportedError(f"ONNX has no element type {kind}")
    return Type("tensor", kind, None if axes is None else _check_axes(axes))


def sequence(of: Type) -> Type:
    """Give the type of a sequence whose items are of a type.

    Raises:
        ArgumentError: that is no type, or nests too deeply.
    """
    return Type("sequence", of=_held(of, "sequence"))


def optional(of: Type) -> Type:
    """Give the type of a value of a type that may be absent.

    Raises:
        ArgumentError: that is no type, or nests too deeply.
    """
    return Type("optional", of=_held(of, "optional"))


def map_of(keys: DTypeLike, values: DTypeLike) -> Type:
    """Give the type of a map, as of the operators for classic models.

    Raises:
        ArgumentError: its keys are neither integers nor text, or there is no such type.
        UnsupportedError: ONNX has no such element type.
    """
    kind = dtypes.dtype(keys)
    if kind.kind not in ("int", "uint", "string") or kind not in NUMBERS:
        raise ArgumentError(f"the keys of a map are integers or text, not {kind}")
    return Type("map", kind, of=tensor(values))


def named(text: str) -> Type | None:
    """Give the type that ONNX calls so; None where it is a label or not known.

    >>> print(named("seq(tensor(int64))"), named("double"), named("T"))
    seq(tensor(int64)) float64 None
    """
    if text in _NAMES:
        return Type("tensor", _NAMES[text])
    head, _, rest = text.removesuffix(")").partition("(")
    if head == "tensor":
        return named(rest)
    for kind in ("sequence", "optional"):
        if head == _ENDINGS[kind] and (held := named(rest)):
            return Type(kind, of=held)
    return None


def _held(of: object, kind: str) -> Type:
    """Give what a type holds, if it is a type."""
    cure = f'Give it as in {kind}(tensor("float32", ["N"])).'
    if not isinstance(of, Type):
        raise ArgumentError(f"{of!r} is not what a type can hold", cure=cure)
    levels, inner = 1, of.of
    while inner is not None:
        levels, inner = levels + 1, inner.of
    if levels > _DEEPEST:
        raise ArgumentError(f"types nest at most {_DEEPEST} levels deep here", cure=cure)
    return of


def _check_axes(axes: Iterable[Any]) -> tuple[Axis, ...]:
    cure = 'Give sizes, names of sizes that vary, or None, such as ["N", 3, None].'
    if isinstance(axes, str | bytes) or not isinstance(axes, Iterable):
        raise ArgumentError(f"axes are a list, not {axes!r}", cure=cure)
    listed = tuple(int(axis) if isinstance(axis, np.integer) else axis for axis in axes)
    for axis in listed:
        good = isinstance(axis, int) and not isinstance(axis, bool) and 0 <= axis < 1 << 63
        if not (axis is None or good or (isinstance(axis, str) and axis)):
            raise ArgumentError(f"{axis!r} is no axis", cure=cure)
    return listed
