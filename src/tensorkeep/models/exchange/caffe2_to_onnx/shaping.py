"""Types and shapes of what ONNX nodes make, as far as they follow from what is known before.

It covers what the translation emits; an operator without a rule gives values of which nothing is
known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorkeep.graph import KINDS
from tensorkeep.models.exchange.caffe2_to_onnx.sizes import (
    Call,
    Dims,
    Made,
    Rule,
    Size,
    broadcast,
    numbers,
    product,
    scaled,
)
from tensorkeep.models.exchange.caffe2_to_onnx.spatial_shaping import SPATIAL_RULES
from tensorkeep.tensor import Tensor


def infer(call: Call) -> list[Made]:
    """Give type and dims of each output; fewer where there is no rule.

    >>> infer(Call("Flatten", ["float32"], [(None, 3, 4)], {"axis": 1}, [None], 1))
    [('float32', (None, 12))]
    """
    rule = _RULES.get(call.operator)
    return [] if rule is None else rule(call)


def _same(call: Call) -> list[Made]:
    return [(call.type, call.first)]


def _elementwise(call: Call) -> list[Made]:
    return [(call.type, broadcast(call.dims))]


def _compare(call: Call) -> list[Made]:
    return [("bool", broadcast(call.dims))]


def _where(call: Call) -> list[Made]:
    return [(call.types[1], broadcast(call.dims))]


def _cast(call: Call) -> list[Made]:
    return [(KINDS[call.attributes["to"]].name, call.first)]


def _gemm(call: Call) -> list[Made]:
    a, b = call.dims[0], call.dims[1]
    rows = a[1 if call.attributes.get("transA") else 0] if a is not None and len(a) == 2 else None
    cols = b[0 if call.attributes.get("transB") else 1] if b is not None and len(b) == 2 else None
    return [(call.type, (rows, cols))]


def _matmul(call: Call) -> list[Made]:
    a, b = call.dims[0], call.dims[1]
    if a is None or b is None:
        return [(call.type, None)]
    left = a[:-1] if len(a) > 1 else ()
    right = b[-1:] if len(b) > 1 else ()
    batch = broadcast([a[:-2], b[:-2]]) or ()
    return [(call.type, (*batch, *left[-1:], *right))]


def _reshape(call: Call) -> list[Made]:
    wanted = call.integers(1)
    if wanted is None:
        sizes = call.dims[1]
        return [(call.type, _of_length(sizes))]
    dims = call.first
    found: list[Size] = []
    for index, size in enumerate(wanted):
        if size == 0:
            found.append(dims[index] if dims is not None and index < len(dims) else None)
        else:
            found.append(None if size < 0 else size)
    if -1 in wanted and dims is not None:
        found[wanted.index(-1)] = _left_over(dims, wanted, found)
    return [(call.type, tuple(found))]


def _left_over(dims: Sequence[Size], wanted: list[int], found: list[Size]) -> Size:
    """Work out the size that -1 stands for; sizes that are kept cancel out, known or not."""
    kept = {i for i, size in enumerate(wanted) if size == 0 and i < len(dims)}
    rest = [size for i, size in enumerate(dims) if i not in kept]
    outer = numbers([size for i, size in enumerate(found) if i not in kept and wanted[i] != -1])
    varying = [size for size in rest if not isinstance(size, int)]
    if len(varying) == 1 and None not in outer:
        whole = math.prod(size for size in rest if isinstance(size, int))
        return varying[0] if whole == math.prod(size or 0 for size in outer) else None
    inner = numbers(rest)
    if None in inner or None in outer:
        return None
    given = math.prod(size for size in inner if size is not None)
    taken = math.prod(size for size in outer if size is not None)
    return given // taken if taken and given % taken == 0 else None


def _flatten(call: Call) -> list[Made]:
    dims = call.first
    if dims is None:
        return [(call.type, (None, None))]
    axis = call.attributes.get("axis", 1)
    axis += len(dims) if axis < 0 else 0
    return [(call.type, (product(dims[:axis]), product(dims[axis:])))]


def _transpose(call: Call) -> list[Made]:
    dims, axes = call.first, call.attributes.get("perm")
    if dims is None:
        return [(call.type, None if axes is None else (None,) * len(axes))]
    axes = range(len(dims))[::-1] if axes is None else axes
    if len(axes) != len(dims):
        return [(call.type, None)]
    return [(call.type, tuple(dims[axis] for axis in axes))]


def _squeeze(call: Call) -> list[Made]:
    dims, axes = call.first, call.integers(1)
    if dims is None or axes is None:
        return [(call.type, None)]
    gone = {axis % len(dims) if dims else 0 for axis in axes}
    return [(call.type, tuple(size for i, size in enumerate(dims) if i not in gone))]


def _unsqueeze(call: Call) -> list[Made]:
    dims, axes = call.first, call.integers(1)
    if dims is None or axes is None:
        return [(call.type, None)]
    rank = len(dims) + len(axes)
    fresh = {axis % rank for axis in axes}
    left = iter(dims)
    return [(call.type, tuple(1 if i in fresh else next(left) for i in range(rank)))]


def _concat(call: Call) -> list[Made]:
    known = [dims for dims in call.dims if dims is not None]
    if not known:
        return [(call.type, None)]
    rank, axis = len(known[0]), call.attributes["axis"]
    if any(len(dims) != rank for dims in known) or not -rank <= axis < rank:
        return [(call.type, None)]
    axis %= rank
    found: list[Size] = []
    for i in range(rank):
        sizes = {dims[i]: None for dims in known}
        fixed = [size for size in numbers(list(sizes)) if size is not None]
        if i != axis:
            found.append(fixed[0] if fixed else next(iter(sizes)) if len(sizes) == 1 else None)
        else:
            parts = numbers([dims[i] for dims in known])
            whole = len(known) == len(call.dims) and None not in parts
            found.append(sum(size or 0 for size in parts) if whole else None)
    return [(call.type, tuple(found))]


def _split(call: Call) -> list[Made]:
    dims, sizes = call.first, call.integers(1)
    axis = call.attributes.get("axis", 0)
    if dims is None or not -len(dims) <= axis < len(dims):
        return [(call.type, None)] * call.outputs
    whole = dims[axis % len(dims)]
    alone = sizes is None and len(call.types) < 2
    if alone and isinstance(whole, int) and whole % call.outputs == 0:
        sizes = [whole // call.outputs] * call.outputs
    parts: list[int | None] = list(sizes) if sizes is not None else [None] * call.outputs
    found: list[Made] = []
    for size in parts:
        here = list(dims)
        here[axis % len(dims)] = size
        found.append((call.type, tuple(here)))
    return found


def _slice(call: Call) -> list[Made]:
    dims, starts, ends = call.first, call.integers(1), call.integers(2)
    axes = call.integers(3)
    if dims is None or starts is None or ends is None:
        return [(call.type, None if dims is None else (None,) * len(dims))]
    steps = call.integers(4) if len(call.types) > 4 else [1] * len(starts)
    found = list(dims)
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        size = dims[axis]
        found[axis] = None
        if isinstance(size, int) and steps is not None and steps[i]:
            found[axis] = len(range(size)[slice(starts[i], ends[i], steps[i])])
    return [(call.type, tuple(found))]


def _pad(call: Call) -> list[Made]:
    dims, pads = call.first, call.integers(1)
    if dims is None or pads is None or len(call.types) > 3 or len(pads) != 2 * len(dims):
        return [(call.type, None if dims is None else (None,) * len(dims))]
    ends = zip(pads[: len(dims)], pads[len(dims) :], strict=True)
    return [
        (call.type, tuple(_padded(size, a + b) for size, (a, b) in zip(dims, ends, strict=True)))
    ]


def _padded(size: Size, by: int) -> Size:
    if not by:
        return size
    return size + by if isinstance(size, int) else None


def _tile(call: Call) -> list[Made]:
    dims, times = call.first, call.integers(1)
    if dims is None or times is None or len(times) != len(dims):
        return [(call.type, None if dims is None else (None,) * len(dims))]
    return [(call.type, tuple(scaled(size, by) for size, by in zip(dims, times, strict=True)))]


def _expand(call: Call) -> list[Made]:
    wanted = call.integers(1)
    shape = _of_length(call.dims[1]) if wanted is None else tuple(wanted)
    return [(call.type, broadcast([call.first, shape]))]


def _gather(call: Call) -> list[Made]:
    dims, indices, axis = call.first, call.dims[1], call.attributes.get("axis", 0)
    if dims is None or indices is None or not dims:
        return [(call.type, None)]
    axis %= len(dims)
    return [(call.type, (*dims[:axis], *indices, *dims[axis + 1 :]))]


def _shape(call: Call) -> list[Made]:
    return [("int64", (None if call.first is None else len(call.first),))]


def _reduce(call: Call) -> list[Made]:
    dims, axes = call.first, call.integers(1)
    keeps = call.attributes.get("keepdims", 1)
    if dims is None or (axes is None and len(call.types) > 1):
        return [(call.type, () if not keeps and len(call.types) < 2 else None)]
    gone = {axis % len(dims) for axis in axes} if axes and dims else set(range(len(dims)))
    if keeps:
        return [(call.type, tuple(1 if i in gone else size for i, size in enumerate(dims)))]
    return [(call.type, tuple(size for i, size in enumerate(dims) if i not in gone))]


def _arg(call: Call) -> list[Made]:
    dims, axis = call.first, call.attributes.get("axis", 0)
    if dims is None or not -len(dims) <= axis < len(dims):
        return [("int64", None)]
    found = list(dims)
    if call.attributes.get("keepdims", 1):
        found[axis] = 1
    else:
        del found[axis]
    return [("int64", tuple(found))]


def _top_k(call: Call) -> list[Made]:
    dims, k = call.first, call.integers(1)
    if dims is not None:
        found = list(dims)
        found[call.attributes.get("axis", -1)] = k[0] if k else None
        dims = tuple(found)
    return [(call.type, dims), ("int64", dims)]


def _filled(call: Call) -> list[Made]:
    value = call.attributes.get("value")
    kind = str(value.dtype) if isinstance(value, Tensor | np.ndarray) else "float32"
    return [(kind, _of_shape(call, 0))]


def _of_shape(call: Call, index: int) -> Dims:
    wanted = call.integers(index)
    return tuple(wanted) if wanted is not None else _of_length(call.dims[index])


def _of_length(sizes: Dims) -> Dims:
    """Give unknown sizes, as many as a shape that is computed has."""
    count = sizes[0] if sizes and len(sizes) == 1 else None
    return (None,) * count if isinstance(count, int) else None


def _normalization(call: Call) -> list[Made]:
    return [(call.type, call.first), *[("", None)] * (call.outputs - 1)]


def _row(rule: Rule, operators: str) -> dict[str, Rule]:
    return dict.fromkeys(operators.split(), rule)


_RULES: dict[str, Rule] = {
    **SPATIAL_RULES,
    **_row(
        _same,
        """Relu LeakyRelu Elu Selu Sigmoid Tanh Softplus Softsign HardSigmoid Clip Exp Log Sqrt Abs
        Neg Reciprocal Floor Ceil Round Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Erf
        Sign Identity Softmax LogSoftmax LRN InstanceNormalization GroupNormalization PRelu CumSum
        ThresholdedRelu Hardmax Gelu Not BitwiseNot Celu Mish HardSwish LpNormalization
        ScatterElements ScatterND""",
    ),
    **_row(_normalization, "BatchNormalization LayerNormalization Dropout"),
    **_row(
        _elementwise,
        "Add Sub Mul Div Pow Mod Max Min Sum Mean And Or Xor BitwiseAnd BitwiseOr BitwiseXor",
    ),
    **_row(_compare, "Equal Less Greater LessOrEqual GreaterOrEqual"),
    **_row(
        _reduce,
        """ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare
        ReduceLogSum ReduceLogSumExp""",
    ),
    **_row(_arg, "ArgMax ArgMin"),
    "Where": _where,
    "Cast": _cast,
    "QuantizeLinear": lambda call: [(call.types[2] if len(call.types) > 2 else "", call.first)],
    "DequantizeLinear": lambda call: [(call.types[1], call.first)],
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": _tile,
    "Expand": _expand,
    "Gather": _gather,
    "Shape": _shape,
    "TopK": _top_k,
    "ConstantOfShape": _filled,
    "IsNaN": lambda call: [("bool", call.first)],
    "IsInf": lambda call: [("bool", call.first)],
    "Size": lambda _: [("int64", ())],
    "Range": lambda call: [(call.type, (None,))],
    "NonZero": lambda call: [("int64", (None if call.first is None else len(call.first), None))],
}
