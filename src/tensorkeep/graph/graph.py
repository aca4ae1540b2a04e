"""Graph: what a model has beyond its tensors, as ONNX says it; the hub for other dialects."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from tensorkeep.errors import ArgumentError, UnsafeError
from tensorkeep.graph.codec import (
    Absent,
    Opener,
    external_entries,
    fill_tensor,
    no_files,
    read_tensor,
)
from tensorkeep.graph.elements import KINDS
from tensorkeep.graph.schema import EXTERNAL, MODEL
from tensorkeep.graph.walking import Place, walk
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor

Axis = int | str | None  # a size, the name of a size that varies, or nothing known


class Value(NamedTuple):
    """What goes into a graph or comes out: a name, an element type and the axes.

    `kind` is "tensor", or another of ONNX's types ("sequence", "optional", "map", "sparse_tensor",
    "opaque"), for which the element type is empty; `axes` is None where the rank is not known.
    """

    name: str
    dtype: str
    axes: tuple[Axis, ...] | None
    kind: str = "tensor"

    def __str__(self) -> str:
        if self.kind not in ("tensor", "sparse_tensor"):
            return f"{self.name}: {self.kind}"
        if self.axes is None:
            return f"{self.name}: {self.dtype}"
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.axes)
        return f"{self.name}: {self.dtype}[{axes}]"


class Graph:
    """A model: the message that it is, and the tensors in it.

    Args:
        model: a ModelProto; see tensorkeep.graph.schema for its fields.
        opener: opens the files that tensors in other files name.
        where: names the model in messages.

    >>> from tensorkeep.graph.schema import MODEL
    >>> graph = Graph(Message(MODEL, ir_version=10))
    >>> graph.copy().model.ir_version, len(graph.tensors)
    (10, 0)
    """

    def __init__(self, model: Message, *, opener: Opener = no_files, where: str = "") -> None:
        if model.schema is not MODEL:
            raise TypeError(f"a Graph is made of a ModelProto, not of a {model.schema.name}")
        self.model = model
        self.opener = opener
        self.where = where

    def places(self) -> dict[str, Place]:
        """Give where the tensors are, by their names, as the message is now.

        Raises:
            CorruptError: the message is damaged.
            UnsafeError: there are far too many.
        """
        from_all: dict[str, Place] = {}
        for place in walk(self.model):
            from_all[place.name] = place
            if len(from_all) > _MOST:
                raise UnsafeError(f"holds more than {_MOST:,} tensors", where=self.where)
        return from_all

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, read when they are asked for; as the message is now, from now on."""
        return self._content[0]

    @cached_property
    def remarks(self) -> dict[str, str]:
        """By name, where tensors lie that are in other files, and which are missing."""
        return self._content[1]

    @cached_property
    def _content(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        tensors: dict[str, Tensor] = {}
        remarks: dict[str, str] = {}
        for name, place in self.places().items():
            tensor = tensors[name] = self.read(place)
            missing = isinstance(tensor.source, Absent)
            if place.message.data_location == EXTERNAL:
                location = external_entries(place.message).get("location", "")
                remarks[name] = f"in {location}" + (", which is missing" if missing else "")
            elif missing:
                remarks[name] = "no data"
        return tensors, remarks

    def read(self, place: Place) -> Tensor:
        """Give the tensor at a place.

        Raises:
            CorruptError: its type, shape and data contradict one another.
            UnsafeError: it names a file that is not the model's own.
        """
        where = f"{self.where}: {place.name}" if self.where else place.name
        return read_tensor(place.message, where, self.opener)

    def holding(self, tensors: Mapping[str, Tensor]) -> Graph:
        """Give a graph that holds these tensors: itself where they are its own.

        Raises:
            ArgumentError: they are not called like its own.
            UnsupportedError: ONNX has no such element type.
        """
        own = self.tensors
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())[0]
            raise ArgumentError(
                f"{odd!r} is {'not in the state' if odd in own else 'no tensor of the graph'}, so "
                "the tensors are not those that the model is made of",
                where=self.where,
                cure="Change a model through tensorkeep.models, which keeps both together.",
            )
        changed = [name for name in own if tensors[name] is not own[name]]
        if not changed:
            return self
        fresh = self.copy()
        places = fresh.places()
        for name in changed:
            fill_tensor(places[name].message, tensors[name])
        return fresh

    def copy(self) -> Graph:
        """Give a graph whose message is changed on its own; tensors are shared, not read."""
        return Graph(self.model.copy(), opener=self.opener, where=self.where)

    @property
    def metadata(self) -> dict[str, str]:
        """What the model's metadata_props say."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    @property
    def opsets(self) -> dict[str, int]:
        """The operator sets that the model uses, "" being ONNX's own."""
        return {
            "" if row.domain == "ai.onnx" else row.domain: row.version
            for row in self.model.opset_import
        }

    @property
    def inputs(self) -> list[Value]:
        """What has to be given to run it: its inputs that no initializer fills."""
        filled = {tensor.name for tensor in self.model.graph.initializer}
        filled |= {sparse["values"].name for sparse in self.model.graph.sparse_initializer}
        return [value_of(row) for row in self.model.graph.input if row.name not in filled]

    @property
    def outputs(self) -> list[Value]:
        """What it computes."""
        return [value_of(row) for row in self.model.graph.output]

    def __len__(self) -> int:
        """The number of nodes of the main graph."""
        return len(self.model.graph.node)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        inside = ", ".join(map(str, self.inputs))
        outside = ", ".join(map(str, self.outputs))
        count = f"{len(self)} node{'' if len(self) == 1 else 's'}"
        return f"Graph({count}: {inside} -> {outside})"


_MOST = 500_000
_KINDS_OF_TYPE = ("tensor", "sparse_tensor", "sequence", "optional", "map", "opaque")


def value_of(message: Message) -> Value:
    """Read a ValueInfoProto."""
    name, kind = str(message.name), message.type
    for called in _KINDS_OF_TYPE:
        if f"{called}_type" in kind:
            break
    else:
        return Value(name, "", None, "unknown")
    if called not in ("tensor", "sparse_tensor"):
        return Value(name, "", None, called)
    held = kind[f"{called}_type"]
    element = KINDS.get(held.elem_type)
    axes = tuple(map(_axis, held.shape.dim)) if "shape" in held else None
    return Value(name, element.name if element else "", axes, called)


def _axis(dimension: Message) -> Axis:
    if "dim_value" in dimension:
        return int(dimension.dim_value)
    return str(dimension.dim_param) or None
