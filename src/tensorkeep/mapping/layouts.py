"""Tensors made of others: axes in another order, other shapes, several joined, one cut up."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor


class Computed(Source):
    """The bytes of an array that is computed when it is read, and let go once its end was read."""

    __slots__ = ("_compute", "_lock", "_tensor")

    def __init__(self, compute: Callable[[], npt.NDArray[Any]], size: int, where: str) -> None:
        self._compute = compute
        self._tensor: Tensor | None = None
        self._lock = threading.Lock()
        super().__init__(size, where)

    def _read(self, start: int, stop: int) -> memoryview:
        with self._lock:
            if self._tensor is None:
                self._tensor = Tensor.of(self._compute(), self.where)
            tensor = self._tensor
            if stop == self.size:
                self._tensor = None
        return tensor.source.read(start, stop)


def _computed(
    kind: DType, shape: tuple[int, ...], nbytes: int, where: str, compute: Callable[[], Any]
) -> Tensor:
    return Tensor(kind, shape, Computed(compute, nbytes, where), 0, nbytes)


def _plain(tensor: Tensor, name: str, what: str) -> None:
    if str(tensor.dtype.kind) == "blocks":
        raise UnsupportedError(
            f"{name!r} is kept in blocks of {tensor.dtype}, which cannot be {what}",
            where=tensor.source.where,
            cure="Give a dtype such as float32 to unpack it first.",
        )


def permuted(tensor: Tensor, axes: Sequence[int], name: str) -> Tensor:
    """Order the axes anew, as `numpy.transpose` does.

    Raises:
        ArgumentError: `axes` does not name each axis once.

    >>> permuted(Tensor.of(np.arange(6).reshape(2, 3)), [1, 0], "w").numpy().tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    if sorted(axes) != list(range(tensor.ndim)):
        raise ArgumentError(
            f"axes {list(axes)} do not name each of the {tensor.ndim} axes of {name!r} once"
        )
    _plain(tensor, name, "transposed")
    shape = tuple(tensor.shape[axis] for axis in axes)
    return _computed(
        tensor.dtype,
        shape,
        tensor.nbytes,
        tensor.source.where,
        lambda: tensor.numpy().transpose(axes),
    )


def reshaped(tensor: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """Give another shape to the same elements: 0 keeps the axis of that place, -1 takes the rest.

    Raises:
        ArgumentError: the shape has another number of elements.

    >>> reshaped(Tensor.of(np.zeros((2, 3, 4))), [0, -1], "w").shape
    (2, 12)
    """
    wanted = []
    for at, length in enumerate(shape):
        if length == 0 and at >= tensor.ndim:
            raise ArgumentError(f"{name!r} of shape {tensor.shape} has no axis {at} to keep")
        wanted.append(tensor.shape[at] if length == 0 else length)
    known = math.prod(length for length in wanted if length != -1)
    if wanted.count(-1) == 1 and known and tensor.size % known == 0:
        wanted[wanted.index(-1)] = tensor.size // known
    if any(length < 0 for length in wanted) or math.prod(wanted) != tensor.size:
        raise ArgumentError(f"{name!r} of shape {tensor.shape} cannot be {list(shape)}")
    if str(tensor.dtype.kind) == "blocks" and tuple(wanted)[-1:] != tensor.shape[-1:]:
        _plain(tensor, name, "reshaped")
    return Tensor(tensor.dtype, tuple(wanted), tensor.source, tensor.offset, tensor.nbytes)


def joined(tensors: Sequence[Tensor], axis: int, name: str) -> Tensor:
    """Put tensors behind one another along an axis.

    Raises:
        ArgumentError: their dtypes or other axes differ.

    >>> w = Tensor.of(np.ones((1, 2)))
    >>> joined([w, w], 0, "w").shape
    (2, 2)
    """
    first = tensors[0]
    _axis(first, axis, name)
    for tensor in tensors:
        _plain(tensor, name, "joined")
        rest = [tensor.shape[:axis], tensor.shape[axis + 1 :]]
        if tensor.dtype is not first.dtype or rest != [first.shape[:axis], first.shape[axis + 1 :]]:
            raise ArgumentError(
                f"{name!r} cannot be joined along axis {axis}: {first!r} and {tensor!r}"
            )
    length = sum(tensor.shape[axis] for tensor in tensors)
    shape = (*first.shape[:axis], length, *first.shape[axis + 1 :])
    if first.dtype.kind == "string":
        return Tensor.of(np.concatenate([t.numpy() for t in tensors], axis), first.source.where)
    nbytes = first.dtype.nbytes(math.prod(shape))
    return _computed(
        first.dtype,
        shape,
        nbytes,
        first.source.where,
        lambda: np.concatenate([tensor.numpy() for tensor in tensors], axis),
    )


def cut(tensor: Tensor, axis: int, count: int, name: str) -> list[Tensor]:
    """Cut a tensor into `count` equal parts along an axis.

    Raises:
        ArgumentError: the axis is not a multiple of that.

    >>> [part.shape for part in cut(Tensor.of(np.zeros((6, 2))), 0, 3, "qkv")]
    [(2, 2), (2, 2), (2, 2)]
    """
    _axis(tensor, axis, name)
    _plain(tensor, name, "cut")
    length, left = divmod(tensor.shape[axis], count)
    if left:
        raise ArgumentError(
            f"{name!r} of shape {tensor.shape} cannot be cut into {count} along axis {axis}"
        )
    shape = (*tensor.shape[:axis], length, *tensor.shape[axis + 1 :])
    return [_part(tensor, axis, at * length, shape) for at in range(count)]


def _part(tensor: Tensor, axis: int, start: int, shape: tuple[int, ...]) -> Tensor:
    index = (*[slice(None)] * axis, slice(start, start + shape[axis]))
    if tensor.dtype.kind == "string":
        return Tensor.of(tensor[index], tensor.source.where)
    nbytes = tensor.dtype.nbytes(math.prod(shape))
    return _computed(tensor.dtype, shape, nbytes, tensor.source.where, lambda: tensor[index])


def _axis(tensor: Tensor, axis: int, name: str) -> None:
    if not 0 <= axis < tensor.ndim:
        raise ArgumentError(f"{name!r} of shape {tensor.shape} has no axis {axis}")
