"""What a node is given, as the rules for types and shapes see it, and sizes taken together.

A size that varies is its name, one that is not known is None, and so are the dims of a value of
unknown rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tensorkeep.tensor import Tensor

Size = int | str | None
Dims = tuple[Size, ...] | None
Known = tuple[int | None, ...]
Made = tuple[str, Dims]
Rule = Callable[["Call"], list[Made]]

_SMALL = 4096


class Call(NamedTuple):
    """A node: what is known of its inputs."""

    operator: str
    types: list[str]
    dims: list[Dims]
    attributes: dict[str, Any]
    tensors: list[Tensor | None]
    outputs: int

    @property
    def type(self) -> str:
        """The type of the first input."""
        return self.types[0] if self.types else ""

    @property
    def first(self) -> Dims:
        """The dims of the first input."""
        return self.dims[0] if self.dims else None

    def integers(self, index: int) -> list[int] | None:
        """Give a constant input as integers; None where it is computed."""
        tensor = self.tensors[index] if index < len(self.tensors) else None
        if tensor is None or tensor.size > _SMALL or tensor.dtype.kind not in ("int", "uint"):
            return None
        return [int(value) for value in tensor.numpy().reshape(-1)]

    def floats(self, index: int) -> list[float] | None:
        """Give a constant input as floats; None where it is computed."""
        tensor = self.tensors[index] if index < len(self.tensors) else None
        if tensor is None or tensor.size > _SMALL or tensor.dtype.kind != "float":
            return None
        return [float(value) for value in tensor.numpy().reshape(-1)]


def numbers(dims: Sequence[Size]) -> Known:
    """Give sizes, None for those that are no numbers."""
    return tuple(size if isinstance(size, int) else None for size in dims)


def broadcast(several: Sequence[Dims]) -> Dims:
    """Give the dims that values have together under NumPy's rules.

    >>> broadcast([(2, None, 4), (5, 1)])
    (2, 5, 4)
    """
    if any(dims is None for dims in several):
        return None
    rank = max((len(dims or ()) for dims in several), default=0)
    found: list[Size] = []
    for place in range(-rank, 0):
        sizes = {dims[place] for dims in several if dims is not None and len(dims) >= -place}
        fixed = {size for size in sizes if isinstance(size, int) and size != 1}
        others = sizes - {1}
        if fixed or len(others) > 1:
            found.append(next(iter(fixed), None))
        else:
            found.append(next(iter(others), 1))
    return tuple(found)


def product(dims: Sequence[Size]) -> Size:
    """Multiply sizes; None where one is not known."""
    rest = [size for size in dims if size != 1]
    if len(rest) == 1:
        return rest[0]
    known = [size for size in rest if isinstance(size, int)]
    return math.prod(known) if len(known) == len(rest) else None


def scaled(size: Size, by: float) -> Size:
    """Multiply a size, and round down."""
    if by == 1:
        return size
    return math.floor(size * by) if isinstance(size, int) else None
