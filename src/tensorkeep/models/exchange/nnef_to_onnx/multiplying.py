"""Products of matrices."""

from __future__ import annotations

from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader, fitted
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Value


@TABLE.row("matmul", becomes="MatMul; Gemm where a matrix is transposed")
def _matmul(op: Operation, reader: Reader) -> None:
    a, b = op.arguments.get("A"), op.arguments.get("B")
    turned_a, turned_b = reader.flag(op, "transposeA"), reader.flag(op, "transposeB")
    dtype, left, right = reader.common_number(a, b), reader.shape(a), reader.shape(b)
    if len(left) != len(right) or len(left) < 2:
        raise Refused(f"multiplies shapes {list(left)} and {list(right)}")
    rows, inner = left[-2:][::-1] if turned_a else left[-2:]
    other, columns = right[-2:][::-1] if turned_b else right[-2:]
    if inner != other:
        raise Refused(f"multiplies matrices of {rows} x {inner} and {other} x {columns}")
    shape = (*fitted([left[:-2], right[:-2]]), rows, columns)
    inputs = [reader.value(a, dtype), reader.value(b, dtype)]
    if len(left) == 2 and (turned_a or turned_b):
        turns = (int(turned_a) or None, int(turned_b) or None)
        reader.make(op, "Gemm", inputs, shape, dtype, transA=turns[0], transB=turns[1])
        return
    turned = [
        _turned(reader, name, len(left)) if turn else name
        for name, turn in zip(inputs, (turned_a, turned_b), strict=True)
    ]
    reader.make(op, "MatMul", turned, shape, dtype)


def _turned(reader: Reader, value: str, rank: int) -> str:
    order = [*range(rank - 2), rank - 1, rank - 2]
    return reader.to.node("Transpose", [value], perm=order)


@TABLE.row("linear", becomes="Gemm")
def _linear(op: Operation, reader: Reader) -> None:
    x, matrix, bias = (op.arguments.get(key) for key in ("input", "filter", "bias"))
    dtype = reader.common_number(x, matrix, bias)
    given, taken = reader.shape(x), reader.shape(matrix)
    if len(given) != 2 or len(taken) != 2 or given[1] != taken[1]:
        raise Refused(f"multiplies {list(given)} by a filter of {list(taken)}")
    inputs = [reader.value(x, dtype), reader.value(matrix, dtype)]
    if not is_zero(bias):
        shape = reader.shape(bias)
        if shape and (shape[-1] not in (1, taken[0]) or any(size != 1 for size in shape[:-1])):
            raise Refused(f"has a bias of shape {list(shape)} for {taken[0]} channels")
        inputs.append(reader.reshaped(bias, shape[-1:], dtype))
    reader.make(op, "Gemm", inputs, (given[0], taken[0]), dtype, transB=1)


def is_zero(argument: Value) -> bool:
    """Whether an argument is the number 0, as a bias is that is not given."""
    return isinstance(argument, int | float) and not isinstance(argument, bool) and argument == 0
