"""Products of matrices: MatMul and Gemm. NNEF's take two operands of equally many axes."""

from __future__ import annotations

from tensorkeep.models.exchange.onnx_to_nnef.operands import attribute, floats
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Operand, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.wire.nnef.operations import Reference


@TABLE.row("MatMul", becomes="matmul", note="vectors by unsqueeze and squeeze")
def _matmul(node: Node, to: Writer) -> None:
    floats(to, *node.inputs[:2])
    a, b = to.tensor(node.input(0)), to.tensor(node.input(1))
    multiply(to, a, b, node.output())


def multiply(to: Writer, a: Reference, b: Reference, output: str | None = None) -> Reference:
    """Multiply as ONNX's MatMul does: vectors are a row and a column, other axes are broadcast."""
    ranks = len(to.shape_of(a)), len(to.shape_of(b))
    if 0 in ranks:
        raise Refused("a number has no axes to multiply along")
    row, column = ranks[0] == 1, ranks[1] == 1
    left = to.unsqueeze(a, [0]) if row else a
    right = to.unsqueeze(b, [1]) if column else b
    rank = max(len(to.shape_of(left)), len(to.shape_of(right)))
    if not (row or column):
        return product(to, _lifted(to, left, rank), _lifted(to, right, rank), output=output)
    made = product(to, _lifted(to, left, rank), _lifted(to, right, rank))
    gone = ([rank - 2] if row else []) + ([rank - 1] if column else [])
    return to.squeeze(made, gone, output)


def product(
    to: Writer,
    a: Reference,
    b: Reference,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    output: str | None = None,
) -> Reference:
    """Emit `matmul` of two tensors of equally many axes, at least two."""
    left, right = to.shape_of(a), to.shape_of(b)
    rows = left[-1] if transpose_a else left[-2]
    columns = right[-2] if transpose_b else right[-1]
    inner = (left[-2] if transpose_a else left[-1], right[-1] if transpose_b else right[-2])
    if inner[0] != inner[1]:
        raise Refused(f"matrices of {left} and {right} cannot be multiplied")
    batch = [max(pair) for pair in zip(left[:-2], right[:-2], strict=True)]
    flags = {"transposeA": transpose_a, "transposeB": transpose_b}
    arguments = {"A": a, "B": b, **{key: True for key, flag in flags.items() if flag}}
    return to.emit("matmul", arguments, output, shape=[*batch, rows, columns])


@TABLE.row(
    "Gemm", becomes="linear", note="matmul, mul and add where alpha, beta or transB are not plain"
)
def _gemm(node: Node, to: Writer) -> None:
    floats(to, *node.inputs[:3])
    a, b = to.tensor(node.input(0)), to.tensor(node.input(1))
    if len(to.shape_of(a)) != 2 or len(to.shape_of(b)) != 2:
        raise Refused(f"it multiplies {to.shape_of(a)} and {to.shape_of(b)}, not two matrices")
    alpha, beta = attribute(to, node, "alpha", 1), attribute(to, node, "beta", 1)
    flip_a, flip_b = (bool(node.attributes.get(key, 0)) for key in ("transA", "transB"))
    added = node.input(2) if beta != 0 else ""
    if flip_b and not flip_a and alpha == beta == 1 and _is_bias(to, added):
        bias = {"bias": _lifted(to, to.tensor(added), 2)} if added else {}
        to.emit("linear", {"input": a, "filter": b, **bias}, node.output())
        return
    last = node.output() if alpha == 1 and not added else None
    made = product(to, a, b, transpose_a=flip_a, transpose_b=flip_b, output=last)
    if alpha != 1:
        made = to.apply("mul", made, alpha, output=None if added else node.output())
    if added:
        # A number times another would have no type: the tensor itself is multiplied.
        summand: Operand = to.value(added) if beta == 1 else to.tensor(added)
        if isinstance(summand, Reference):
            summand = _lifted(to, summand, 2)
        if beta != 1:
            summand = to.apply("mul", summand, beta)
        to.apply("add", made, summand, output=node.output())


def _is_bias(to: Writer, name: str) -> bool:
    """Whether a summand is one row, as the bias of `linear` has to be."""
    shape = to.shape(name) if name else (1,)
    return len(shape) in (1, 2) and shape[:-1] in ((), (1,)) and (not name or shape[-1] > 1)


def _lifted(to: Writer, value: Reference, rank: int) -> Reference:
    """Put axes of one before a tensor's."""
    missing = rank - len(to.shape_of(value))
    return to.unsqueeze(value, range(missing)) if missing > 0 and to.shape_of(value) else value
