"""Writer: an NNEF document in the making, operation by operation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.onnx_to_nnef.signatures import LOGICAL, PARAMETERS, result_of
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.models.exchange.settled import Node, Settled, Shape
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.operations import Operation, Quantization, Reference, Value, references

NUMBERS = ("float32", "float16", "float64")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
KINDS = {
    **dict.fromkeys(NUMBERS, "scalar"),
    **dict.fromkeys(INTEGERS, "integer"),
    "bool": "logical",
}
PLAIN = {"scalar": "float32", "integer": "int64", "logical": "bool"}  # what NNEF's words tell
_MOST_AXES = 8  # of a tensor file
_MOST_MADE = 1 << 25  # elements of a constant that ONNX does not have

Operand = Reference | float | int | bool


class Writer:
    """NNEF operations, and the variables that they need.

    Attributes:
        model: what is translated.
        report: where to note what was done.
        operations: so far, in order.
        variables: the tensors of variables, by their identifiers.
        declarations: the operations that declare the variables.
        quantization: what graph.quant is to say, by identifier.
        types: element types that NNEF's own words do not tell, by identifier.
        shapes: by identifier, as far as they are known; all that ONNX has a name for are.
    """

    def __init__(self, model: Settled, report: Report) -> None:
        self.model = model
        self.report = report
        self.operations: list[Operation] = []
        self.variables: dict[str, Tensor] = {}
        self.declarations: list[Operation] = []
        self.quantization: dict[str, Quantization] = {}
        self.types: dict[str, str] = {}
        self.shapes: dict[str, Shape] = {}
        self._elements: dict[str, str] = {}  # the element types of all, by identifier
        self._identifiers: dict[str, str] = {}  # by ONNX's names
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # how far names of each kind are counted
        self._lifted: dict[tuple[str, int], Reference] = {}
        self._same: dict[str, Reference] = {}
        self._takers: dict[str, list[Node]] = {}
        self._givers: dict[str, Node] = {}
        self._reserve()

    def _reserve(self) -> None:
        """Have every name of ONNX's that is an identifier stay what it is."""
        names = [*self.model.inputs, *self.model.outputs]
        names += [name for node in self.model.nodes for name in (*node.outputs, *node.inputs)]
        for name in dict.fromkeys(names):
            if name and _plain(name) == name:
                self._identifiers[name] = self.fresh(name)

    def takers(self, name: str) -> list[Node]:
        """Give the nodes that take a value."""
        if not self._takers:
            for node in self.model.nodes:
                for each in dict.fromkeys(node.inputs):
                    self._takers.setdefault(each, []).append(node)
        return self._takers.get(name, [])

    def giver(self, name: str) -> Node | None:
        """Give the node that gives a value."""
        if not self._givers:
            self._givers = {each: node for node in self.model.nodes for each in node.outputs}
        return self._givers.get(name)

    def identifier(self, name: str) -> str:
        """Give the identifier of an ONNX value, the same for the same one."""
        if name not in self._identifiers:
            self._identifiers[name] = self.fresh(name)
        return self._identifiers[name]

    def names(self) -> dict[str, str]:
        """Give by identifier what ONNX calls the value, where that is something else."""
        known = self._identifiers.items()
        return {identifier: name for name, identifier in known if identifier != name}

    def fresh(self, hint: str) -> str:
        """Give an identifier that nothing has."""
        plain = _plain(hint)
        name, number = plain, self._numbers.get(plain, 1)
        while name in self._taken:
            number += 1
            name = f"{plain}_{number}"
        self._numbers[plain] = number
        self._taken.add(name)
        return name

    def tensor(self, name: str) -> Reference:
        """Refer to an ONNX value; a constant becomes a variable when it is first referred to.

        Raises:
            Refused: NNEF has no such element type, or not so many axes.
        """
        if name in self._same:
            return self._same[name]
        identifier = self.identifier(name)
        if self.model.is_constant(name) and identifier not in self._elements:
            self._declare(identifier, self.model.constants[name], label_of(name, identifier))
        elif identifier not in self._elements:
            self.give(name)
        return Reference(identifier)

    def value(self, name: str) -> Operand:
        """Refer to an ONNX value; a constant of one number and no axes becomes that number."""
        return self._literal(name, 0)

    def _literal(self, name: str, rank: int) -> Operand:
        """Refer to a value; a constant of one number, and of at most so many axes, is inlined."""
        if not self.model.is_constant(name):
            return self.tensor(name)
        tensor = self.model.constants[name]
        if tensor.size != 1 or tensor.ndim > rank or tensor.dtype.name not in KINDS:
            return self.tensor(name)
        number = literal(tensor.numpy())
        return self.tensor(name) if number is None else number

    def aligned(self, *names: str) -> list[Operand]:
        """Refer to ONNX values that are broadcast to one another, as NNEF broadcasts them.

        NNEF takes axes that are missing to be the last ones, ONNX the first: these are put there.
        Constants of one number become that number, but for the last operand that is a tensor.
        """
        rank = max(self.model.rank(name) for name in names)
        found: list[Operand] = []
        for index, name in enumerate(names):
            others = [*names[:index], *names[index + 1 :]]
            most = max((self.model.rank(o) for o in others if not self._single(o)), default=-1)
            found.append(self._literal(name, most) if most >= 0 else self.tensor(name))
        return [self.lifted(value, rank) for value in found]

    def _single(self, name: str) -> bool:
        return self.model.is_constant(name) and self.model.constants[name].size == 1

    def lifted(self, value: Operand, rank: int) -> Operand:
        """Put axes of one before a tensor's until it has so many; numbers have none."""
        if not isinstance(value, Reference):
            return value
        missing = rank - len(self.shape_of(value))
        if missing <= 0 or not self.shape_of(value):
            return value
        key = (value.name, missing)
        if key not in self._lifted:
            self._lifted[key] = self.unsqueeze(value, range(missing))
        return self._lifted[key]

    def variable(self, array: npt.NDArray[Any], hint: str) -> Reference:
        """Add a variable of values that ONNX has under no name."""
        identifier = self.fresh(hint)
        values = np.asarray(array)
        self._declare(identifier, Tensor.of(values, self.model.where), identifier)
        return Reference(identifier)

    def emit(
        self,
        operation: str,
        arguments: Mapping[str, Any],
        output: str | None = None,
        dtype: str = "",
        *,
        shape: Sequence[int] | None = None,
        type: str = "",
    ) -> Reference:
        """Add an operation of one result.

        Args:
            operation: what NNEF calls it.
            arguments: all that differ from their defaults, tensors first, by NNEF's names.
            output: the ONNX value that it gives; None for one between.
            dtype: its type in angle brackets, where it has one.
            shape: of a result between, where it is not that of its operands broadcast.
            type: the element type of a result between, where it is not that of its operands.
        """
        _check_numbers(operation, list(arguments.values()))
        if output:
            if shape is not None:  # which inference does not tell of all operators
                self.model.shapes.setdefault(output, tuple(shape))
            made = self.give(output)
        else:
            made = Reference(self.fresh(operation))
            known = shape if shape is not None else self._broadcast(arguments)
            if known is not None:
                self.shapes[made.name] = tuple(known)
            self._note(made.name, type or self._type_of(operation, arguments, dtype))
        results: dict[str, Value] = {result_of(operation): made}
        self.operations.append(Operation(operation, dict(arguments), results, dtype))
        return made

    def emit_list(
        self, operation: str, arguments: Mapping[str, Any], outputs: Sequence[str]
    ) -> list[Reference]:
        """Add an operation whose one result is an array of tensors, such as split.

        An output that is left out ("") gets an identifier of its own.
        """
        made = []
        for output in outputs:
            made.append(self.give(output) if output else Reference(self.fresh(operation)))
            if not output:
                self._note(made[-1].name, self._type_of(operation, arguments, ""))
        results: dict[str, Value] = {result_of(operation): list(made)}
        self.operations.append(Operation(operation, dict(arguments), results))
        return made

    def apply(
        self,
        operation: str,
        *operands: Any,
        output: str | None = None,
        shape: Sequence[int] | None = None,
        **arguments: Any,
    ) -> Reference:
        """Add an operation by its tensors in NNEF's order, and the rest by name.

        >>> to = Writer(Settled([], ["x"], [], {"x": "float32"}, {"x": (2,)}, {}), Report("", ""))
        >>> to.apply("mul", to.apply("exp", to.tensor("x")), 0.5)
        Reference(name='mul')
        """
        given = dict(zip(PARAMETERS[operation], operands, strict=False))
        return self.emit(operation, {**given, **arguments}, output, shape=shape)

    def alias(self, output: str, value: Operand) -> None:
        """Have an ONNX value be another one, by `copy`."""
        self.emit("copy", {"x": value}, output)

    def same(self, output: str, value: Reference) -> None:
        """Have an ONNX value be what another identifier stands for, without an operation."""
        self._same[output] = value

    def dequantized(self, name: str, quantization: Quantization, type: str) -> Reference:
        """Refer to a constant of integers as the numbers that graph.quant says they stand for."""
        made = self.tensor(name)
        if made.name not in self.quantization:
            self.quantization[made.name] = quantization
            declared = next(d for d in reversed(self.declarations) if made.name in d.outputs())
            declared.dtype = "scalar"
            self._note(made.name, type)
        return made

    def reshape(
        self, value: Reference, shape: Sequence[int], output: str | None = None
    ) -> Reference:
        """Give a tensor another shape of as many elements."""
        arguments = {"input": value, "shape": [int(axis) for axis in shape]}
        return self.emit("reshape", arguments, output, shape=shape)

    def transpose(
        self, value: Reference, axes: Sequence[int], output: str | None = None
    ) -> Reference:
        """Put a tensor's axes in another order."""
        shape = self.shape_of(value)
        arguments = {"input": value, "axes": list(axes)}
        return self.emit("transpose", arguments, output, shape=[shape[axis] for axis in axes])

    def squeeze(
        self, value: Reference, axes: Sequence[int], output: str | None = None
    ) -> Reference:
        """Take axes of one out of a tensor's."""
        kept = [size for axis, size in enumerate(self.shape_of(value)) if axis not in axes]
        arguments = {"input": value, "axes": sorted(axes)}
        return self.emit("squeeze", arguments, output, shape=kept)

    def unsqueeze(
        self, value: Reference, axes: Sequence[int], output: str | None = None
    ) -> Reference:
        """Put axes of one in where they then are."""
        shape = list(self.shape_of(value))
        for axis in sorted(axes):
            shape.insert(axis, 1)
        arguments = {"input": value, "axes": sorted(axes)}
        return self.emit("unsqueeze", arguments, output, shape=shape)

    def cast(self, value: Operand, type: str, output: str | None = None) -> Reference:
        """Convert between numbers, integers and logical values; `type` is ONNX's."""
        if type not in KINDS:
            raise Refused(f"it casts to {type}, which NNEF does not have")
        return self.emit("cast", {"input": value}, output, KINDS[type], type=type)

    def affordable(self, count: int) -> None:
        """Refuse to make a variable of so many elements that a model cannot have meant it."""
        if count > _MOST_MADE:
            raise Refused(f"it would take a constant of {count:,} elements")

    def need(self, name: str, *kinds: str, what: str = "") -> None:
        """Refuse a value whose element type is not one of these."""
        found = self.model.type(name)
        if found not in kinds:
            raise Refused(f"{what or repr(name)} is {found}, where NNEF computes with scalars")

    def shape(self, name: str) -> Shape:
        """Give the shape of an ONNX value."""
        return self.model.shape(name)

    def shape_of(self, value: Operand) -> Shape:
        """Give the shape of what an operation gave; a number has no axes.

        Raises:
            Refused: it was not told to `emit`.
        """
        if not isinstance(value, Reference):
            return ()
        if value.name not in self.shapes:
            raise Refused(f"the shape of {value.name!r} is not known before it runs")
        return self.shapes[value.name]

    def type_of(self, value: Operand) -> str:
        """Name the element type, as ONNX calls it, of what an operation gave."""
        if isinstance(value, Reference):
            return self._elements[value.name]
        return "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else ""

    def give(self, name: str) -> Reference:
        """Refer to an ONNX value that an operation, or the outside, is about to give.

        Raises:
            Refused: NNEF has no such element type, or it has no elements.
        """
        identifier = self.identifier(name)
        self.shapes[identifier] = self.model.shape(name)
        if 0 in self.shapes[identifier]:
            raise Refused(f"{name!r} has no elements ({self.shapes[identifier]}), NNEF's have some")
        self._note(identifier, self.model.type(name))
        return Reference(identifier)

    def _declare(self, identifier: str, tensor: Tensor, label: str) -> None:
        if tensor.ndim > _MOST_AXES:
            raise Refused(
                f"{label!r} has {tensor.ndim} axes, a file of NNEF's at most {_MOST_AXES}"
            )
        if not tensor.size:
            raise Refused(f"{label!r} has no elements ({tensor.shape}), NNEF's have some")
        self.shapes[identifier] = tensor.shape
        self._note(identifier, tensor.dtype.name)
        self.types.pop(identifier, None)  # its file tells
        self.variables[identifier] = tensor
        arguments: dict[str, Value] = {"shape": list(tensor.shape), "label": label}
        results: dict[str, Value] = {"output": Reference(identifier)}
        dtype = KINDS[tensor.dtype.name]
        self.declarations.append(Operation("variable", arguments, results, dtype))

    def _note(self, identifier: str, type: str) -> None:
        if type not in KINDS:
            raise Refused(f"{identifier!r} is {type}, which NNEF does not have", _cast_cure(type))
        self._elements[identifier] = type
        if PLAIN[KINDS[type]] != type:
            self.types[identifier] = type

    def _type_of(self, operation: str, arguments: Mapping[str, Any], dtype: str) -> str:
        if operation in LOGICAL:
            return "bool"
        if dtype or operation.startswith("arg"):
            return PLAIN[dtype or "integer"]
        values = [value for key, value in arguments.items() if key != "condition"]
        for each in references(values):
            return self._elements[each.name]
        numbers = [self.type_of(value) for value in values if isinstance(value, bool | int)]
        return numbers[0] if numbers else "float32"

    def _broadcast(self, arguments: Mapping[str, Any]) -> Shape | None:
        """Give the shape of operands broadcast as NNEF does, from the first axis on."""
        shapes = [self.shapes.get(each.name) for each in references(list(arguments.values()))]
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes):
            return None
        rank = max(map(len, known), default=0)
        padded = [(*shape, *(1,) * (rank - len(shape))) for shape in known]
        return tuple(max(sizes) for sizes in zip(*padded, strict=True))


