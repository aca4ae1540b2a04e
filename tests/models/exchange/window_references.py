"""What windows that slide over tensors give, written as plain loops, for tests to compare with."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.models.exchange.nnef_texts import Case, check_cases

Pairs = Sequence[tuple[int, int]]


def check(
    cases: Sequence[Case],
    inputs: Mapping[str, np.ndarray],
    variables: Mapping[str, np.ndarray] = {},
    *,
    tolerance: float = 1e-5,
) -> None:
    """Check cases in a graph that has no more inputs and variables than they name."""
    words = {word for expression, _ in cases for word in re.findall(r"\w+", expression)}
    check_cases(
        cases,
        {name: array for name, array in inputs.items() if name in words},
        {name: array for name, array in variables.items() if name in words},
        tolerance=tolerance,
    )


def place(index: int, size: int, border: str) -> int | None:
    """Give where an index beyond an axis is taken from; None for nowhere."""
    if 0 <= index < size:
        return index
    if border == "replicate":
        return 0 if index < 0 else size - 1
    if border == "reflect":
        return -index if index < 0 else 2 * size - 2 - index
    if border == "reflect-even":
        return -index - 1 if index < 0 else 2 * size - 1 - index
    return None


def geometry(
    wide: Sequence[int],
    size: Sequence[int],
    padding: Pairs,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Pairs, Sequence[int], Sequence[int], list[int]]:
    """Give padding, strides, dilations and the sizes of what a window makes of a tensor."""
    rank = len(size)
    stride, dilation = stride or [1] * rank, dilation or [1] * rank
    if not padding:
        padding = []
        for n, k, s, d in zip(wide, size, stride, dilation, strict=True):
            missing = max(0, (int(np.ceil(n / s)) - 1) * s + (k - 1) * d + 1 - n)
            padding.append((missing // 2, missing - missing // 2))
    narrow = [
        (n + p + q - ((k - 1) * d + 1)) // s + 1
        for n, k, (p, q), s, d in zip(wide, size, padding, stride, dilation, strict=True)
    ]
    return padding, stride, dilation, narrow


def slots(
    x: np.ndarray,
    size: Sequence[int],
    border: str = "constant",
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Give the elements of each window on the last axis, and which of them are in the tensor."""
    padding, stride, dilation, narrow = geometry(x.shape, size, padding, stride, dilation)
    values = np.zeros((*narrow, int(np.prod(size))), x.dtype)
    inside = np.ones(values.shape, bool)
    for at in np.ndindex(*narrow):
        for slot, tap in enumerate(np.ndindex(*size)):
            index = [
                place(o * s + t * d - p, n, border)
                for o, s, t, d, (p, _), n in zip(
                    at, stride, tap, dilation, padding, x.shape, strict=True
                )
            ]
            if None in index:
                inside[(*at, slot)] = False
            else:
                values[(*at, slot)] = x[tuple(index)]
    return values, inside


def box(
    x: np.ndarray,
    size: Sequence[int],
    border: str = "constant",
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
    normalize: bool = False,
) -> Any:
    values, inside = slots(x, size, border, padding, stride, dilation)
    total = values.sum(-1)
    if not normalize:
        return total
    count = inside.sum(-1) if border == "ignore" else values.shape[-1]
    return (total / count).astype(x.dtype)


def max_pool(
    x: np.ndarray,
    size: Sequence[int],
    border: str = "constant",
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> Any:
    values, inside = slots(x, size, border, padding, stride, dilation)
    return (np.where(inside, values, -np.inf) if border == "ignore" else values).max(-1)


def argmax_pool(
    x: np.ndarray,
    size: Sequence[int],
    border: str = "constant",
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> Any:
    values, inside = slots(x, size, border, padding, stride, dilation)
    values = np.where(inside, values, -np.inf) if border == "ignore" else values
    return values.argmax(-1)


def sample(
    x: np.ndarray,
    index: np.ndarray,
    size: Sequence[int],
    border: str = "constant",
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> Any:
    values, _ = slots(x, size, border, padding, stride, dilation)
    return np.take_along_axis(values, index[..., None], -1)[..., 0]


def unpool(
    x: np.ndarray,
    size: Sequence[int],
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
    output_shape: Sequence[int] = (),
    index: np.ndarray | None = None,
) -> Any:
    """Add each element to all places of its window, or to the one that an index says."""
    rank = len(size)
    stride, dilation = stride or [1] * rank, dilation or [1] * rank
    wide = list(output_shape)
    if not wide and padding:
        wide = [
            (n - 1) * s + (k - 1) * d + 1 - p - q
            for n, k, (p, q), s, d in zip(x.shape, size, padding, stride, dilation, strict=True)
        ]
    wide = wide or [n * s for n, s in zip(x.shape, stride, strict=True)]
    padding, stride, dilation, _ = geometry(wide, size, padding, stride, dilation)
    result = np.zeros(wide, x.dtype)
    for at in np.ndindex(*x.shape):
        for slot, tap in enumerate(np.ndindex(*size)):
            if index is not None and index[at] != slot:
                continue
            rows = zip(at, stride, tap, dilation, padding, strict=True)
            to = tuple(o * s + t * d - p for o, s, t, d, (p, _) in rows)
            if all(0 <= t < n for t, n in zip(to, wide, strict=True)):
                result[to] += x[at]
    return result


def conv(
    x: np.ndarray,
    filter: np.ndarray,
    bias: npt.ArrayLike = 0.0,
    groups: int = 1,
    border: str = "constant",
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> Any:
    groups = groups or x.shape[1]
    each, made = x.shape[1] // groups, filter.shape[0] // groups
    results = []
    for channel in range(filter.shape[0]):
        first = channel // made * each
        values, _ = slots(
            x[:, first : first + each],
            [1, each, *filter.shape[2:]],
            border,
            [(0, 0), (0, 0), *padding] if padding else _around(x, filter, each, stride, dilation),
            [1, 1, *(stride or [1] * (x.ndim - 2))],
            [1, 1, *(dilation or [1] * (x.ndim - 2))],
        )
        results.append((values * filter[channel].reshape(-1)).sum(-1))
    joined = np.concatenate(results, 1)
    return (joined + np.reshape(bias, (1, -1, *[1] * (x.ndim - 2)))).astype(x.dtype)


def _around(
    x: np.ndarray, filter: np.ndarray, each: int, stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    shape = x.shape[2:]
    return [(0, 0), (0, 0), *geometry(shape, filter.shape[2:], (), stride, dilation)[0]]


def deconv(
    x: np.ndarray,
    filter: np.ndarray,
    bias: npt.ArrayLike = 0.0,
    groups: int = 1,
    padding: Pairs = (),
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
    output_shape: Sequence[int] = (),
) -> Any:
    groups = groups or (output_shape[1] if output_shape else x.shape[1])
    each = x.shape[1] // groups
    batches = []
    for batch in x:
        channels = []
        for channel in range(filter.shape[1] * groups):
            group, inner = divmod(channel, filter.shape[1])
            total = 0.0
            for number in range(group * each, (group + 1) * each):
                taps = filter[number, inner]
                for slot, weight in enumerate(taps.reshape(-1)):
                    index = np.full(batch[number].shape, slot)
                    total = total + weight * unpool(
                        batch[number],
                        taps.shape,
                        padding,
                        stride,
                        dilation,
                        output_shape[2:],
                        index,
                    )
            channels.append(total)
        batches.append(np.stack(channels))
    made = np.stack(batches) + np.reshape(bias, (1, -1, *[1] * (x.ndim - 2)))
    return made.astype(x.dtype)
