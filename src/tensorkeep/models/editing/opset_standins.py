"""Which nodes another version of the operator set leaves alone, and stand-ins for them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from tensorkeep.errors import UnsupportedError
from tensorkeep.graph.elements import KINDS
from tensorkeep.graph.schema import ATTRIBUTE_TYPES, EXTERNAL, NODE
from tensorkeep.graph.walking import may_hold, node_name, subgraphs
from tensorkeep.message import Message
from tensorkeep.models.editing.scopes import used_by
from tensorkeep.models.editing.value_types import tensor_info
from tensorkeep.models.lean import LARGE

DEFAULT = ("", "ai.onnx")
KEPT = "tensorkeep.kept"  # the domain of stand-ins
TAG = "#"  # before the place of a node, as its name while it is converted

# What the converter reads: axes, shapes, pads, scales, limits.
_READ = frozenset(
    number
    for number, kind in KINDS.items()
    if kind.name
    in (
        "float32",
        "float64",
        "float16",
        "int32",
        "int64",
        "bool",
    )
)


class StandIns:
    """Makes what the converter is given of a graph, from one version to another."""

    def __init__(self, defs: Any, source: int, target: int, where: str, called: str) -> None:
        self._defs = defs
        self._source = source
        self._target = target
        self._where = where
        self._called = called
        self._same: dict[str, bool] = {}

    def stays(self, node: Message) -> bool:
        """Whether a node means the same in both versions, and so do all within it."""
        if node.domain in DEFAULT and not self._is_same_node(node):
            return False
        return all(self.stays(inner) for graph in subgraphs(node) for inner in graph.node)

    def _is_same_node(self, node: Message) -> bool:
        if node.op_type == "Constant":  # only what it can be given has grown
            return all(_CONSTANT.get(row.name, 12) <= self._target for row in node.attribute)
        return self._is_same(node.op_type)

    def _is_same(self, operator: str) -> bool:
        if operator not in self._same:
            now, then = (self._since(operator, v) for v in (self._source, self._target))
            self._same[operator] = now is None or now == then  # what is unknown stays unknown
        return self._same[operator]

    def _since(self, operator: str, version: int) -> int | None:
        try:
            return int(self._defs.get_schema(operator, version, "").since_version)
        except self._errors:
            return None

    @cached_property
    def _errors(self) -> type[Exception]:
        found: type[Exception] = self._defs.SchemaError
        return found

    def graph(self, graph: Message) -> Message:
        """Turn a GraphProto into what the converter takes.

        Raises:
            UnsupportedError: a node has to be converted that the converter cannot hold.
        """
        nodes = []
        for place, node in enumerate(graph.node):
            constant = self._constant(node)
            if constant is not None:
                graph.initializer.append(constant)
                continue
            hides = node.domain not in DEFAULT or self.stays(node)
            nodes.append(self._stand_in(node) if hides else self._real(node, place))
            nodes[-1].name = f"{TAG}{place}"
        graph.node = nodes
        small = [row for row in graph.initializer if _is_read(row)]
        known = {row.name for row in small}
        inputs = [row for row in graph.input if row.name not in known]
        known |= {row.name for row in inputs}
        inputs += [
            tensor_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in graph.initializer
            if tensor.name not in known
        ]
        for sparse in graph.sparse_initializer:
            values = sparse["values"]
            if values.name not in known:
                inputs.append(tensor_info(values.name, values.data_type, sparse.dims))
        graph.initializer, graph.input = small, inputs
        for name in ("sparse_initializer", "quantization_annotation", "metadata_props"):
            graph.drop(name)
        return graph

    def _constant(self, node: Message) -> Message | None:
        """Give a constant that the converter may read as an initializer, which it takes as well."""
        if node.op_type != "Constant" or node.domain not in DEFAULT or not self.stays(node):
            return None
        for row in node.attribute:
            if row.name == "value" and "t" in row and _is_read(row.t):
                tensor: Message = row.t.copy()
                tensor.name = node.output[0]
                return tensor
        return None

    def _stand_in(self, node: Message) -> Message:
        return Message(
            NODE,
            op_type="Kept",
            domain=KEPT,
            input=list(used_by(node)),
            output=list(node.output),
        )

    def _real(self, node: Message, place: int) -> Message:
        for attribute in node.attribute:
            sparse = attribute.type in _SPARSE or "sparse_tensor" in attribute
            if attribute.ref_attr_name or sparse:
                what = "is a sparse tensor" if sparse else "is given by the function's caller"
                raise UnsupportedError(
                    f"cannot convert {self._called} from operator set {self._source} to "
                    f"{self._target}: {attribute.name!r} of {node_name(node, place)!r} "
                    f"({node.op_type}) {what}, which the converter of ONNX cannot hold",
                    where=self._where,
                )
        if may_hold(node):
            for graph in subgraphs(node):
                self.graph(graph)
        return node


# The operator sets since which a Constant is given by these; 12 for the others.
_CONSTANT = {"value": 1, "sparse_value": 11}
_SPARSE = (ATTRIBUTE_TYPES["SPARSE_TENSOR"], ATTRIBUTE_TYPES["SPARSE_TENSORS"])


def _is_read(tensor: Message) -> bool:
    """Whether the converter may look into a tensor: a small one of numbers."""
    if tensor.data_type not in _READ or tensor.data_location == EXTERNAL:
        return False
    count = 1
    for axis in tensor.dims.tolist():
        count *= max(axis, 0)
    return count * 8 <= LARGE