def literal(array: npt.NDArray[Any]) -> Operand | None:
    """Give an array of one element as a number that text can say; None where it cannot.

    >>> literal(np.float32([0.1])), literal(np.array(float("nan")))
    (0.1, None)
    """
    value = array.reshape(-1)[0]
    if array.dtype.kind != "f":
        return bool(value) if array.dtype.kind == "b" else int(value)
    # The fewest digits that are this float32, so that 0.1 reads as 0.1.
    number = float(str(value)) if array.dtype == np.float32 else float(value)
    return number if math.isfinite(number) else None


def _check_numbers(operation: str, value: Value) -> None:
    """Refuse numbers that NNEF's text has no word for."""
    if isinstance(value, list | tuple):
        for item in value:
            _check_numbers(operation, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Refused(f"it becomes {operation} with {value}, a number that text cannot say")


def label_of(name: str, identifier: str) -> str:
    """Give the label of a variable: its name where that is a safe path."""
    safe = re.fullmatch("[A-Za-z0-9_.:-]+(/[A-Za-z0-9_.:-]+)*", name) is not None
    return name if safe and not {".", ".."} & set(name.split("/")) else identifier


def _plain(hint: str) -> str:
    plain = re.sub("[^A-Za-z0-9_]", "_", hint)
    return f"t_{plain}" if not plain or plain[0].isdigit() or plain in RESERVED else plain


def _cast_cure(type: str) -> str:
    return 'Cast the model with tk.cast(model, "float32") first.' if type == "bfloat16" else ""


RESERVED = frozenset(
    (
        *("version", "extension", "graph", "fragment", "tensor", "integer", "scalar", "logical"),
        *("string", "true", "false", "for", "in", "if", "else", "yield", "lengthof", "shape_of"),
        *("length_of", "range_of", "shapeof", "rangeof"),
    )
)
