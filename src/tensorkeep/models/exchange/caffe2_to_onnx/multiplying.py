"""Products of matrices: FC, MatMul, BatchMatMul."""

from __future__ import annotations

from tensorkeep.models.exchange.caffe2_to_onnx.activations import scalar
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused


@TABLE.row("FC", "FCTransposed", becomes="Flatten, Gemm; MatMul, Add with axis above 1")
def fully_connected(op: Operator, to: Writer) -> None:
    """x, its axes from `axis` on taken as one, * the weights + bias.

    The weights are (out, in), those of FCTransposed (in, out), their axes from `axis_w` on taken as
    one.
    """
    op.refuse_more(3)
    x, weights, bias = op.input(0), op.input(1), op.input(2)
    axis, axis_w = to.axis(x, op.integer("axis", 1)), to.axis(weights, op.integer("axis_w", 1))
    turned, dims = op.type == "FC", to.dims(x)
    if axis < 0:
        to.rank(x)
    sizes = to.dims(weights)
    if sizes is None or len(sizes) != 2 or axis_w != 1:
        weights = to.node("Flatten", [weights], axis=axis_w)
    known = to.dims(bias)
    if known is None or len(known) != 1:
        bias = to.reshaped(bias, [-1])
    if axis == 1:
        flat = x if dims is not None and len(dims) == 2 else to.node("Flatten", [x], axis=1)
        to.node("Gemm", [flat, weights, bias], op.output(), transB=int(turned))
        return
    if dims is None or len(dims) != axis + 1:
        x = to.reshaped(x, [*[0] * axis, -1])
    if turned:
        weights = to.node("Transpose", [weights], perm=[1, 0])
    to.node("Add", [to.node("MatMul", [x, weights]), bias], op.output())


@TABLE.row("MatMul", becomes="Gemm")
def matmul(op: Operator, to: Writer) -> None:
    """The product of two matrices; more axes are taken as two, split at axis_a and axis_b."""
    op.refuse_more(2)
    inputs = []
    for index, name in enumerate(("axis_a", "axis_b")):
        value = op.input(index)
        axis, dims = to.axis(value, op.integer(name, 1)), to.dims(value)
        if dims is None or len(dims) != 2 or axis != 1:
            value = to.node("Flatten", [value], axis=axis)
        inputs.append(value)
    trans_a, trans_b = op.flag("trans_a"), op.flag("trans_b")
    to.node("Gemm", inputs, op.output(), transA=int(trans_a), transB=int(trans_b))


@TABLE.row("BatchMatMul", becomes="MatMul", note="turned matrices need the rank to be known")
def batch_matmul(op: Operator, to: Writer) -> None:
    """The products of matrices, one for each of the axes before the last two."""
    op.refuse_more(2)
    op.has("use_scratch")
    op.has("broadcast")
    inputs = []
    for index, name in enumerate(("trans_a", "trans_b")):
        value = op.input(index)
        if op.flag(name):
            rank = to.rank(value)
            if rank < 2:
                raise Refused(f"its argument {name} is 1, and what it turns is a vector")
            value = to.transposed(value, [*range(rank - 2), rank - 1, rank - 2])
        inputs.append(value)
    to.node("MatMul", inputs, op.output())


@TABLE.row("DotProduct", becomes="Mul, ReduceSum", note="needs the rank to be known")
def dot_product(op: Operator, to: Writer) -> None:
    """The sum of x * y over all axes but the first."""
    x = op.input(0)
    product = to.node("Mul", [x, op.input(1)])
    rank = to.rank(x)
    if rank < 2:
        to.node("Identity", [product], op.output())
        return
    axes = to.constant(list(range(1, rank)), "int64")
    to.node("ReduceSum", [product, axes], op.output(), keepdims=0)


@TABLE.row("SquaredL2Distance", "L1Distance", becomes="Sub, Mul or Abs, ReduceSum")
def distance(op: Operator, to: Writer) -> None:
    """Half the sum of squared differences, or the sum of their sizes, of all axes but the first."""
    x = op.input(0)
    rank = to.rank(x)
    apart = to.node("Sub", [x, op.input(1)])
    if op.type == "L1Distance":
        each = to.node("Abs", [apart])
    else:
        each = to.node("Mul", [to.node("Mul", [apart, apart]), scalar(to, 0.5, x)])
    if rank < 2:
        to.node("Identity", [each], op.output())
        return
    axes = to.constant(list(range(1, rank)), "int64")
    to.node("ReduceSum", [each, axes], op.output(), keepdims=0)


@TABLE.row("ElementwiseLinear", becomes="Mul, Add", note="needs the rank to be known")
def elementwise_linear(op: Operator, to: Writer) -> None:
    """X * w + b, w and b being of the axes of x from `axis` on taken as one."""
    x = flat = op.input(0)
    axis = to.axis(x, op.integer("axis", 1))
    dims = to.dims(x)
    if dims is None or len(dims) != 2 or axis != 1:
        flat = to.node("Flatten", [x], axis=axis)
    scaled = to.node("Mul", [flat, to.reshaped(op.input(1), [-1])])
    if flat == x:
        to.node("Add", [scaled, to.reshaped(op.input(2), [-1])], op.output())
        return
    made = to.node("Add", [scaled, to.reshaped(op.input(2), [-1])])
    to.shaped_like(made, x, op.output())
