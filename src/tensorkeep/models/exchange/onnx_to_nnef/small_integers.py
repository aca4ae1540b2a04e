"""Arithmetic with integers so narrow that every result is exact in NNEF's scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.onnx_to_nnef.writer import NUMBERS, Operand, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Reference

# Their bits.
SMALL = {"int8": 8, "uint8": 8, "int16": 16, "uint16": 16}
WIDE = ("int32", "int64", "uint32", "uint64")
_EXACT = 1 << 24  # the largest integer up to which every one is a float32


def computed(to: Writer, *names: str) -> list[Operand]:
    """Refer to values that are broadcast and computed with; narrow integers as scalars.

    Raises:
        Refused: they are wider integers, or no numbers.
    """
    kinds = {to.model.type(name) for name in names}
    if not kinds <= {*NUMBERS, *SMALL}:
        kind = min(kinds - {*NUMBERS, *SMALL})
        raise Refused(
            f"it computes with {kind}, where NNEF computes with scalars alone",
            "Where its operands are shapes or other constants, fix the inputs that they come from.",
        )
    if len(kinds) > 1:
        raise Refused(f"its operands are {' and '.join(sorted(kinds))}, which ONNX does not mix")
    alone: list[Operand] = [to.tensor(name) for name in names[:1]]
    found = to.aligned(*names) if len(names) > 1 else alone
    if kinds <= set(NUMBERS):
        return found
    return [
        to.cast(value, "float32") if isinstance(value, Reference) else float(value)
        for value in found
    ]


def wrapped(to: Writer, value: Operand, output: str) -> None:
    """Give a scalar that is whole as the narrow integer that it is, modulo what that holds."""
    kind = to.model.type(output)
    least = float(-(1 << SMALL[kind] - 1) if kind.startswith("int") else 0)
    span = float(1 << SMALL[kind])
    turns = to.apply("floor", to.apply("div", to.apply("sub", value, least), span))
    whole = to.apply("sub", value, to.apply("mul", turns, span))
    to.cast(whole, kind, output)


def typed(to: Writer, number: Operand, kind: str) -> Operand:
    """Give a number whose type no tensor beside it tells, where it is not what text means."""
    if kind in ("float32", "bool") or isinstance(number, Reference):
        return number
    return to.variable(np.array(number, kind), "number")


def truncated(to: Writer, value: Operand) -> Reference:
    """Round towards zero, as integers are divided.

    Quotients of integers of 16 bits are far enough from the next whole number for float32.
    """
    return to.apply("mul", to.apply("floor", to.apply("abs", value)), to.apply("sign", value))


def fits_comparison(to: Writer, names: Sequence[str]) -> bool:
    """Whether comparing two wide integers as scalars is exact.

    It is where one of them is a constant below 2 ** 24: up to there every integer is a float32,
    and one that is larger stays so when it is rounded.
    """
    if any(to.model.type(name) not in WIDE for name in names):
        return False
    known = [to.model.constants[name] for name in names if to.model.is_constant(name)]
    return any(_is_small(tensor.numpy()) for tensor in known if tensor.size <= _EXACT)


def _is_small(array: npt.NDArray[Any]) -> bool:
    return bool(array.size and -_EXACT < int(array.min()) <= int(array.max()) < _EXACT)


def compared(to: Writer, *names: str) -> list[Operand]:
    """Refer to wide integers, one of which is small, as scalars."""
    return [
        to.cast(value, "float32") if isinstance(value, Reference) else float(value)
        for value in to.aligned(*names)
    ]
