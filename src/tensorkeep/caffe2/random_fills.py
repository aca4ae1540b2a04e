"""Random fills: the operators that start a net to be trained.

With a random_seed in its device_option an operator draws the very numbers that Caffe2 drew on the
CPU: 32-bit words of a Mersenne Twister, the low 24 bits of one word for a uniform float32, and the
Box-Muller transform of two such for a pair of normal ones. Without a seed they differ each time.
Numbers are drawn when the tensor is first read.

Facts: caffe2/operators/filler_op.h, half_float_ops.h, caffe2/utils/math_cpu.cc and
aten/src/ATen/core/{DistributionsHelper,TransformationHelper}.h of PyTorch 1.10, read and run.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.caffe2.fills import FillOp, Shape
from tensorkeep.caffe2.gradient import no_gradient
from tensorkeep.caffe2.operator import register
from tensorkeep.dtypes import DType, count_of
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.elements import CODES, DTYPE_OF
from tensorkeep.wire.caffe2.values import TENSOR, Blob

Words = npt.NDArray[np.uint32]
Values = npt.NDArray[Any]
Transform = Callable[[Words], Values]  # an even number of words to as many values

_UNIQUE = 128  # bytes that a number takes while it is told from the others
_BLOCK = 1 << 20  # words that are drawn at a time; even, since normal numbers come in pairs


class RandomFillOp(FillOp):
    """A fill of numbers that are drawn at random."""

    dtype: ClassVar[DType] = dtypes.FLOAT32

    def run(self) -> bool:
        shape, transform = self.distribution(self.shape())
        self.check_size(self.dtype.nbytes(count_of(shape)))
        source = _Drawn(seed_of(self), count_of(shape), self.dtype, transform, self.where)
        self.write(0, Blob(TENSOR, Tensor(self.dtype, shape, source), self.device))
        return True

    def distribution(self, shape: Shape) -> tuple[Shape, Transform]:
        """Give the shape of the output, and what makes its values of random words."""
        raise NotImplementedError


def seed_of(operator: FillOp) -> int:
    """Give the seed that an operator draws with: its own, or a new one."""
    option = operator.definition.device_option
    return int(option.random_seed) if "random_seed" in option else secrets.randbits(32)


@register("UniformFill")
class UniformFillOp(RandomFillOp):
    """Draw float32 from `min` (0.0) up to `max` (1.0), or from the second up to the third input.

    Raises:
        ArgumentError: bounds that are given twice, no numbers, or not in order.
    """

    takes = (0, 3)
    default: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def distribution(self, shape: Shape) -> tuple[Shape, Transform]:
        low, high = self._bounds()
        if len(self.inputs) == 3 and low > high:
            return (0, *shape[1:]), self.between(low, low)
        if not (low < high or len(self.inputs) == 3):
            raise self.problem(f"is drawn from {low} up to {high}, which is not above it")
        return shape, self.between(low, high)

    def between(self, low: float, high: float) -> Transform:
        """Give what makes values between two bounds."""
        return _uniform(self, low, high)

    def bound(self, name: str, default: float) -> float:
        """Give a bound that is an argument."""
        return float(np.float32(self.arguments.number(name, default)))

    def _bounds(self) -> tuple[float, float]:
        if len(self.inputs) == 2:
            raise self.problem("has 2 inputs, where none, a shape, or a shape and 2 bounds go")
        if len(self.inputs) < 3:
            return self.bound("min", self.default[0]), self.bound("max", self.default[1])
        if "min" in self.arguments or "max" in self.arguments:
            raise self.problem("has bounds both as inputs and as arguments")
        return self._input_bound(1), self._input_bound(2)

    def _input_bound(self, index: int) -> float:
        tensor = self.tensor(index)
        if tensor.dtype is not self.dtype or tensor.size != 1:
            raise self.problem(
                f"has a bound of {tensor.dtype} and shape {tensor.shape}, where one "
                f"{self.dtype} is needed"
            )
        bound: float = tensor.numpy().item()
        return bound


@register("UniformIntFill")
class UniformIntFillOp(UniformFillOp):
    """Draw int32 from `min` (0) up to and with `max` (1), or as the inputs say."""

    dtype = dtypes.INT32

    def between(self, low: float, high: float) -> Transform:
        base, span = int(low), int(high) - int(low) + 1

        def transform(words: Words) -> Values:
            return (words.astype(np.int64) % span + base).astype(np.int32)

        return transform

    def bound(self, name: str, default: float) -> float:
        value = self.arguments.integer(name, int(default))
        if not -(2**31) <= value < 2**31:
            raise self.problem(f"has the bound {value}, which does not fit int32")
        return value


@register("UniqueUniformFill")
class UniqueUniformFillOp(FillOp):
    """Draw numbers from `min` up to and with `max` of which no two are the same.

    Arguments beside those of a fill: min, max, dtype (2: int32; 10: int64). The values of a second
    input, of the same type, are left out.

    Raises:
        ArgumentError: bounds that are missing or not in order, another dtype, or more numbers than
            there are.
    """

    takes = (0, 2)

    def run(self) -> bool:
        shape, kind = self.shape(), self._dtype()
        low, high = self._bound("min", kind), self._bound("max", kind)
        if not low < high:
            raise self.problem(f"is drawn from {low} up to {high}, which is not above it")
        count, avoided = count_of(shape), self._avoided(kind)
        left = high - low + 1 - len(avoided)
        if count > left:
            raise self.problem(f"needs {count} numbers, where {low} to {high} leaves {left}")
        self.check_size(_UNIQUE * count)
        values = np.array(self._draw(count, low, high, avoided), kind.numpy).reshape(shape)
        self.write(0, Blob(TENSOR, Tensor.of(values), self.device))
        return True

    def _dtype(self) -> DType:
        code = self.arguments.integer("dtype", CODES[dtypes.INT32])
        kind = DTYPE_OF.get(code)
        if kind not in (dtypes.INT32, dtypes.INT64):
            raise self.problem(f"cannot be drawn as dtype {code}; 2 and 10 are int32 and int64")
        return kind

    def _bound(self, name: str, kind: DType) -> int:
        if name not in self.arguments:
            raise self.problem(f"needs the argument {name!r}")
        value, limits = self.arguments.integer(name), np.iinfo(kind.numpy)
        if not limits.min <= value <= limits.max:
            raise self.problem(f"has the bound {value}, which does not fit {kind}")
        return value

    def _avoided(self, kind: DType) -> set[int]:
        if len(self.inputs) < 2:
            return set()
        tensor = self.tensor(1)
        values: list[int] = tensor.numpy().reshape(-1).tolist()
        if tensor.dtype is not kind or len(set(values)) < len(values):
            raise self.problem(f"avoids {tensor}, where {kind} without repeats is needed")
        return set(values)

    def _draw(self, count: int, low: int, high: int, seen: set[int]) -> list[int]:
        generator, span = np.random.RandomState(seed_of(self)), high - low + 1
        wide = span >= 1 << 32  # of two words each
        drawn: list[int] = []
        while len(drawn) < count:
            size = min(_BLOCK, max(1024, 2 * (count - len(drawn))))
            words = generator.randint(0, 2**32, size=size, dtype=np.uint32).astype(np.uint64)
            if wide:
                words = (words[0::2] << np.uint64(32)) | words[1::2]
            for value in (words % np.uint64(span)).tolist() if span < 1 << 64 else words.tolist():
                number = value + low
                if number not in seen:
                    seen.add(number)
                    drawn.append(number)
                    if len(drawn) == count:
                        break
        return drawn


@register("XavierFill")
class XavierFillOp(RandomFillOp):
    """Draw float32 between plus and minus sqrt(3 / fan-in), the elements per row."""

    def distribution(self, shape: Shape) -> tuple[Shape, Transform]:
        if not shape or not count_of(shape):
            raise self.problem(f"has the shape {shape}, which has no rows to scale by")
        scale = float(np.sqrt(np.float32(3) / np.float32(count_of(shape) // shape[0])))
        return shape, _uniform(self, -scale, scale)


@register("GaussianFill")
class GaussianFillOp(RandomFillOp):
    """Draw float32 of a normal distribution with `mean` (0.0) and deviation `std` (1.0)."""

    def distribution(self, shape: Shape) -> tuple[Shape, Transform]:
        mean, std = self.arguments.number("mean"), self.arguments.number("std", 1.0)
        if not std >= 0:
            raise self.problem(f"has the std {std}, where 0 or more is needed")
        return shape, _normal(mean, std)


@register("MSRAFill")
class MSRAFillOp(RandomFillOp):
    """Draw float32 of a normal distribution with deviation sqrt(2 / fan-out).

    The fan-out is that of a convolution's weights: all elements but those of the second axis.
    """

    def distribution(self, shape: Shape) -> tuple[Shape, Transform]:
        if len(shape) < 2 or not shape[1]:
            raise self.problem(f"has the shape {shape}, which has no second axis to scale by")
        if not count_of(shape):
            return shape, _normal(0.0, 0.0)
        std = np.sqrt(np.float32(2) / np.float32(count_of(shape) // shape[1]))
        return shape, _normal(0.0, float(std))


@register("Float16UniformFill")
class Float16UniformFillOp(RandomFillOp):
    """Draw float32 from `min` (0.0) up to `max` (1.0) and round them to float16."""

    takes = (0, 0)
    dtype = dtypes.FLOAT16

    def distribution(self, shape: Shape) -> tuple[Shape, Transform]:
        low, high = self.arguments.number("min"), self.arguments.number("max", 1.0)
        if not low < high:
            raise self.problem(f"is drawn from {low} up to {high}, which is not above it")
        uniform = _uniform(self, low, high)
        return shape, lambda words: uniform(words).astype(np.float16)


def _uniform(operator: FillOp, low: float, high: float) -> Transform:
    """Give what makes float32 from `low` up to `high` of the low 24 bits of words."""
    first, width = np.float32(low), np.float64(np.float32(high)) - np.float64(np.float32(low))
    if not abs(width) <= np.finfo(np.float32).max:  # NaN too
        raise operator.problem(f"is drawn from {low} up to {high}, which float32 cannot span")

    def transform(words: Words) -> Values:
        return _fractions(words) * np.float32(width) + first

    return transform


def _normal(mean: float, std: float) -> Transform:
    """Give what makes pairs of float32 of a normal distribution of pairs of words."""

    def transform(words: Words) -> Values:
        fractions = _fractions(words)
        remainder = (np.float32(1) - fractions[1::2]).astype(np.float64)
        radius = np.sqrt(-2 * np.log(remainder)).astype(np.float32)
        angle = (np.float32(2) * np.float32(math.pi) * fractions[0::2]).astype(np.float64)
        values = np.empty(words.size, np.float32)
        values[0::2] = radius * np.cos(angle)
        values[1::2] = radius * np.sin(angle)
        return values * np.float32(std) + np.float32(mean)

    return transform


def _fractions(words: Words) -> npt.NDArray[np.float32]:
    """Give a float32 in [0, 1) for each word."""
    return (words & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2**-24)


class _Drawn(Source):
    """Random values that are drawn all at once, when the first of them is read."""

    __slots__ = ("_count", "_dtype", "_seed", "_transform", "_view")

    def __init__(
        self, seed: int, count: int, dtype: DType, transform: Transform, where: str
    ) -> None:
        self._seed = seed
        self._count = count
        self._dtype = dtype
        self._transform = transform
        self._view: memoryview | None = None
        super().__init__(dtype.nbytes(count), where)

    def _read(self, start: int, stop: int) -> memoryview:
        if self._view is None:
            self._view = self._draw().view(np.uint8).data.toreadonly()
        return self._view[start:stop]

    def _draw(self) -> Values:
        generator = np.random.RandomState(self._seed)
        values = np.empty(self._count + self._count % 2, self._dtype.numpy)
        for start in range(0, values.size, _BLOCK):
            count = min(_BLOCK, values.size - start)
            words = generator.randint(0, 2**32, size=count, dtype=np.uint32)
            values[start : start + count] = self._transform(words)
        return values[: self._count]


no_gradient(
    *("UniformFill", "UniformIntFill", "XavierFill", "GaussianFill", "MSRAFill"),
    *("Float16UniformFill", "UniqueUniformFill"),
)
