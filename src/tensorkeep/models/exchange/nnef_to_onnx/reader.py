"""Reader: an NNEF document on its way to ONNX; what is known of its tensors so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.models.exchange.emitting import Emitter, Shape, number_of
from tensorkeep.models.exchange.nnef_to_onnx.arguments import Arguments
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Operation, Reference, Value

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
# What NNEF's own words for element types mean where nothing tells more.
MEANT = {"scalar": "float32", "integer": "int64", "logical": "bool"}
_CAST = "Let cast<scalar>(...) come first."
_MOST = 2**59  # elements, beyond which there is no array


@dataclass(slots=True)
class Held:
    """A tensor of the document: the ONNX value that it is, if it is one yet, its shape and type.

    Attributes:
        value: the name of the ONNX value; empty for a variable that nothing asked for yet.
        variable: the tensor and the name of a variable.
        laid: the shape of the ONNX value of a variable.
    """

    value: str
    shape: Shape
    dtype: str
    variable: tuple[str, Tensor] | None = None
    laid: Shape | None = None


class Reader(Arguments):
    """An NNEF document that is being translated.

    Attributes:
        document: what is translated.
        tensors: of its variables, by their names in the state.
        to: the ONNX graph that grows.
        report: where to note what was done.
    """

    def __init__(
        self, document: Document, tensors: Mapping[str, Tensor], to: Emitter, report: Report
    ) -> None:
        self.document = document
        self.tensors = tensors
        self.to = to
        self.report = report
        self._held: dict[str, Held] = {}
        self._names: dict[str, str] = {}
        self._variables: dict[str, Held] = {}
        self._made: dict[tuple[Any, ...], str] = {}

    # What is known of an argument.

    def shape(self, argument: Value) -> Shape:
        """Give the shape of a tensor; () for a literal."""
        return self._of(argument).shape if isinstance(argument, Reference) else ()

    def rank(self, argument: Value) -> int:
        """Give the number of axes of a tensor; 0 for a literal."""
        return len(self.shape(argument))

    def type(self, argument: Value) -> str:
        """Name the element type of a tensor; that of a literal is what it is without others."""
        if isinstance(argument, Reference):
            return self._of(argument).dtype
        kind = type(argument)
        return "bool" if kind is bool else "int64" if kind is int else "float32"

    def common(self, *arguments: Value) -> str:
        """Name the element type that tensors are computed in together; literals adapt.

        Raises:
            Refused: there is none that holds all of them.
        """
        found = list(dict.fromkeys(self.type(a) for a in arguments if isinstance(a, Reference)))
        if not found:
            return self.type(arguments[0]) if arguments else "float32"
        if len(found) == 1:
            return found[0]
        for kinds in (FLOATS, INTEGERS):
            if all(each in kinds for each in found):
                wide = np.result_type(*found).name
                if wide in found:
                    return wide
        raise Refused(f"takes {' and '.join(found)} together", _CAST)

    def common_number(self, *arguments: Value) -> str:
        """Name the floating-point type that tensors are computed in together.

        Raises:
            Refused: one of them is not floating point, which NNEF computes with alone.
        """
        dtype = self.common(*arguments)
        if dtype not in FLOATS:
            raise Refused(f"takes {dtype}, where NNEF computes with scalars", _CAST)
        return dtype

    def broadcast(self, *arguments: Value) -> Shape:
        """Give the shape that operands have together: NNEF lays them at one another's first axis.

        Raises:
            Refused: they do not fit.
        """
        return fitted([self.shape(argument) for argument in arguments])

    # ONNX values for arguments.

    def value(self, argument: Value, dtype: str | None = None) -> str:
        """Name the ONNX value of a tensor; a literal becomes a constant.

        Args:
            argument: a Reference, a number or a bool.
            dtype: the element type to have it in; as it is otherwise.

        Raises:
            Refused: it is neither a tensor nor a number, or not to be had in that type.
        """
        if not isinstance(argument, Reference):
            return self._literal(argument, dtype or self.type(argument))
        held = self._of(argument)
        return self._as(self._laid(held), held.dtype, dtype or held.dtype)

    def number(self, argument: Value, dtype: str | None = None) -> str:
        """Name the ONNX value of a tensor that has to be floating point, or a literal number."""
        self.common_number(argument)
        return self.value(argument, dtype)

    def logical(self, argument: Value) -> str:
        """Name the ONNX value of a tensor that has to be bool."""
        if self.type(argument) != "bool":
            raise Refused(f"takes {self.type(argument)}, where NNEF has logical")
        return self.value(argument)

    def scalar(self, number: float, like: Value) -> str:
        """Name a constant without axes, of the element type of a tensor."""
        return self._literal(float(number), self.type(like))

    def aligned(self, *arguments: Value, dtype: str | None = None) -> list[str]:
        """Name ONNX values of operands, so that ONNX's broadcasting does what NNEF's does.

        Args:
            arguments: tensors and literals.
            dtype: the element type to have all in; the common one otherwise.
        """
        dtype = dtype or self.common(*arguments)
        rank = len(self.broadcast(*arguments))
        return [self.raised(argument, rank, dtype) for argument in arguments]

    def raised(self, argument: Value, rank: int, dtype: str | None = None) -> str:
        """Name the ONNX value of a tensor with 1-axes at its end, to have a rank."""
        shape = self.shape(argument)
        if not shape or len(shape) >= rank:  # no axes are broadcast from either end
            return self.value(argument, dtype)
        return self.reshaped(argument, (*shape, *[1] * (rank - len(shape))), dtype)

    def reshaped(self, argument: Value, shape: Sequence[int], dtype: str | None = None) -> str:
        """Name the ONNX value of a tensor in another shape of as many elements.

        A variable that nothing else has asked for becomes an initializer of that shape.

        Raises:
            Refused: it has more or fewer elements.
        """
        wanted = tuple(shape)
        if not isinstance(argument, Reference):
            if dtypes.count_of(wanted) != 1:
                raise Refused(f"has one number where a tensor of shape {wanted} is expected")
            return self._literal(argument, dtype or self.type(argument), wanted)
        held = self._of(argument)
        if dtypes.count_of(held.shape) != dtypes.count_of(wanted):
            raise Refused(f"has shape {held.shape}, which cannot be {wanted}")
        return self._as(self._laid(held, wanted), held.dtype, dtype or held.dtype)

    def shaped(self, value: str, shape: Sequence[int]) -> str:
        """Reshape an ONNX value, the same one once."""
        key = ("Reshape", value, tuple(shape))
        if key not in self._made:
            axes = self.to.constant(list(shape), "int64", "shape")
            self._made[key] = self.to.node("Reshape", [value, axes], allowzero=1)
        return self._made[key]

    # Results.

    def result(self, op: Operation, which: int | str = 0) -> str:
        """Name the ONNX value that a result is to be."""
        return self.name_of(self.reference(op, which).name)

    def reference(self, op: Operation, which: int | str = 0) -> Reference:
        """Give a result of an operation that is one tensor."""
        if isinstance(which, int):
            results = list(op.results.values())
            found = results[which] if which < len(results) else None
        else:
            found = op.results.get(which)
        if not isinstance(found, Reference):
            raise Refused("does not give one tensor as its result")
        return found

    def references(self, op: Operation, which: int | str = 0) -> list[Reference]:
        """Give the tensors of a result that is an array."""
        results = list(op.results.values())
        found = results[which] if isinstance(which, int) else op.results.get(which)
        if not isinstance(found, list | tuple) or not all(isinstance(f, Reference) for f in found):
            raise Refused("does not give an array of tensors as its result")
        return [each for each in found if isinstance(each, Reference)]

    def name_of(self, identifier: str) -> str:
        """Name the ONNX value that a tensor of the document is to be."""
        if identifier not in self._names:
            self._names[identifier] = self.to.fresh(self.document.name_of(identifier))
        return self._names[identifier]

    def call(self, identifier: str, name: str) -> None:
        """Settle the name of the ONNX value that a tensor of the document is to be."""
        self._names[identifier] = name

    def make(
        self,
        op: Operation,
        operator: str,
        inputs: Sequence[str | None],
        shape: Sequence[int],
        dtype: str | None = None,
        *,
        which: int | str = 0,
        **attributes: Any,
    ) -> str:
        """Add a node whose output is a result of an operation.

        Args:
            op: the operation.
            operator: the node's op_type.
            inputs: the names of ONNX values.
            shape: of the result.
            dtype: of the result; that of the first input otherwise.
            which: which of the results, by its place or name.
            attributes: of the node.
        """
        reference = self.reference(op, which)
        if dtype is None:
            dtype = self.to.types.get(inputs[0] or "", "float32") if inputs else "float32"
        value = self.to.node(operator, inputs, self.result(op, which), **attributes)
        self.give(reference, value, shape, dtype)
        return value

    def give(self, reference: Reference, value: str, shape: Sequence[int], dtype: str) -> None:
        """Have an ONNX value be a tensor of the document."""
        if dtypes.count_of(tuple(shape)) >= _MOST:
            raise Refused(f"gives shape {list(shape)}, which no array can have")
        name = self.name_of(reference.name)
        if value != name:
            value = self.to.node("Identity", [value], name)
        self.to.shapes[value], self.to.types[value] = tuple(shape), dtype
        self._held[reference.name] = Held(value, tuple(shape), dtype)

    def give_input(self, reference: Reference, shape: Sequence[int], dtype: str) -> None:
        """Have a tensor of the document be an input of the graph."""
        value = self.to.input(self.name_of(reference.name), dtype, shape)
        self._held[reference.name] = Held(value, tuple(shape), dtype)

    def give_variable(self, reference: Reference, name: str, tensor: Tensor) -> None:
        """Have a tensor of the document be an initializer, once something asks for it."""
        if name not in self._variables:
            kept = (name, tensor)
            self._variables[name] = Held("", tensor.shape, tensor.dtype.name, kept)
        self._held[reference.name] = self._variables[name]

    def replace(self, reference: Reference, value: str) -> None:
        """Have another ONNX value of the same shape stand for a tensor from now on."""
        shape, dtype = self.shape(reference), self.to.types.get(value, self.type(reference))
        self.to.shapes[value], self.to.types[value] = shape, dtype
        self._held[reference.name] = Held(value, shape, dtype)

    def knows(self, identifier: str) -> bool:
        """Whether there is a tensor of that identifier by now."""
        return identifier in self._held

    def is_named(self, reference: Reference, value: str) -> bool:
        """Whether an ONNX value bears the name of a tensor of the document, or of a variable."""
        return value == self._names.get(reference.name) or value in self._variables

    def finish(self) -> None:
        """Add the variables that nothing asked for, and tell what names nothing."""
        for held in self._variables.values():
            if held.laid is None:
                self._laid(held)
        for name in self.tensors:
            if name not in self._variables:
                self.report.add("dropped", name, "no variable of the document has this label")
        for name in self.document.quantization:
            if not self.knows(name):
                self.report.add("dropped", name, "graph.quant names it, the document does not")

    # Within.

    def _of(self, reference: Reference) -> Held:
        if reference.name not in self._held:
            raise Refused(f"takes {reference.name!r}, which is not translated")
        return self._held[reference.name]

    def _laid(self, held: Held, shape: Shape | None = None) -> str:
        """Name the ONNX value of a tensor in a shape."""
        shape = held.shape if shape is None else shape
        if held.variable and held.laid is None:
            name, tensor = held.variable
            view = Tensor(tensor.dtype, shape, tensor.source, tensor.offset, tensor.nbytes)
            held.value, held.laid = self.to.weight(name, view), shape
        if shape == (held.laid or held.shape):
            return held.value
        return self.shaped(held.value, shape)

    def _as(self, value: str, dtype: str, wanted: str) -> str:
        """Cast an ONNX value to a wider type of its kind."""
        if dtype == wanted:
            return value
        for kinds in (FLOATS, INTEGERS):
            if dtype in kinds and wanted in kinds and np.can_cast(dtype, wanted):
                key = ("Cast", value, wanted)
                if key not in self._made:
                    self._made[key] = self.to.node("Cast", [value], to=number_of(wanted))
                    self.report.add("changed", value, f"{dtype} is computed with as {wanted}")
                self.to.types[self._made[key]] = wanted
                return self._made[key]
        raise Refused(f"takes {dtype}, where {wanted} is expected", _CAST)

    def _literal(self, argument: Value, dtype: str, shape: Shape = ()) -> str:
        plain = self._plain(argument)
        fits = isinstance(plain, bool) == (dtype == "bool")
        try:
            if not fits or (dtype in INTEGERS and plain != int(plain)):
                raise Refused(f"has {plain!r} where {dtype} is expected")
            with np.errstate(all="ignore"):  # a float16 beyond its range is an infinity
                return self.to.constant(np.full(shape, plain, dtype))
        except (OverflowError, ValueError):
            raise Refused(f"has {plain!r:.40}, which is no {dtype}") from None

    def _plain(self, argument: Value) -> bool | int | float:
        if not isinstance(argument, bool | int | float):
            raise Refused(f"has {str(argument)[:40]!r} where a tensor or a number is expected")
        return argument


def fitted(shapes: Iterable[Shape]) -> Shape:
    """Give the shape that shapes have together, laid at one another's first axis.

    Raises:
        Refused: they do not fit.

    >>> fitted([(2, 3, 4), (1, 3), ()])
    (2, 3, 4)
    """
    listed = list(shapes)
    together: list[int] = [1] * max(map(len, listed), default=0)
    for shape in listed:
        for axis, size in enumerate(shape):
            if size not in (1, together[axis]) and together[axis] != 1:
                told = " and ".join(str(list(each)) for each in listed)
                raise Refused(f"shapes {told} do not fit one another")
            together[axis] = size if size != 1 else together[axis]
    return tuple(together)
