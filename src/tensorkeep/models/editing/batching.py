"""Another size of the batch, or one that varies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from tensorkeep.errors import ArgumentError, TensorKeepError, UnsupportedError
from tensorkeep.graph import Graph, Place
from tensorkeep.graph.walking import ATTRIBUTE, graphs_within
from tensorkeep.message import Message
from tensorkeep.models.editing.batch_holders import misfits
from tensorkeep.models.editing.draft import Draft, counted, edited
from tensorkeep.models.editing.scopes import fresh, initialized, names_anywhere, used_by
from tensorkeep.models.editing.value_types import axes, check_sound, declared, inferred, int64s
from tensorkeep.models.opening import Model
from tensorkeep.state import State

Size = int | str
_NAME = re.compile(r"(?!-?\d+$)\S(.*\S)?")  # what is no number that went astray
_TRIAL = 1_000_003  # the size, which no other axis has, while it is followed through the graph
_TARGETS = {"Reshape": 1, "Expand": 1, "Resize": 3}  # which input is a shape


def batch(model: Model, size: Size, *, axis: int = 0, partial: bool = False) -> State:
    """Change the size of the batch of a model, or make it one that varies.

    Inputs, outputs and value_info follow, and constant shapes in which the size stood. Where the
    onnx package is installed, the size is followed through the graph by shape inference; otherwise
    it is what the model declares.

    Args:
        model: a path or a state; it is not changed.
        size: the size, or a name for one that varies, such as "N".
        axis: which axis of the inputs and outputs is the batch.
        partial: go on where something holds the old size and cannot be changed.

    Raises:
        UnsupportedError: something holds the old size and cannot be changed; says what.
        ArgumentError: it is no size, or no input has such an axis.
    """
    return edited(model, lambda draft: apply(draft, size, axis=axis, partial=partial))


def apply(draft: Draft, size: Size, *, axis: int = 0, partial: bool = False) -> None:
    """Change the batch of a draft."""
    known = type(size) is int and 0 < size < 1 << 31
    known = known or (type(size) is str and bool(_NAME.fullmatch(size)))
    if not known:
        raise ArgumentError(f"the batch cannot be {size!r}", cure='Give a size, or a name as "N".')
    if type(axis) is not int or axis < 0:
        raise ArgumentError(f"the axis of the batch cannot be {axis!r}", cure="Count it from 0.")
    work = _Batch(draft, size, axis)
    rows = work.inputs()
    work.patch_shapes(rows)
    work.write(rows)
    work.verify()
    work.settle()
    if work.problems and not partial:
        raise UnsupportedError(
            f"the batch cannot be changed everywhere: {'; '.join(work.problems)}",
            where=draft.where,
            cure="Accept that with partial=True.",
        )
    draft.said.append(
        f"set the batch from {work.old if work.old is not None else '?'} to {size}: "
        f"{counted(len(rows), 'input')}, {counted(work.patched, 'constant shape')}"
    )
    draft.lost += work.problems


class _Batch:
    def __init__(self, draft: Draft, size: Size, axis: int) -> None:
        self.draft = draft
        self.wanted = size
        self.axis = axis
        self.old: Size | None = None
        self.problems: list[str] = []
        self.patched = 0
        self.can_infer = True
        self.followed: Message | None = None  # the graph with the sizes of a trial
        self.sizes: Mapping[str, list[Size | None]] | None = None  # in it, by value
        self.literals: list[Message] = []  # constant shapes with the size itself in them

    @property
    def size(self) -> Size:
        """What is written for now: a size that nothing can have by chance, until `settle`."""
        return _TRIAL if isinstance(self.old, int) else self.wanted

    def inputs(self) -> list[Message]:
        """Give the inputs that have a batch, and learn its size."""
        filled = set(initialized(self.draft.main))
        found: list[Message] = []
        for row in self.draft.main.input:
            dims = axes(row)
            if row.name in filled or (dims is not None and len(dims) <= self.axis):
                continue
            if dims is None:
                self.problems.append(f"the shape of the input {row.name} is not known")
                continue
            size = _size_of(dims[self.axis])
            if not found:
                self.old = size
            elif isinstance(size, int) and isinstance(self.old, int) and size != self.old:
                self.problems.append(
                    f"the input {row.name} has {size} there, {found[0].name} has {self.old}"
                )
                continue
            found.append(row)
        if not found:
            raise ArgumentError(
                f"no input has an axis {self.axis} of a known shape", where=self.draft.where
            )
        return found

    def carriers(self, rows: list[Message]) -> Mapping[str, list[Size | None]] | None:
        """Follow the batch through the graph: the sizes of all axes by value, where known.

        None where the types cannot be inferred.
        """
        if not self.can_infer:
            return None
        trial = Graph(self.draft.model, opener=self.draft.graph.opener).copy()
        graph, names = trial.model.graph, {row.name for row in rows}
        graph.value_info = []
        for row in graph.input:
            dims = axes(row)
            if row.name in names and dims is not None:
                _set(dims[self.axis], _TRIAL)
        for row in graph.output:
            dims = axes(row)
            for dim in dims or ():
                dim.drop("dim_value")
                dim.drop("dim_param")
        self._loosen_subgraphs(graph)
        try:
            self.followed = inferred(trial).graph
        except TensorKeepError:  # onnx is missing, or refuses the model
            self.can_infer = False
            return None
        found = {name: axes(row) for name, row in declared(self.followed).items()}
        return {n: [_size_of(dim) for dim in dims] for n, dims in found.items() if dims is not None}

    def _batch_of(self, name: str) -> Size | None:
        """Give the size of the axis that a value has in a trial."""
        sizes = (self.sizes or {}).get(name, [])
        return sizes[self.axis] if len(sizes) > self.axis else None

    def patch_shapes(self, rows: list[Message]) -> None:
        """Take the old size out of constant shapes of what has the batch."""
        self.sizes = self.carriers(rows)
        if not isinstance(self.old, int):
            return
        done: set[int] = set()
        while True:
            before = len(done)
            for place, node in enumerate(self.draft.main.node):
                if (
                    place in done
                    or node.op_type not in _TARGETS
                    or node.domain not in ("", "ai.onnx")
                ):
                    continue
                if node.input and self._has_batch(node.input[0]) and self._patch(node):
                    done.add(place)
            if len(done) == before:
                return
            self.patched = len(done)
            if self.sizes is None:
                return
            self.sizes = self.carriers(rows)

    def _has_batch(self, name: str) -> bool:
        size = self._batch_of(name)
        return self._declares(name) if size is None else size == _TRIAL

    def _declares(self, name: str) -> bool:
        rows = declared(self.draft.main)
        dims = axes(rows[name]) if name in rows else None
        return dims is not None and len(dims) > self.axis and _size_of(dims[self.axis]) == self.old

    def _patch(self, node: Message) -> bool:
        """Change the constant shape of a node; says whether there was anything to change."""
        which = _TARGETS[node.op_type]
        name = node.input[which] if len(node.input) > which else ""
        place = self._constant(name)
        if place is None:
            return False
        values = self.draft.graph.read(place).numpy().reshape(-1).tolist()
        if len(values) <= self.axis or values[self.axis] != self.old:
            return False
        keeps = any(row.name == "allowzero" and row.i for row in node.attribute)
        if node.op_type == "Expand":
            if self.old == 1:
                return False  # 1 gives way to any size
            new = 1
        elif node.op_type == "Reshape" and not keeps:
            new = 0  # the size that the input has
        elif isinstance(self.wanted, int):
            new = _TRIAL
        else:
            self.problems.append(f"the shape {name} of a {node.op_type} holds {self.old}")
            return False
        values[self.axis] = new
        self._write_constant(node, which, place, values)
        return True

    def _constant(self, name: str) -> Place | None:
        graph = self.draft.main
        for row in graph.initializer:
            if row.name == name and row.data_type == 7:
                return Place(name, row, "initializer")
        for node in graph.node:
            if node.op_type == "Constant" and name and name in node.output:
                for row in node.attribute:
                    if row.name == "value" and "t" in row and row.t.data_type == 7:
                        return Place(name, row.t, ATTRIBUTE)
        return None

    def _write_constant(self, node: Message, which: int, place: Place, values: list[int]) -> None:
        """Change a constant in place, or give the node one of its own where others use it."""
        graph = self.draft.main
        uses = sum(place.name in used_by(other) for other in graph.node)
        outside = place.name in {row.name for row in graph.output}
        message = place.message
        if uses > 1 or outside or node.input.count(place.name) > 1:
            name = fresh(f"{place.name}.batch", names_anywhere(self.draft.model))
            message = graph.add("initializer", name=name, data_type=7)
            message.dims = np.array([len(values)], np.int64)
            node.input[which] = name
        for field in ("int64_data", "external_data", "data_location"):
            message.drop(field)
        message.raw_data = int64s(values)
        if _TRIAL in values:
            self.literals.append(message)

    def write(self, rows: list[Message]) -> None:
        """Write the size into all types that have the batch."""
        names = {row.name for row in rows}
        for row in self._typed_rows():
            dims = axes(row)
            if isinstance(self.old, str):
                for dim in dims or ():
                    if _size_of(dim) == self.old:
                        _set(dim, self.size)
            self._write_multiples(row.name, dims or [])
            if dims is None or len(dims) <= self.axis:
                continue
            now, fixed = _size_of(dims[self.axis]), self._batch_of(row.name)
            if row.name in names or fixed == _TRIAL:
                _set(dims[self.axis], self.size)
            elif now is not None and now == self.old:
                if isinstance(fixed, int):
                    if any(row.name == output.name for output in self.draft.main.output):
                        self.problems.append(
                            f"the output {row.name} has {fixed} there whatever the batch is"
                        )
                else:
                    _set(dims[self.axis], self.size)
        self._loosen_subgraphs(self.draft.main)

    def _write_multiples(self, name: str, dims: list[Message]) -> None:
        """Have a type say what became of the batch on other axes, or with them in one."""
        sizes = (self.sizes or {}).get(name, [])
        if isinstance(self.old, int) and len(sizes) == len(dims):
            for dim, size in zip(dims, sizes, strict=True):
                if isinstance(size, int) and size and size % _TRIAL == 0 and "dim_value" in dim:
                    _set(dim, size)

    def _typed_rows(self) -> Iterator[Message]:
        graph = self.draft.main
        filled = set(initialized(graph))
        for row in (*graph.input, *graph.value_info, *graph.output):
            if row.name not in filled:
                yield row

    def _loosen_subgraphs(self, main: Message) -> None:
        """Have subgraphs no more say the old size, which they may have from outside."""
        for graph in list(graphs_within(main))[1:]:
            for row in (*graph.input, *graph.value_info, *graph.output):
                dims = axes(row) or []
                for place, dim in enumerate(dims):
                    size = _size_of(dim)
                    if size is None or size != self.old:
                        continue
                    if isinstance(size, str):
                        _set(dim, self.size)
                    elif place == self.axis:
                        dim.drop("dim_value")

    def verify(self) -> None:
        """Have ONNX infer all shapes, where it is there, and note what contradicts them."""
        if isinstance(self.old, int) and self.followed is not None:
            bound = f"fits a batch of {self.old} alone"
            self.problems += [f"{row} {bound}" for row in misfits(self.followed, _TRIAL)]
        try:
            check_sound(self.draft)
        except UnsupportedError as error:
            self.problems.append(error.problem.replace(str(_TRIAL), str(self.wanted)))

    def settle(self) -> None:
        """Write the size that is wanted in the place of the one that was tried."""
        for graph in graphs_within(self.draft.main):
            for row in (*graph.input, *graph.value_info, *graph.output):
                for dim in axes(row) or ():
                    times, rest = divmod(dim.dim_value, _TRIAL)
                    if not times or rest:
                        continue
                    if isinstance(self.wanted, int):
                        dim.dim_value = times * self.wanted
                    elif times == 1:
                        _set(dim, self.wanted)
                    else:
                        dim.drop("dim_value")
        for message in self.literals:
            values = np.frombuffer(message.raw_data, "<i8").tolist()
            message.raw_data = int64s(self.wanted if n == _TRIAL else n for n in values)  # type: ignore[misc]


def _size_of(dim: Message) -> Size | None:
    if "dim_value" in dim:
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def _set(dim: Message, size: Size) -> None:
    if _size_of(dim) == size:
        return
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size
