"""Fills: the operators of an init net, each of which makes one blob of its arguments.

An init net is how Caffe2 kept trained weights: a GivenTensorFill per parameter. A fill has the
shape of its argument `shape`; or, with an input, that of the input or (input_as_shape) the one that
the input's int64 values say, with extra_shape behind it.

Facts: caffe2/operators/filler_op.h, given_tensor_fill_op.h,
given_tensor_byte_string_to_uint8_fill_op.h, half_float_ops.h and
quantized/int8_given_tensor_fill_op.h of PyTorch 1.10, read and run.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.caffe2.gradient import no_gradient
from tensorkeep.caffe2.operator import Operator, create_argument, register
from tensorkeep.dtypes import DType, count_of
from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError
from tensorkeep.message import Message
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.elements import CODES, DTYPE_OF
from tensorkeep.wire.caffe2.fills import GIVEN, read_fill
from tensorkeep.wire.caffe2.schema import OPERATOR
from tensorkeep.wire.caffe2.values import INT8_TENSOR, TENSOR, Blob, Int8Tensor

Shape = tuple[int, ...]

MAX_AXES = 64
_BYTES_FILL = "GivenTensorByteStringToUInt8Fill"
_CUT = (_BYTES_FILL, "Int8GivenTensorFill", "Int8GivenIntTensorFill")  # where Caffe2 did not count
_GIVEN_DTYPES = ("float32", "float64", "bool", "int16", "int32", "int64", "string")


class FillOp(Operator):
    """A fill: where the shape of its output comes from.

    Arguments: shape ([]), input_as_shape (0), extra_shape ([]).

    Raises:
        ArgumentError: both an input and `shape`; `extra_shape` or `input_as_shape` without an
            input; a shape that is no list, or that no array can have.
    """

    takes = (0, 1)
    gives = (1, 1)

    def __init__(self, definition: Message, workspace: Any, **options: Any) -> None:
        super().__init__(definition, workspace, **options)
        given = self.arguments
        self._shape = given.integers("shape")
        self._extra_shape = given.integers("extra_shape")
        self._input_as_shape = bool(given.integer("input_as_shape"))
        if self.inputs and self._shape:
            raise ArgumentError("takes an input or a shape, not both", where=self.where)
        if not self.inputs and self._extra_shape:
            raise ArgumentError("has an extra_shape, but no input to add it to", where=self.where)
        if not self.inputs and self._input_as_shape:
            raise ArgumentError("has input_as_shape, but no input", where=self.where)

    def shape(self) -> Shape:
        """Give the shape of the output.

        Raises:
            ArgumentError: the input does not tell one.
        """
        shape = tuple(self._shape)
        if self.inputs:
            tensor = self.tensor(0)
            shape = self._values_of(tensor) if self._input_as_shape else tensor.shape
            shape += tuple(self._extra_shape)
        if any(axis < 0 for axis in shape) or len(shape) > MAX_AXES:
            raise self.problem(f"cannot have the shape {_brief(shape)}")
        return shape

    def tensor(self, index: int) -> Tensor:
        """Give the tensor of an input.

        Raises:
            ArgumentError: the blob holds something else.
        """
        blob = self.input(index)
        if not isinstance(blob.value, Tensor):
            problem = f"the input {self.inputs[index]!r} is a {blob.kind}, where a Tensor is needed"
            raise ArgumentError(problem, where=self.where)
        return blob.value

    def check_size(self, nbytes: int) -> None:
        """Refuse an output that this machine cannot hold.

        Raises:
            UnsafeError: it has more bytes than there is memory.
        """
        if nbytes > _memory():
            raise UnsafeError(
                f"{self.outputs[0]!r} is to be {nbytes:,} bytes, more than this machine has",
                where=self.where,
                cure="A few bytes of a net ask for them: check where it comes from.",
            )

    def problem(self, problem: str) -> ArgumentError:
        """Say what is wrong with the operator, naming its output."""
        return ArgumentError(f"{self.outputs[0]!r} {problem}", where=self.where)

    def _values_of(self, tensor: Tensor) -> Shape:
        if tensor.dtype is not dtypes.INT64 or tensor.ndim != 1 or not tensor.size:
            raise ArgumentError(
                f"the input {self.inputs[0]!r} is {tensor.dtype} of shape {tensor.shape}, which "
                "tells no shape",
                where=self.where,
                cure="input_as_shape needs a list of int64, not an empty one.",
            )
        if tensor.size > MAX_AXES:
            raise self.problem(f"cannot have {tensor.size} axes")
        return tuple(tensor.numpy().tolist())


@register(*(name for name in GIVEN if not name.startswith("Int8")))
class GivenTensorFillOp(FillOp):
    """Write the values of the argument `values`, as many as the shape has.

    Which of Argument's fields holds them depends on the type: floats (doubles too, which lose what
    a float cannot hold), ints or strings; one string of all bytes for uint8. GivenTensorFill takes
    a dtype (1) of FLOAT, DOUBLE, BOOL, INT16, INT32, INT64 or STRING.

    Raises:
        ArgumentError: no values, as many as the shape does not have, or ones out of range.
    """

    def run(self) -> bool:
        shape, kind = self.shape(), self._dtype()
        if kind is dtypes.STRING:
            tensor = self._string_tensor(shape)
        else:
            tensor = Tensor.of(_shaped(self, self._values(kind), shape), self.where)
        self.write(0, Blob(TENSOR, tensor, self.device))
        return True

    def _string_tensor(self, shape: Shape) -> Tensor:
        texts = _list(self, "strings")
        _check_count(self, len(texts), shape)
        data = dtypes.pack_strings(texts)
        return Tensor(dtypes.STRING, shape, MemorySource(data, self.where), 0, len(data))

    def _values(self, kind: DType) -> npt.NDArray[Any]:
        if kind.kind == "float":
            floats: npt.NDArray[Any] = _list(self, "floats")
            return floats.astype(kind.numpy, copy=False)
        if kind is not dtypes.UINT8:
            return _integers(self, kind)
        strings = _list(self, "strings")
        if len(strings) != 1:
            raise self.problem(f"needs one string of all its bytes, not {len(strings)}")
        return np.frombuffer(strings[0], np.uint8)

    def _dtype(self) -> DType:
        code = self.arguments.integer("dtype", CODES[dtypes.STRING])
        if self.type != "GivenTensorFill" or "dtype" not in self.arguments:
            if self.type == _BYTES_FILL and code != CODES[dtypes.STRING]:  # of what it is given
                raise self.problem(f"is given bytes, which cannot be of dtype {code}")
            return GIVEN[self.type]
        kind = DTYPE_OF.get(code)
        if kind is None or kind.name not in _GIVEN_DTYPES:
            raise self.problem(f"cannot be given values of dtype {code}")
        return kind


@register("Int8GivenTensorFill", "Int8GivenIntTensorFill")
class Int8GivenTensorFillOp(Operator):
    """Write a quantized tensor: uint8 of one byte string, or int32 of a list of integers.

    Arguments: shape ([]), values, Y_scale (1.0), Y_zero_point (0).

    Raises:
        ArgumentError: another count of values than the shape has. Caffe2 read on behind too few;
            of too many it took the first, which strict=False does here.
    """

    takes = (0, 0)
    gives = (1, 1)

    def run(self) -> bool:
        given = self.arguments
        if self.type == "Int8GivenTensorFill":
            values: npt.NDArray[Any] = np.frombuffer(given.bytes("values"), np.uint8)
        else:
            values = _integers(self, dtypes.INT32)
        data = Tensor.of(_shaped(self, values, tuple(given.integers("shape"))))
        quantized = Int8Tensor(data, given.number("Y_scale", 1.0), given.integer("Y_zero_point"))
        self.write(0, Blob(INT8_TENSOR, quantized, self.device))
        return True


@register("DiagonalFill", "RangeFill")
class RuledFillOp(FillOp):
    """Write a tensor that a rule makes; nothing is allocated before it is read.

    DiagonalFill: `value` on the diagonal of a matrix, or of an array whose axes are all of one
    length, and zero elsewhere. RangeFill: 0.0, 1.0, 2.0, ...

    Raises:
        ArgumentError: a dtype that cannot be filled, or a value that it does not hold.
        UnsafeError: far more than the fill can sensibly mean.
    """

    def run(self) -> bool:
        self.write(0, Blob(TENSOR, self.made(self.shape()), self.device))
        return True

    def made(self, shape: Shape) -> Tensor:
        """Give the tensor of a shape that the arguments `value` and `dtype` tell."""
        given = self.arguments
        resolved = Message(OPERATOR, type=self.type, output=self.outputs)
        resolved.arg = [given[name] for name in ("value", "dtype") if name in given]
        resolved.arg.append(create_argument("shape", list(shape)))
        try:
            tensor: Tensor = read_fill(resolved).value
        except CorruptError as error:  # the caller's arguments, rather than a file's
            raise ArgumentError(error.problem, where=self.where, cure=error.cure) from None
        return tensor


@register("ConstantFill")
class ConstantFillOp(RuledFillOp):
    """Write `value` (0.0), or the one element of a second input, everywhere.

    Without a dtype, a float value gives float32 and an integer int64.
    """

    takes = (0, 2)

    def run(self) -> bool:
        value = self.made(()) if len(self.inputs) < 2 else self._input_value()
        if value.dtype is dtypes.STRING:
            return super().run()
        shape = self.shape()
        self.check_size(value.dtype.nbytes(count_of(shape)))
        everywhere = np.broadcast_to(value.numpy().reshape(()), shape)
        self.write(0, Blob(TENSOR, Tensor.of(everywhere, self.where), self.device))
        return True

    def _input_value(self) -> Tensor:
        value = self.tensor(1)
        code = CODES[dtypes.INT64 if self.arguments.holds("value", "i") else dtypes.FLOAT32]
        kind = DTYPE_OF.get(self.arguments.integer("dtype", code))
        if kind is dtypes.STRING or value.dtype is not kind or value.shape != (1,):
            raise self.problem(
                f"is to be filled with {value.dtype} of shape {value.shape}, where one {kind} "
                "is needed"
            )
        return value


@register("Float16ConstantFill")
class Float16ConstantFillOp(ConstantFillOp):
    """Write `value` (0.0), rounded to float16, everywhere."""

    takes = (0, 0)


@register("LengthsRangeFill")
class LengthsRangeFillOp(FillOp):
    """Write 0, 1, ... up to each of the input's int32 lengths, one range behind the other."""

    takes = (1, 1)

    def run(self) -> bool:
        tensor = self.tensor(0)
        if tensor.dtype is not dtypes.INT32 or tensor.ndim != 1:
            raise self.problem(
                f"needs a list of int32 lengths, not {tensor.dtype} of shape {tensor.shape}"
            )
        lengths = tensor.numpy().astype(np.int64)
        total = int(lengths.sum())
        if np.any(lengths < 0) or total > MAX_RANGE:
            raise self.problem(f"cannot have the lengths {_brief(lengths.tolist())}")
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        values = (np.arange(total) - starts).astype(np.int32)
        self.write(0, Blob(TENSOR, Tensor.of(values), self.device))
        return True


