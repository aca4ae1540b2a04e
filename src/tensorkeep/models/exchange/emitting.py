"""Emitter: an ONNX graph in the making, node by node, for what is translated to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import NUMBERS, Graph, fill_tensor
from tensorkeep.graph.schema import GRAPH, MODEL
from tensorkeep.message import Message
from tensorkeep.models.building.attributes import Body, take_attribute, write_attribute
from tensorkeep.state import Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.version import __version__

OPSET = 27  # the newest that ONNX Runtime 1.32 runs whole: of 28 it has no QuantizeLinear
IR = 10
Shape = tuple[int, ...]


class Emitter:
    """An ONNX graph that grows by nodes; it knows the types and shapes that it was told.

    Attributes:
        shapes: of values, as far as they are known; a translator keeps them.
        types: the names of the element types of values, likewise.

    >>> to = Emitter("tiny", where="example")
    >>> x = to.input("x", "float32", (1, 4))
    >>> to.output(to.node("Relu", [x], "y"), "float32", (1, 4))
    >>> to.state().graph
    Graph(1 node: x: float32[1, 4] -> y: float32[1, 4])
    """

    def __init__(self, name: str, *, where: str, opset: int = OPSET) -> None:
        self.where = where
        self.opset = opset
        self.shapes: dict[str, Shape | None] = {}
        self.types: dict[str, str] = {}
        self._graph = Message(GRAPH, name=name or "model")
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last that a hint was given
        self._constants: dict[tuple[str, Shape, bytes], str] = {}
        self._nodes: list[Message] = []
        self._domains: dict[str, int] = {"": opset}

    def reserve(self, names: Sequence[str]) -> None:
        """Keep names for values that come later, so that no fresh name takes one."""
        self._used.update(names)

    def fresh(self, hint: str) -> str:
        """Give a name that nothing has: the hint, or it with a number."""
        name, number = hint, self._numbers.get(hint, 1)
        while name in self._used or not name:
            number += 1
            name = f"{hint or 'value'}_{number}"
        self._numbers[hint] = number
        self._used.add(name)
        return name

    def input(self, name: str, dtype: str, shape: Sequence[int | str | None]) -> str:
        """Declare an input; an axis may be a size, a name for one that varies, or None."""
        self._declare("input", name, dtype, shape)
        self._used.add(name)
        self.types[name] = dtype
        sizes = [axis for axis in shape if isinstance(axis, int)]
        self.shapes[name] = tuple(sizes) if len(sizes) == len(shape) else None
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int | str | None] | None) -> None:
        """Declare a value as an output."""
        self._declare("output", name, dtype, shape)

    def weight(self, name: str, tensor: Tensor) -> str:
        """Add an initializer of this very name; it stays where it lies until it is read."""
        fill_tensor(self._graph.add("initializer", name=name), tensor)
        self._used.add(name)
        self.types[name] = tensor.dtype.name
        self.shapes[name] = tensor.shape
        return name

    def constant(self, value: Any, dtype: npt.DTypeLike | None = None, hint: str = "") -> str:
        """Give the name of an initializer of these values; equal ones are kept once."""
        array = np.asarray(value, dtype)
        if not array.flags.c_contiguous:
            array = array.copy()
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(
                self.fresh(hint or "constant"), Tensor.of(array, self.where)
            )
        return self._constants[key]

    def node(
        self,
        operator: str,
        inputs: Sequence[str | None],
        output: str | None = None,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node of one output, and give that output's name.

        Args:
            operator: its op_type.
            inputs: the names of values; None for one that is left out.
            output: the name of its output; a fresh one otherwise.
            domain: of the operator.
            attributes: its attributes; those that are None are left out. Floats have to be floats.
        """
        (made,) = self.nodes(operator, inputs, [output], domain=domain, **attributes)
        return made

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str | None],
        outputs: Sequence[str | None],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node of several outputs; None gives an output a fresh name, "" leaves it out."""
        names = [self.fresh(operator.lower()) if name is None else name for name in outputs]
        given = ["" if name is None else name for name in inputs]
        while given and not given[-1]:
            given.pop()
        node = self._graph_node(operator, given, names, domain)
        made = []
        for key, value in attributes.items():
            if value is None:
                continue
            kind = "ints" if isinstance(value, list | tuple) and not value else ""
            taken = take_attribute(key, value, kind, f"{operator}'s")
            made.append(write_attribute(taken, _no_graph))
        if made:
            node["attribute"] = made
        self._used.update(names)
        return names

    def _graph_node(
        self, operator: str, inputs: list[str], outputs: list[str], domain: str
    ) -> Message:
        node = self._graph.add("node", op_type=operator, input=inputs, output=outputs)
        node["name"] = outputs[0]
        if domain:
            node["domain"] = domain
            self._domains.setdefault(domain, 1)
        return node

    def subgraph(self, operator: str, inputs: Sequence[str], **graphs: Message) -> Message:
        """Add a node with bodies, such as a Loop; gives the message, whose outputs are to be set.

        Args:
            operator: its op_type.
            inputs: the names of values.
            graphs: its attributes that are graphs, each a GraphProto.
        """
        node = self._graph.add("node", op_type=operator, input=list(inputs))
        for key, body in graphs.items():
            node.add("attribute", name=key, type=5, g=body)  # 5: GRAPH
        return node

    def state(self, metadata: Mapping[str, Json] | None = None, doc: str = "") -> State:
        """Give the model."""
        model = Message(
            MODEL, ir_version=IR, producer_name="tensorkeep", producer_version=__version__
        )
        model["graph"] = self._graph
        for domain, version in self._domains.items():
            model.add("opset_import", domain=domain, version=version)
        for key, value in (metadata or {}).items():
            if isinstance(value, str):
                model.add("metadata_props", key=key, value=value)
        if doc:
            model.graph["doc_string"] = doc
        return State.of_graph(Graph(model, where=self.where))

    def _declare(
        self, field: str, name: str, dtype: str, shape: Sequence[int | str | None] | None
    ) -> None:
        kind = dtypes.DTYPES.get(dtype)
        if kind is None or kind not in NUMBERS:
            raise ArgumentError(f"ONNX has no element type {dtype!r}", where=self.where)
        row = self._graph.add(field, name=name)
        held = row.make("type").make("tensor_type", elem_type=NUMBERS[kind])
        if shape is None:
            return
        axes = held.make("shape")
        for axis in shape:
            if isinstance(axis, int):
                axes.add("dim", dim_value=axis)
            elif axis:
                axes.add("dim", dim_param=axis)
            else:
                axes.add("dim")


def number_of(dtype: str) -> int:
    """Give ONNX's number of an element type.

    >>> number_of("float32")
    1
    """
    return NUMBERS[_kind(dtype)]


def _kind(dtype: str) -> DType:
    return dtypes.dtype(dtype)


def _no_graph(body: Body) -> Message:
    raise ArgumentError("bodies are added by Emitter.subgraph")
