"""Quantization: the four operations that round to what few bits can hold, and graph.quant.

What the text of a graph quantizes is computed by the formulas themselves. What graph.quant says of
a tensor becomes QuantizeLinear and DequantizeLinear where these mean the same, which runtimes
know, and else the formulas as well.
"""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.emitting import number_of
from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.reader import FLOATS, INTEGERS, Reader, fitted
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Quantization, Reference

_MOST_BITS = 32
_STORED = {  # how many bits, signed or not, QuantizeLinear makes
    (8, True): "int8",
    (8, False): "uint8",
    (16, True): "int16",
    (16, False): "uint16",
}
_NAMES = (
    "linear_quantize",
    "min_max_linear_quantize",
    "zero_point_linear_quantize",
    "logarithmic_quantize",
)
_SAME = 1e-6  # of all steps: how near a zero point is to a whole number where it is one


@TABLE.row(*_NAMES, becomes="Div, Floor, Clip, Mul and the like")
def _quantize(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    dtype, shape = reader.common_number(x), reader.shape(x)
    value = _rounded_to_bits(op, reader, reader.value(x), shape, dtype)
    reader.give(reader.reference(op), value.end(reader.result(op)), shape, dtype)


def fake_quantize(reader: Reader, value: str, quantization: Quantization) -> str:
    """Name what a tensor is after what graph.quant says is done to it.

    Args:
        reader: of the document.
        value: the ONNX value; integers are what is stored, and are given their meaning.
        quantization: what graph.quant says.

    Raises:
        Refused: it says nothing that ONNX can do.
    """
    op = Operation(quantization.name, quantization.arguments, {})
    if op.name not in _NAMES:
        raise Refused(
            f"is quantized by {op.name}, which is no operation of NNEF's",
            f"Quantize it by one of {', '.join(_NAMES)} in graph.quant.",
        )
    shape, dtype = reader.to.shapes.get(value), reader.to.types.get(value, "")
    if shape is None or dtype not in (*FLOATS, *INTEGERS):
        raise Refused(f"is quantized, but holds {dtype or 'nothing known'}")
    if dtype in INTEGERS:
        made = _meant(op, reader, value, shape, dtype)
        reader.to.types[made] = "float32"
        return made
    grid = _grid(op, reader) if dtype == "float32" else None
    if grid is None or (grid.bits, grid.signed) not in _STORED:
        made = _rounded_to_bits(op, reader, value, shape, dtype).value
    else:
        made = _by_linear(reader, value, grid)
        reader.report.add("changed", value, "is quantized by QuantizeLinear: halves become even")
    reader.to.types[made] = dtype
    return made


class _Grid:
    """Evenly spaced numbers, told by numbers that are known: (level - zero) * scale.

    Attributes:
        scale: from one to the next.
        zero: the level of 0, a whole number.
        least: the first level.
        most: the last.
    """

    def __init__(self, bits: int, signed: bool, scale: float, zero: int, least: int) -> None:
        self.bits, self.signed, self.scale, self.zero, self.least = bits, signed, scale, zero, least
        self.most = 2 ** (bits - 1) - 1 if signed else 2**bits - 1

    @property
    def lowest(self) -> int:
        """The first level that as many bits can tell."""
        return -(2 ** (self.bits - 1)) if self.signed else 0


def _grid(op: Operation, reader: Reader) -> _Grid | None:
    """Give the grid, if it is one of known numbers that has 0 on it; None otherwise."""
    if op.name == "logarithmic_quantize":
        return None
    bits, signed = _bits(op, reader), _flag(op, reader, "signed")
    symmetric = _flag(op, reader, "symmetric")
    least = -(2 ** (bits - 1)) if signed else 0
    least += int(signed and symmetric)
    if op.name == "zero_point_linear_quantize":
        scale, zero = _plain(op, "scale"), _plain(op, "zero_point")
        if scale is None or zero is None or scale <= 0 or zero != int(zero):
            return None
        grid = _Grid(bits, signed, scale, int(zero), least)
        return grid if grid.lowest <= grid.zero <= grid.most else None
    low, high = _plain(op, "min"), _plain(op, "max")
    if low is None or high is None or not low < high:
        return None
    steps = _steps(bits, signed, symmetric)
    scale = (high - low) / steps
    levels = -low / scale
    if abs(levels - round(levels)) > _SAME * steps or (symmetric and not signed):
        return None
    grid = _Grid(bits, signed, scale, round(levels) + least, least)
    return grid if grid.lowest <= grid.zero <= grid.most else None


def _by_linear(reader: Reader, value: str, grid: _Grid) -> str:
    to, chain = reader.to, Chain(reader.to, value)
    if grid.least > grid.lowest:
        chain.then("Max", to.constant((grid.least - grid.zero) * grid.scale, "float32"))
    kind = _STORED[grid.bits, grid.signed]
    others = [to.constant(grid.scale, "float32"), to.constant(grid.zero, kind)]
    return chain.then("QuantizeLinear", *others).then("DequantizeLinear", *others).value


def _meant(op: Operation, reader: Reader, value: str, shape: tuple[int, ...], dtype: str) -> str:
    """Name the numbers that stored integers mean."""
    if op.name == "logarithmic_quantize":
        raise Refused(
            "holds integers that stand for powers of two, whose signs NNEF does not say how to tell"
        )
    to = reader.to
    grid = _grid(op, reader)
    if grid is not None and dtype in _STORED.values() and _within(grid.zero, dtype):
        others = [to.constant(grid.scale, "float32"), to.constant(grid.zero, dtype)]
        return to.node("DequantizeLinear", [value, *others])
    chain = Chain(to, value).then("Cast", to=number_of("float32"))
    if op.name == "zero_point_linear_quantize":
        chain.then("Sub", _operand(op, reader, "zero_point", shape, "float32"))
        return chain.then("Mul", _operand(op, reader, "scale", shape, "float32")).value
    bits, signed = _bits(op, reader), _flag(op, reader, "signed")
    symmetric = _flag(op, reader, "symmetric")
    low, high = (_operand(op, reader, key, shape, "float32") for key in ("min", "max"))
    first = 2 ** (bits - 1) - int(symmetric) if signed else 0
    if first:
        chain.then("Add", to.constant(first, "float32"))
    chain.then("Div", to.constant(_steps(bits, signed, symmetric), "float32"))
    return chain.then("Mul", to.node("Sub", [high, low])).then("Add", low).value


def _rounded_to_bits(
    op: Operation, reader: Reader, value: str, shape: tuple[int, ...], dtype: str
) -> Chain:
    """Add what rounds a tensor to what is left of it, by NNEF's own formulas."""
    to, bits = reader.to, _bits(op, reader)
    chain = Chain(to, value)
    if op.name == "logarithmic_quantize":
        return _logarithmic(op, reader, chain, shape, dtype)
    signed, symmetric = _flag(op, reader, "signed"), _flag(op, reader, "symmetric")
    if op.name == "zero_point_linear_quantize":
        zero = _operand(op, reader, "zero_point", shape, dtype)
        scale = _operand(op, reader, "scale", shape, dtype)
        most = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        least = (-most if symmetric else -most - 1) if signed else 0
        _rounded(chain.then("Div", scale), dtype).then("Add", zero)
        chain.then("Clip", to.constant(least, dtype), to.constant(most, dtype))
        return chain.then("Sub", zero).then("Mul", scale)
    low, high = (_operand(op, reader, key, shape, dtype) for key in ("min", "max"))
    _check_range(op)
    range_ = to.node("Sub", [high, low])
    steps = to.constant(_steps(bits, signed, symmetric), dtype)
    chain.then("Min", high).then("Max", low)
    chain.then("Sub", low).then("Div", range_).then("Mul", steps)
    return _rounded(chain, dtype).then("Div", steps).then("Mul", range_).then("Add", low)


def _logarithmic(
    op: Operation, reader: Reader, chain: Chain, shape: tuple[int, ...], dtype: str
) -> Chain:
    to, given = reader.to, _plain(op, "max")
    value, steps = chain.value, 2 ** _bits(op, reader) - 1
    two = to.constant(2.0, dtype)
    if given is not None:
        if given <= 0:
            raise Refused(f"has max = {given}, which has no logarithm")
        fraction, exponent = math.frexp(given)
        most = to.constant(exponent - (fraction == 0.5), dtype)
    else:
        highest = _operand(op, reader, "max", shape, dtype)
        near = _log2(Chain(to, highest), dtype).then("Round").value
        # A logarithm that is computed may miss a whole number, so the power decides.
        short = to.node("Less", [to.node("Pow", [two, near]), highest])
        more = to.node("Cast", [short], to=number_of(dtype))
        most = to.node("Add", [near, more])
    least = to.node("Sub", [most, to.constant(steps, dtype)])
    _log2(chain.then("Abs"), dtype).then("Min", most).then("Max", least)
    _rounded(chain, dtype).then("Pow", two, place=1)
    return chain.then("Mul", to.node("Sign", [value]))


def _log2(chain: Chain, dtype: str) -> Chain:
    return chain.then("Log").then("Div", chain.to.constant(math.log(2), dtype))


def _rounded(chain: Chain, dtype: str) -> Chain:
    """Add what rounds to whole numbers, halves away from zero."""
    to, value = chain.to, chain.value
    size = to.node("Abs", [value])
    floor = to.node("Floor", [size])
    rest = to.node("Sub", [size, floor])
    up = to.node("GreaterOrEqual", [rest, to.constant(0.5, dtype)])
    whole = to.node("Add", [floor, to.node("Cast", [up], to=number_of(dtype))])
    return chain.then("Sign").then("Mul", whole)


def _operand(op: Operation, reader: Reader, key: str, shape: tuple[int, ...], dtype: str) -> str:
    """Name a number, or numbers for axes of a tensor, to compute with in its element type."""
    given = op.arguments.get(key)
    if not isinstance(given, Reference):
        return reader.value(_plain(op, key), dtype)
    if fitted([shape, reader.shape(given)]) != shape:
        raise Refused(f"has {key} of shape {list(reader.shape(given))} for one of {list(shape)}")
    value = reader.raised(given, len(shape))
    if reader.type(given) == dtype:
        return value
    if reader.type(given) not in (*FLOATS, *INTEGERS):
        raise Refused(f"has {key} of {reader.type(given)}, where numbers are expected")
    return reader.to.node("Cast", [value], to=number_of(dtype))


def _steps(bits: int, signed: bool, symmetric: bool) -> int:
    return int(2**bits) - 1 - int(signed and symmetric)


def _bits(op: Operation, reader: Reader) -> int:
    bits = reader.integer(op, "bits")
    if not 1 <= bits <= _MOST_BITS or (bits == 1 and _flag(op, reader, "signed")):
        raise Refused(f"has bits = {bits}, where 1 to {_MOST_BITS} are expected")
    return bits


def _flag(op: Operation, reader: Reader, key: str) -> bool:
    has_none = op.name in ("linear_quantize", "logarithmic_quantize")
    return False if has_none else reader.flag(op, key)


def _check_range(op: Operation) -> None:
    low, high = _plain(op, "min"), _plain(op, "max")
    if low is not None and high is not None and not low < high:
        raise Refused(f"has min = {low} and max = {high}, between which there is nothing")


def _plain(op: Operation, key: str) -> float | None:
    """Give an argument that is a number in the text; None where it is a tensor."""
    given = op.arguments.get(key)
    if isinstance(given, Reference):
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise Refused(f"has {key} = {given}, where a number is expected")
    return float(given)


def _within(number: int, dtype: str) -> bool:
    info = np.iinfo(dtype)
    return bool(info.min <= number <= info.max)