MAX_RANGE = 1 << 28  # elements that a few lengths may stand for


def _integers(operator: Operator, kind: DType) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.asarray(_list(operator, "ints"), np.int64)
    if kind is dtypes.BOOL:
        return values.astype(np.bool_)
    limits = np.iinfo(kind.numpy)
    if values.size and not (limits.min <= values.min() and values.max() <= limits.max):
        problem = f"{operator.outputs[0]!r} is given values that do not fit {kind}"
        raise ArgumentError(problem, where=operator.where)
    return values.astype(kind.numpy, copy=False)


def _list(operator: Operator, field: str) -> Any:
    """Give a repeated field of the argument `values`, unless it holds something else."""
    given = operator.arguments
    values = given["values"][field]
    if not len(values):
        check = {"ints": given.integers, "floats": given.numbers, "strings": given.texts}
        check[field]("values")
    return values


def _shaped(operator: Operator, values: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    if not operator.strict and operator.type in _CUT and values.size > count_of(shape):
        values = values[: count_of(shape)]
    _check_count(operator, values.size, shape)
    return values.reshape(shape)


def _check_count(operator: Operator, count: int, shape: Shape) -> None:
    if any(axis < 0 for axis in shape) or count != count_of(shape):
        raise ArgumentError(
            f"{operator.outputs[0]!r} has the shape {_brief(shape)}, but {count:,} values",
            where=operator.where,
        )


def _memory() -> int:
    """Give the bytes of memory of this machine, as far as it says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 34


def _brief(numbers: Shape | list[int]) -> str:
    listed = ", ".join(map(str, numbers[:8]))
    return f"({listed}, ...)" if len(numbers) > 8 else f"({listed})"


no_gradient(
    *(name for name in GIVEN if not name.startswith("Int8")),
    *("ConstantFill", "DiagonalFill", "RangeFill", "Float16ConstantFill", "LengthsRangeFill"),
)
