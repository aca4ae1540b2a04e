"""Rounding to whole numbers, halves to the even one: NNEF's `round` does not say where they go."""

from __future__ import annotations

from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.wire.nnef.operations import Reference


def halves_to_even(to: Writer, x: Reference, output: str | None = None) -> Reference:
    """Round as IEEE 754 does."""
    floor = to.apply("floor", x)
    above = to.apply("sub", x, floor)
    half = to.apply("mul", floor, 0.5)
    odd = to.apply("ne", half, to.apply("floor", half))
    tie = to.apply("and", to.apply("eq", above, 0.5), odd)
    up = to.apply("or", to.apply("gt", above, 0.5), tie)
    return to.apply("select", up, to.apply("ceil", x), floor, output=output)
