"""A whole graph that computes in another floating-point type.

Every value of the old type becomes one of the new type. What an operator takes or gives in the old
type alone, by the type constraints of its schema, is cast before and behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import LossError, UnsupportedError
from tensorkeep.graph import KINDS, NUMBERS, Graph
from tensorkeep.graph.schema import ATTRIBUTE, ATTRIBUTE_TYPES
from tensorkeep.graph.walking import node_name, subgraphs
from tensorkeep.message import Message
from tensorkeep.models.editing.cast_nodes import cast_node, recast
from tensorkeep.models.editing.draft import Draft, counted
from tensorkeep.models.editing.operator_types import Operators
from tensorkeep.models.editing.scopes import (
    captured,
    computed,
    defined,
    fresh,
    initialized,
    names_anywhere,
    rename_values,
    used_by,
)
from tensorkeep.models.editing.value_types import (
    check_sound,
    declared,
    element_of,
    inferred,
    is_tensor,
    retype,
)

_INT, _TENSOR = ATTRIBUTE_TYPES["INT"], ATTRIBUTE_TYPES["TENSOR"]
# Attributes that say an element type, and the operators that give float32 where they say none.
_SAY = ("to", "dtype", "output_datatype", "output_dtype")
_GIVE_FLOAT = {
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "SequenceEmpty": "dtype",
    "HannWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
}
_HOLD = ("Constant", "ConstantOfShape")


class Types(NamedTuple):
    """What is cast: the numbers of the old element types and of the new one, and the latter."""

    old: frozenset[int]
    new: int
    dtype: DType


def apply(draft: Draft, to: DType, *, keep_io: bool) -> None:
    """Have the main graph of a draft compute in another type."""
    if draft.model.training_info:
        raise LossError(
            f"its training_info works on the types that it has, not on {to}",
            where=draft.where,
            cure="Cast the weights alone, without compute=True.",
        )
    kinds = (dtypes.FLOAT16, dtypes.BFLOAT16) if to is dtypes.FLOAT32 else (dtypes.FLOAT32,)
    types = Types(frozenset(NUMBERS[kind] for kind in kinds), NUMBERS[to], to)
    thin = inferred(Graph(draft.model, opener=draft.graph.opener, where=draft.where))
    work = _Work(draft, Operators(draft.graph.opsets, draft.model), types)
    work.convert(draft.main, thin.graph, {}, keep_io=keep_io)
    try:
        check_sound(draft)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"cannot be cast to {to}: {error.problem}",
            where=draft.where,
            cure="Cast the weights alone, without compute=True.",
        ) from None
    draft.said.append(
        f"cast the graph to {to}: {counted(work.tensors, 'tensor')}, "
        f"{counted(work.kept, 'node')} left as they were between Casts"
    )


class _Work:
    def __init__(self, draft: Draft, operators: Operators, types: Types) -> None:
        self.draft = draft
        self.operators = operators
        self.types = types
        self.taken = names_anywhere(draft.model)
        self.tensors = 0
        self.kept = 0
        self.called: set[str] = set()  # the names of its Casts
        self.narrow = f".{types.dtype}"

    def convert(
        self, graph: Message, thin: Message, around: Mapping[str, int], *, keep_io: bool = False
    ) -> None:
        """Cast a GraphProto in place.

        Args:
            graph: what to cast.
            thin: the same graph with inferred types.
            around: the element types of the values around it that are to be cast, by name.
            keep_io: leave its inputs and outputs as they are.
        """
        own = set(defined(graph))
        rows = {name: row for name, row in declared(thin).items() if name in own}
        olds = {
            n: element_of(r.type) for n, r in rows.items() if element_of(r.type) in self.types.old
        }
        olds |= {name: number for name, number in around.items() if name not in own}
        self._need_types(graph, rows)
        stays = self._staying(graph, olds)
        given = {row.name for row in graph.output} if keep_io else set()
        given &= {row.name for row in graph.initializer} & olds.keys()
        for row in graph.initializer:
            if row.name in olds and row.name not in stays | given:
                recast(self.draft, row, self.types.dtype)
                self.tensors += 1
        for sparse in graph.sparse_initializer:
            if sparse["values"].name in olds and sparse["values"].name not in stays:
                recast(self.draft, sparse["values"], self.types.dtype)
        nodes: list[Message] = []
        casts: dict[str, str] = {}
        for place, (node, known) in enumerate(zip(list(graph.node), thin.node, strict=True)):
            inner = {name: number for name, number in olds.items() if name not in stays}
            if self.operators.knows(node):
                for sub, sub_thin in zip(subgraphs(node), subgraphs(known), strict=True):
                    self.convert(sub, sub_thin, inner)
            else:
                nodes += self._given_back(node, inner, casts)
            nodes += self._converted(node, place, olds, stays, rows, casts)
        graph.node = nodes
        for row in (*graph.value_info, *graph.input, *graph.output):
            if row.name not in stays:
                retype(row.type, self.types.old, self.types.new)
        if keep_io:
            self._keep_io(graph, olds, given)

    def _need_types(self, graph: Message, rows: Mapping[str, Message]) -> None:
        unknown = [name for name in computed(graph) if name not in rows]
        if unknown:
            raise UnsupportedError(
                f"the type of {unknown[0]!r} is not known",
                where=self.draft.where,
                cure="Have the model say it in its value_info, as shape inference does.",
            )

    def _staying(self, graph: Message, olds: Mapping[str, int]) -> set[str]:
        """Name the initializers that no node takes in the new type."""
        takes: set[str] = {row.name for row in graph.output}
        for place, node in enumerate(graph.node):
            bad = self._refused(node, place, olds)
            takes.update(n for i, n in enumerate(node.input) if n and i not in bad)
            takes.update(name for name in used_by(node) if name not in node.input)
        return {name for name in initialized(graph) if name in olds and name not in takes}

    def _refused(self, node: Message, place: int, olds: Mapping[str, int]) -> set[int]:
        inputs = [i for i, name in enumerate(node.input) if name in olds]
        if not inputs:
            return set()
        takes = self.operators.takes(node, self.types.dtype)
        return {i for i in inputs if not takes(i)}

    def _given_back(
        self, node: Message, olds: Mapping[str, int], casts: dict[str, str]
    ) -> list[Message]:
        """Give the graphs in a node that is not known what they see as it was."""
        before: list[Message] = []
        for graph in subgraphs(node):
            names = {}
            for name in captured(graph):
                if name in olds:
                    names[name] = self._cast_back(name, olds[name], casts, before)
            rename_values(graph, names, self.draft.where)
        return before

    def _cast_back(
        self, name: str, number: int, casts: dict[str, str], before: list[Message]
    ) -> str:
        if name not in casts:
            casts[name] = fresh(f"{name}.{KINDS[number]}", self.taken)
            before.append(self._cast(name, casts[name], number))
        return casts[name]

    def _converted(
        self,
        node: Message,
        place: int,
        olds: Mapping[str, int],
        stays: set[str],
        rows: Mapping[str, Message],
        casts: dict[str, str],
    ) -> list[Message]:
        """Cast a node; gives it with what has to stand before and behind it."""
        before: list[Message] = []
        behind: list[Message] = []
        for i in sorted(self._refused(node, place, olds)):
            name = node.input[i]
            if name in stays:
                continue
            self._need_tensor(name, rows, node, place)
            node.input[i] = self._cast_back(name, olds[name], casts, before)
        gives = self.operators.gives(node, self.types.dtype)
        self._restate(node)
        for i, name in enumerate(node.output):
            if name not in olds or gives(i):
                continue
            self._need_tensor(name, rows, node, place)
            node.output[i] = fresh(f"{name}.{KINDS[olds[name]]}", self.taken)
            behind.append(self._cast(node.output[i], name, self.types.new))
        self.kept += bool(before or behind)
        return [*before, node, *behind]

    def _need_tensor(
        self, name: str, rows: Mapping[str, Message], node: Message, place: int
    ) -> None:
        if name in rows and not is_tensor(rows[name].type):
            raise UnsupportedError(
                f"{node_name(node, place)!r} ({node.op_type}) has no {self.types.dtype}, "
                f"and {name!r} is no tensor, so that it cannot be cast",
                where=self.draft.where,
                cure="Cast the weights alone, without compute=True.",
            )

    def _cast(self, source: str, target: str, to: int) -> Message:
        name = fresh(f"tensorkeep.compute:{target}", self.called)
        return cast_node(name, source, target, to)

    def _restate(self, node: Message) -> None:
        """Have a node say the new type where it says the old one."""
        if node.domain not in ("", "ai.onnx"):
            return
        said = {row.name: row for row in node.attribute}
        for name in _SAY:
            is_old = name in said and said[name].i in self.types.old
            if is_old and self.operators.says(node, self.types.dtype):
                said[name].i = self.types.new
        name = _GIVE_FLOAT.get(node.op_type, "")
        floats = NUMBERS[dtypes.FLOAT32] in self.types.old
        if name and name not in said and floats and self.operators.says(node, self.types.dtype):
            node.add("attribute", name=name, i=self.types.new, type=_INT)
        if node.op_type in _HOLD:
            self._restate_constant(node, said, floats)

    def _restate_constant(self, node: Message, said: Mapping[str, Message], floats: bool) -> None:
        if "value" in said and "t" in said["value"]:
            if said["value"].t.data_type in self.types.old:
                recast(self.draft, said["value"].t, self.types.dtype)
        elif "sparse_value" in said:
            values = said["sparse_value"].sparse_tensor["values"]
            if values.data_type in self.types.old:
                recast(self.draft, values, self.types.dtype)
        elif floats:
            for name in ("value_float", "value_floats"):
                if name in said:
                    values = said[name].f if name == "value_float" else said[name].floats
                    _hold(said[name], np.asarray(values, "<f4"))
                    recast(self.draft, said[name].t, self.types.dtype)
            if node.op_type == "ConstantOfShape" and "value" not in said:
                row = Message(ATTRIBUTE, name="value")
                node.attribute.append(row)
                _hold(row, np.zeros(1, "<f4"))
                recast(self.draft, row.t, self.types.dtype)

    def _keep_io(self, graph: Message, olds: Mapping[str, int], given: set[str]) -> None:
        """Cast inputs and outputs inside, so that they are what they were outside.

        Initializers that are `given` as outputs stay as well.
        """
        where, made = self.draft.where, set(computed(graph))
        filled = set(initialized(graph)) - given
        inputs = [r for r in graph.input if r.name in olds and r.name not in filled]
        outputs = [r for r in graph.output if r.name in olds and r.name in made]
        names: dict[str, str] = {}
        for row in (*inputs, *outputs):
            if not is_tensor(row.type):
                raise UnsupportedError(
                    f"{row.name!r} is no tensor, so it cannot be cast where it enters or leaves",
                    where=where,
                    cure="Let inputs and outputs change too, with keep_io=False.",
                )
            names[row.name] = fresh(row.name + self.narrow, self.taken)
        names |= {name: fresh(name + self.narrow, self.taken) for name in given - names.keys()}
        entering = dict.fromkeys((*(r.name for r in inputs), *sorted(given)))
        first = [self._cast(name, names[name], self.types.new) for name in entering]
        last = [self._cast(names[r.name], r.name, olds[r.name]) for r in outputs]
        held = (list(graph.input), list(graph.output), list(graph.initializer))
        graph.input, graph.output = [], []
        graph.initializer = [row for row in held[2] if row.name not in given]
        rename_values(graph, names, where)
        graph.input, graph.output, graph.initializer = held
        for row in (*graph.input, *graph.output):
            if row.name in names:
                retype(row.type, (self.types.new,), olds[row.name])
        graph.node = [*first, *graph.node, *last]


def _hold(attribute: Message, values: np.ndarray) -> None:
    """Have an attribute hold a tensor in place of what it held."""
    for name in ("f", "floats"):
        attribute.drop(name)
    attribute.name, attribute.type = "value", _TENSOR
    tensor = attribute.make("t", data_type=NUMBERS[dtypes.FLOAT32], raw_data=values.tobytes())
    tensor.dims = np.array(values.shape, np.int64)
