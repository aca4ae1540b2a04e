"""Writer: an ONNX graph in the making that knows, as far as it can, what its values are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import DTYPES
from tensorkeep.graph.schema import GRAPH
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.shaping import infer
from tensorkeep.models.exchange.caffe2_to_onnx.sizes import Call, Dims, Known, Size, numbers
from tensorkeep.models.exchange.emitting import Emitter, Shape
from tensorkeep.models.exchange.report import Refused
from tensorkeep.state import Json, State
from tensorkeep.tensor import Tensor

_SMALL = 1 << 16  # elements of a weight that may be looked at while translating
_MOST = (1 << 63) - 1  # what a size may be
_MOST_AXES = 64
_MOST_NETS = 5  # within one another


class Writer(Emitter):
    """An Emitter that works out the types and shapes of what its nodes make.

    Attributes:
        shapeless: the inputs of which no shape is known, for messages.
        details: by weight, what beside its elements it has: scale and zero point of an Int8 one.
        nested: how many operators of nets within operators were translated.
        quantization: by quantized value that an operator made, its scale and zero point.

    >>> to = Writer("tiny", where="example")
    >>> x = to.input("x", "float32", (None, 3, 8, 8))
    >>> to.dims(to.node("GlobalAveragePool", [x]))
    (None, 3, 1, 1)
    """

    def __init__(self, name: str, *, where: str) -> None:
        super().__init__(name, where=where)
        self.shapeless: list[str] = []
        self.details: Mapping[str, Any] = {}
        self.nested = 0
        self.quantization: dict[str, tuple[float, int]] = {}
        self._dims: dict[str, Dims] = {}
        self._tensors: dict[str, Tensor] = {}
        self._tried: dict[str, int] = {}  # by hint, the last number that a fresh name got
        self._made: dict[str, None] = {}
        self._results: set[str] = set()
        self._depth = 0  # of the body that is being made

    def fresh(self, hint: str) -> str:
        """Give a name that nothing has: the hint, or it with a number."""
        tried = self._tried.get(hint, 1)
        name = hint if tried == 1 else f"{hint}_{tried}"
        while name in self._used or not name:
            tried += 1
            name = f"{hint or 'value'}_{tried}"
        self._tried[hint] = tried
        self._used.add(name)
        return name

    def input(self, name: str, dtype: str, shape: Sequence[int | str | None] | None) -> str:
        """Declare an input; without a shape not even its rank is known."""
        if shape is None:
            self.shapeless.append(name)
            self._declare("input", name, dtype, None)
            self.reserve([name])
            self.know(name, dtype, None)
            return name
        super().input(name, dtype, shape)
        self.know(name, dtype, shape)
        if None in (self.dims(name) or ()):
            self.shapeless.append(name)
        return name

    def weight(self, name: str, tensor: Tensor) -> str:
        """Add an initializer; it stays where it lies until it is read."""
        super().weight(name, tensor)
        self._tensors[name] = tensor
        self._dims[name] = tensor.shape
        return name

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str | None],
        outputs: Sequence[str | None],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node, and work out the types and shapes of what it makes."""
        names = super().nodes(operator, inputs, outputs, domain=domain, **attributes)
        given = ["" if name is None else name for name in inputs]
        call = Call(
            operator,
            [self.types.get(name, "") for name in given],
            [self._dims.get(name) for name in given],
            {key: value for key, value in attributes.items() if value is not None},
            [self._tensors.get(name) for name in given],
            len(names),
        )
        made = infer(call) if not domain else []
        self._made |= dict.fromkeys(name for name in names if name)
        for name, (dtype, dims) in zip(names, made, strict=False):
            if name:
                self.know(name, dtype, dims)
        return names

    def know(self, name: str, dtype: str, dims: Iterable[Size] | None) -> None:
        """Say the type and shape of a value: empty and None for what is not known.

        Raises:
            Refused: a size is none that there can be.
        """
        if dtype:
            self.types[name] = dtype
        known = None if dims is None else tuple(dims)
        if any(isinstance(size, int) and not 0 <= size <= _MOST for size in known or ()):
            raise Refused(f"it would make {name!r} of the shape {list(known or ())}")
        self._dims[name] = known
        sizes: Shape = tuple(axis for axis in known or () if isinstance(axis, int))
        self.shapes[name] = sizes if known is not None and len(sizes) == len(known) else None

    def limit_opset(self, most: int) -> None:
        """Have the model be of an opset that is no newer, for operators that runtimes lag with."""
        self.opset = self._domains[""] = min(self.opset, most)

    def same(self, name: str, other: str) -> None:
        """Say that a value is a weight or constant by another name."""
        self._tensors[name] = self._tensors[other]

    def has(self, name: str) -> bool:
        """Whether a value is an input, a weight, or made by a node that was added."""
        return name in self._dims or name in self._made

    @contextmanager
    def body(self, name: str) -> Iterator[Message]:
        """Have the nodes that are added meanwhile go into a graph of their own, a node's body.

        What it makes is known there alone; its outputs are to be declared before it ends.

        Raises:
            Refused: bodies lie within bodies deeper than anyone needs.
        """
        if self._depth == _MOST_NETS:
            raise Refused(f"nets lie within it more than {_MOST_NETS} deep")
        outer = self._graph, self._constants, self._made
        self._depth += 1
        self._graph, self._constants = Message(GRAPH, name=name), {}
        self._made = dict(outer[2])
        try:
            yield self._graph
        finally:
            self._graph, self._constants, self._made = outer
            self._depth -= 1

    def parameter(self, hint: str, dtype: str, dims: Iterable[Size] | None) -> str:
        """Declare an input of the body that is being made; gives its name."""
        name = self.fresh(hint)
        known = None if dims is None else tuple(dims)
        self._declare("input", name, dtype, known)
        self.know(name, dtype, known)
        return name

    def result(self, value: str) -> str:
        """Declare a value as an output of the body that is being made; gives its name there."""
        name = self.node("Identity", [value])
        self.output(name, self.type(name), self._dims[name])
        return name

    def with_bodies(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        integers: Mapping[str, int] | None = None,
        **graphs: Message,
    ) -> None:
        """Add a node with bodies, such as a Loop; of its outputs nothing is known yet.

        Args:
            operator: its op_type.
            inputs: the names of values.
            outputs: the names of its outputs, reserved or fresh.
            integers: its other attributes.
            graphs: its attributes that are bodies.
        """
        node = self.subgraph(operator, inputs, **graphs)
        for key, value in (integers or {}).items():
            node.add("attribute", name=key, type=2, i=value)  # 2: INT
        node["output"] = list(outputs)
        node["name"] = outputs[0]
        self.reserve(outputs)
        self._made |= dict.fromkeys(outputs)

    def come_out(self, name: str) -> None:
        """Declare a value as an output, of the type and shape that are known of it.

        Raises:
            Refused: its type is not known.
        """
        self.output(name, self.type(name), self._dims.get(name))
        self._results.add(name)

    def state(self, metadata: Mapping[str, Json] | None = None, doc: str = "") -> State:
        """Give the model, which says of each value what is known of it."""
        for name in self._made:
            dtype, dims = self.types.get(name), self._dims.get(name)
            if name not in self._results and dtype in DTYPES and dims is not None:
                self._declare("value_info", name, dtype, dims)
        return super().state(metadata, doc)

    def dims(self, name: str) -> Known | None:
        """Give the sizes of a value, None for an unknown one; None where its rank is not known."""
        dims = self._dims.get(name)
        return None if dims is None else numbers(dims)

    def rank(self, name: str) -> int:
        """Give the number of axes of a value.

        Raises:
            Refused: it is not known.
        """
        dims = self.dims(name)
        if dims is None:
            raise self._shapeless(f"the number of axes of {name!r} is needed")
        return len(dims)

    def axis(self, name: str, axis: int, added: int = 0) -> int:
        """Give an axis of a value, from the front where its rank is known; `added` ones count too.

        Raises:
            Refused: there is none such.
        """
        dims = self.dims(name)
        rank = _MOST_AXES if dims is None else len(dims) + added
        if not -rank <= axis < rank:
            has = f"{name!r} has {rank} axes" if dims is not None else "no tensor has so many axes"
            raise Refused(f"its axis is {axis}, and {has}")
        return axis if dims is None else axis % rank

    def shape(self, name: str, axes: Iterable[int] | None = None) -> list[int]:
        """Give the sizes of a value, or of some of its axes.

        Raises:
            Refused: they are not known.
        """
        dims = self.dims(name)
        chosen = dims if dims is None or axes is None else tuple(dims[axis] for axis in axes)
        if chosen is None or None in chosen:
            raise self._shapeless(f"the shape of {name!r} is needed")
        return [axis for axis in chosen if axis is not None]

    def type(self, name: str) -> str:
        """Name the element type of a value.

        Raises:
            Refused: it is not known.
        """
        if not self.types.get(name):
            raise Refused(f"the element type of {name!r} is not known")
        return self.types[name]

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """Give the values of a small weight or constant; None for what is computed or large."""
        tensor = self._tensors.get(name)
        return None if tensor is None or tensor.size > _SMALL else tensor.numpy()

    def tensor(self, name: str) -> Tensor | None:
        """Give a weight or constant; None for what is computed."""
        return self._tensors.get(name)

    def integers(self, name: str, what: str) -> list[int]:
        """Give a constant as a list of integers; `what` says in messages what they are.

        Raises:
            Refused: it is computed when the model runs.
        """
        array = self.array(name)
        if array is None or array.dtype.kind not in "iu":
            raise Refused(f"{what} ({name!r}) is not a constant of integers")
        return [int(value) for value in array.reshape(-1)]

    def transposed(self, name: str, axes: Sequence[int], output: str | None = None) -> str:
        """Transpose a value, unless that changes nothing and it needs no name of its own."""
        if output is None and list(axes) == list(range(len(axes))):
            return name
        return self.node("Transpose", [name], output, perm=list(axes))

    def channels_first(self, name: str) -> str:
        """Put the last axis of a value, its channels, second."""
        rank = self.rank(name)
        return self.transposed(name, [0, rank - 1, *range(1, rank - 1)])

    def channels_last(self, name: str, output: str | None = None, rank: int | None = None) -> str:
        """Put the second axis of a value, its channels, last."""
        rank = self.rank(name) if rank is None else rank
        return self.transposed(name, [0, *range(2, rank), 1], output)

    def reshaped(self, name: str, shape: Sequence[int], output: str | None = None) -> str:
        """Reshape a value; 0 keeps the size of that axis, -1 takes what is left."""
        if output is None and self.dims(name) == tuple(shape) and all(a > 0 for a in shape):
            return name
        return self.node("Reshape", [name, self.constant(shape, np.int64)], output)

    def shaped_like(self, name: str, other: str, output: str | None = None) -> str:
        """Reshape a value to what another one's shape is."""
        dims = self.dims(other)
        if dims is not None and dims.count(None) <= 1 and 0 not in dims:
            made = self.reshaped(name, [-1 if axis is None else axis for axis in dims], output)
        else:
            made = self.node("Reshape", [name, self.node("Shape", [other])], output)
        self.know(made, self.types.get(name, ""), self._dims.get(other))
        return made

    def along(self, name: str, axis: int, rank: int) -> str:
        """Reshape a vector so that it is along one axis of so many when it is broadcast."""
        size = self.dims(name)
        length = -1 if size is None or len(size) != 1 or size[0] is None else size[0]
        return self.reshaped(name, [length, *[1] * (rank - axis - 1)])

    def _shapeless(self, problem: str) -> Refused:
        if not self.shapeless:
            return Refused(f"{problem}, and cannot be told before it runs")
        named = self.shapeless[0]
        return Refused(
            f"{problem}, and that of the input {named!r} is not known",
            f"Give it: shapes={{{named!r}: (1, 3, 224, 224)}}, or --shape {named}=1,3,224,224.",
        )


__all__ = ["Writer"]
