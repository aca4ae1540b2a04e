"""What Caffe2's operators on the CPU compute, in NumPy: what moves or takes together elements.

Written from what Caffe2 1.10 does, and as strict about types, arguments, ranks and sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from tests.models.exchange.caffe2_operators import ANY, FLOAT, NUMBERS, Array, operator


def _reducing(name: str, compute: Any) -> None:
    def run(x: Array, axes: list[int], keepdims: int = 1) -> Any:
        assert all(0 <= axis < x.ndim for axis in axes)
        assert len(set(axes)) == len(axes)
        return compute(x, axis=tuple(axes), keepdims=bool(keepdims))

    operator(name, types=NUMBERS if name in ("ReduceMax", "ReduceMin") else FLOAT)(run)


for _name, _compute in {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceL1": lambda x, **to: np.sum(np.abs(x), **to),
    "ReduceL2": lambda x, **to: np.sqrt(np.sum(x * x, **to)),
}.items():
    _reducing(_name, _compute)


@operator("ArgMax", types=NUMBERS)
def arg_max(x: Array, axis: int = -1, keepdims: int = 1) -> Any:
    assert 0 <= axis < x.ndim
    return np.argmax(x, axis, keepdims=bool(keepdims)).astype(np.int64)


@operator("ArgMin", types=NUMBERS)
def arg_min(x: Array, axis: int = -1, keepdims: int = 1) -> Any:
    assert 0 <= axis < x.ndim
    return np.argmin(x, axis, keepdims=bool(keepdims)).astype(np.int64)


@operator("TopK", outputs=2)
def top_k(x: Array, k: int, axis: int = -1) -> Any:
    assert 0 <= axis < x.ndim
    assert 0 < k <= x.shape[axis]
    order = np.argsort(-x, axis, kind="stable")
    chosen = np.take(order, range(k), axis)
    return np.take_along_axis(x, chosen, axis), chosen.astype(np.int64)


@operator("Reshape", types=ANY, outputs=2)
def reshape(x: Array, shape: list[int]) -> Any:
    sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    assert sizes.count(-1) <= 1
    assert x.size or -1 not in sizes
    return x.reshape(sizes), np.array(x.shape, np.int64)


@operator("Flatten", types=ANY)
def flatten(x: Array, axis: int = 1) -> Any:
    assert 0 <= axis <= x.ndim
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze", types=ANY)
def squeeze(x: Array, dims: list[int]) -> Any:
    assert dims
    assert min(dims) >= 0
    return np.squeeze(x, tuple(dims))


@operator("ExpandDims", types=ANY)
def expand_dims(x: Array, dims: list[int]) -> Any:
    assert dims
    assert min(dims) >= 0
    return np.expand_dims(x, tuple(dims))


@operator("Transpose", types=NUMBERS)
def transpose(x: Array, axes: list[int]) -> Any:
    assert sorted(axes) == list(range(x.ndim))
    return x.transpose(axes)


@operator("Concat", types=ANY, most=10**6, outputs=2)
def concat(*values: Array, axis: int) -> Any:
    assert axis >= 0
    assert len({value.dtype for value in values}) == 1
    return np.concatenate(values, axis), np.array([v.shape[axis] for v in values], np.int32)


@operator("Split", types=ANY)
def split(x: Array, axis: int, split: list[int]) -> Any:
    assert 0 <= axis < x.ndim
    assert sum(split) == x.shape[axis]
    return tuple(np.split(x, np.cumsum(split)[:-1], axis))


@operator("Slice", types=ANY)
def cut(x: Array, starts: list[int], ends: list[int]) -> Any:
    assert len(starts) == len(ends) <= x.ndim
    pairs: Iterable[tuple[int, int, int]] = zip(starts, ends, x.shape, strict=False)
    cuts = [tuple(at if at >= 0 else at + size + 1 for at in pair) for *pair, size in pairs]
    assert sum(pair != (0, size) for pair, size in zip(cuts, x.shape, strict=False)) <= 1
    assert all(0 <= first <= last for first, last in cuts)
    return x[tuple(slice(*pair) for pair in cuts)]


@operator("Gather", types=ANY, inputs=2)
def gather(x: Array, indices: Array, axis: int = 0, wrap_indices: int | None = None) -> Any:
    assert indices.dtype.name in ("int32", "int64")
    wraps = axis == 0 if wrap_indices is None else bool(wrap_indices)
    at = np.where(indices < 0, indices + x.shape[axis], indices) if wraps else indices
    assert not at.size or (at.min() >= 0 and at.max() < x.shape[axis])
    return np.take(x, at, axis)


@operator("Tile", types=(*NUMBERS, "uint8"))
def tile(x: Array, tiles: int, axis: int) -> Any:
    assert 0 <= axis < x.ndim
    return np.concatenate([x] * tiles, axis)
