"""Einsum: sums of products along letters, as sums, transpositions and products of matrices.

Operands are taken in from left to right. A letter that neither the result nor an operand to come
names is summed away as soon as it can be: alone by `sum_reduce`, shared by `matmul`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.multiplying import product
from tensorkeep.models.exchange.onnx_to_nnef.operands import floats
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.wire.nnef.operations import Reference


class Term(NamedTuple):
    """A tensor and what its axes are called: letters, or numbers for those of an ellipsis."""

    value: Reference
    axes: tuple[str, ...]


@TABLE.row(
    "Einsum",
    becomes="transpose, matmul, mul, sum_reduce",
    note="a diagonal, of a letter twice in one operand, by gather",
)
def _einsum(node: Node, to: Writer) -> None:
    floats(to, *node.inputs)
    ranks = [to.model.rank(name) for name in node.inputs]
    operands, result = letters(node.word("equation", ""), ranks)
    terms = [
        _undoubled(to, Term(to.tensor(name), axes), name)
        for name, axes in zip(node.inputs, operands, strict=True)
    ]
    made = _summed(to, terms[0], {*result, *_names(terms[1:])})
    for index, term in enumerate(terms[1:], 1):
        needed = {*result, *_names(terms[index + 1 :])}
        made = _contracted(to, made, _summed(to, term, {*needed, *made.axes}), needed)
    _give(to, made, result, node.output())


def letters(equation: str, ranks: list[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Take an equation apart: the axes of each operand, and of the result.

    The axes of an ellipsis are numbered from the last one.

    >>> letters("...ij,jk", [3, 2])
    ([('0', 'i', 'j'), ('j', 'k')], ('0', 'i', 'k'))
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    said = left.split(",")
    if len(said) != len(ranks):
        raise Refused(f"its equation {equation!r} is of {len(said)} operands, not {len(ranks)}")
    operands = []
    for term, rank in zip(said, ranks, strict=True):
        axes = _axes(term, rank - len(term.replace("...", "")), equation)
        if len(axes) != rank:
            raise Refused(f"{term!r} of its equation names {len(axes)} axes of {rank}")
        operands.append(axes)
    flat = [axis for axes in operands for axis in axes]
    broadcast = sorted({axis for axis in flat if axis.isdigit()}, key=int, reverse=True)
    if arrow:
        result = _axes(right, len(broadcast), equation)
    else:
        once = sorted(axis for axis in flat if not axis.isdigit() and flat.count(axis) == 1)
        result = (*broadcast, *once)
    if len(set(result)) < len(result) or not set(result) <= set(flat):
        raise Refused(f"the result of its equation {equation!r} does not follow from its operands")
    return operands, result


def _axes(term: str, missing: int, equation: str) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    plain = before + after
    if plain and not (plain.isascii() and plain.isalpha()):
        raise Refused(f"its equation {equation!r} is not of letters")
    middle = [str(number) for number in reversed(range(missing))] if dots else []
    return (*before, *middle, *after)


def _names(terms: list[Term]) -> set[str]:
    return {axis for term in terms for axis in term.axes}


def _undoubled(to: Writer, term: Term, name: str) -> Term:
    """Take the diagonals that a letter means that comes twice."""
    while len(set(term.axes)) < len(term.axes):
        letter = next(axis for axis in term.axes if term.axes.count(axis) > 1)
        first = term.axes.index(letter)
        second = term.axes.index(letter, first + 1)
        shape, rank = to.shape_of(term.value), len(term.axes)
        length = shape[first]
        if shape[second] != length:
            raise Refused(f"its axis {letter!r} is of {length} and of {shape[second]}")
        others = [index for index in range(rank) if index not in (first, second)]
        moved = to.transpose(term.value, [*others, first, second])
        rest = [shape[index] for index in others]
        flat = to.reshape(moved, [*rest, length * length])
        indices = to.variable(np.arange(length) * (length + 1), f"{name}_diagonal")
        arguments = {"input": flat, "indices": indices, "axis": len(others)}
        value = to.emit("gather", arguments, shape=[*rest, length])
        term = Term(value, (*(term.axes[index] for index in others), letter))
    return term


def _summed(to: Writer, term: Term, needed: set[str]) -> Term:
    """Sum the axes that nothing else names."""
    alone = [index for index, axis in enumerate(term.axes) if axis not in needed]
    if not alone:
        return term
    shape = to.shape_of(term.value)
    kept = [1 if index in alone else size for index, size in enumerate(shape)]
    arguments = {"input": term.value, "axes": alone}
    summed = to.emit("sum_reduce", arguments, shape=kept)
    return Term(to.squeeze(summed, alone), tuple(a for a in term.axes if a in needed))


def _contracted(to: Writer, a: Term, b: Term, needed: set[str]) -> Term:
    sizes_a = dict(zip(a.axes, to.shape_of(a.value), strict=True))
    sizes_b = dict(zip(b.axes, to.shape_of(b.value), strict=True))
    shared = [axis for axis in a.axes if axis in sizes_b]
    gone = [axis for axis in shared if axis not in needed]
    batch = [axis for axis in shared if axis in needed]
    for axis in shared:
        one = 1 in (sizes_a[axis], sizes_b[axis])
        if sizes_a[axis] != sizes_b[axis] and (not one or axis in gone):
            raise Refused(f"its axis {axis!r} is of {sizes_a[axis]} and of {sizes_b[axis]}")
    rows = [axis for axis in a.axes if axis not in sizes_b]
    columns = [axis for axis in b.axes if axis not in sizes_a]
    axes = (*batch, *rows, *columns)
    if not gone:
        left = _spread(to, a, axes)
        return Term(to.apply("mul", left, _spread(to, b, axes)), axes)
    left = _ordered(to, a, (*batch, *rows, *gone))
    right = _ordered(to, b, (*batch, *gone, *columns))
    inner = math.prod(sizes_a[axis] for axis in gone)
    heads = [sizes_a[axis] for axis in batch], [sizes_b[axis] for axis in batch]
    tall, wide = [sizes_a[axis] for axis in rows], [sizes_b[axis] for axis in columns]
    left = _reshaped(to, left, [*heads[0], math.prod(tall), inner])
    right = _reshaped(to, right, [*heads[1], inner, math.prod(wide)])
    made = product(to, left, right)
    head = [max(pair) for pair in zip(*heads, strict=True)]
    return Term(_reshaped(to, made, [*head, *tall, *wide]), axes)


def _ordered(to: Writer, term: Term, axes: tuple[str, ...]) -> Reference:
    order = [term.axes.index(axis) for axis in axes]
    return term.value if order == sorted(order) else to.transpose(term.value, order)


def _spread(to: Writer, term: Term, axes: tuple[str, ...]) -> Reference:
    """Put a term's axes in an order, with ones where it has none."""
    value = _ordered(to, term, tuple(axis for axis in axes if axis in term.axes))
    missing = [index for index, axis in enumerate(axes) if axis not in term.axes]
    return to.unsqueeze(value, missing) if missing else value


def _reshaped(to: Writer, value: Reference, shape: list[int]) -> Reference:
    return value if to.shape_of(value) == tuple(shape) else to.reshape(value, shape)


def _give(to: Writer, term: Term, result: tuple[str, ...], output: str) -> None:
    order = [term.axes.index(axis) for axis in result]
    if order == sorted(order):
        to.apply("copy", term.value, output=output)
    else:
        to.transpose(term.value, order, output)
