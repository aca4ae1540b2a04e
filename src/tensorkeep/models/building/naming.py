"""Names of nodes and values: those that were given, and readable ones for all others.

A node is called conv_1, its output likewise (split_1_0, split_1_1 where it has several), and the
arrays that it takes conv_1_W, after the operator's own name for them.
"""

from __future__ import annotations

from tensorkeep.errors import ArgumentError
from tensorkeep.models.building.placing import Key, Placed, Scope, key_of
from tensorkeep.models.building.symbols import Constant, Formal, Node, Symbol
from tensorkeep.models.ops import Parameter


class Names:
    """The names of a graph and all in it: `values` by value, `nodes` by node."""

    def __init__(self, placed: Placed) -> None:
        self.values: dict[Key, str] = {}
        self.nodes: dict[Node, str] = {}
        self._taken: set[str] = set()
        self._taken_by_nodes: set[str] = set()
        self._counts: dict[str, int] = {}
        self._same = placed.same
        nodes = placed.nodes()
        for scope in placed.scopes():
            for symbol in scope.inputs:
                self._give(symbol)
        for symbol in placed.free:
            self._give(symbol)
        for scope in placed.scopes():
            self._name_outputs(scope)
        for constant in placed.constants:
            if constant.name:
                self._reserve(constant.name, (constant, 0))
        for node in nodes:
            self._reserve_outputs(node)
        for node in nodes:
            self._name(node, placed)

    def of(self, symbol: Symbol | None) -> str:
        """Give the name of a value; that of none is empty."""
        return "" if symbol is None else self.values.get(self._key(symbol), "")

    def _key(self, symbol: Symbol) -> Key:
        origin = symbol.origin
        return (self._same[origin], 0) if isinstance(origin, Constant) else key_of(symbol)

    def _give(self, symbol: Symbol) -> None:
        assert isinstance(symbol.origin, Formal)
        self._reserve(symbol.origin.name, key_of(symbol))

    def _reserve(self, name: str, key: Key) -> None:
        if self.values.get(key) == name:
            return
        if name in self._taken:
            raise ArgumentError(
                f"two values are called {name!r}", cure="Give them names of their own."
            )
        self._taken.add(name)
        self.values[key] = name

    def _name_outputs(self, scope: Scope) -> None:
        for name, symbol in zip(scope.output_names, scope.outputs, strict=False):
            self._reserve(name, key_of(symbol))

    def _reserve_outputs(self, node: Node) -> None:
        for place, name in enumerate(node.output_names):
            if name:
                self._reserve(name, (node, place))
        if node.name:
            if node.name in self._taken_by_nodes:
                raise ArgumentError(f"two nodes are called {node.name!r}")
            self._taken_by_nodes.add(node.name)
            self.nodes[node] = node.name

    def _name(self, node: Node, placed: Placed) -> None:
        if node not in self.nodes:
            self.nodes[node] = self._count(node.op_type.lower(), self._taken_by_nodes)
        name = self.nodes[node]
        for place, symbol in enumerate(node.inputs):
            if symbol is not None and isinstance(symbol.origin, Constant):
                self._call(self._key(symbol), f"{name}_{_parameter(node, place)}")
        for place in range(node.outputs):
            if (node, place) in placed.used or not _may_lack(node, place):
                self._call((node, place), name if node.outputs == 1 else f"{name}_{place}")

    def _call(self, key: Key, wanted: str) -> None:
        if key in self.values:
            return
        name = wanted if wanted not in self._taken else self._count(wanted, self._taken)
        self._taken.add(name)
        self.values[key] = name

    def _count(self, base: str, taken: set[str]) -> str:
        while True:
            self._counts[base] = self._counts.get(base, 0) + 1
            name = f"{base}_{self._counts[base]}"
            if name not in taken:
                taken.add(name)
                return name


def _parameter(node: Node, place: int) -> str:
    parameters = node.versions[-1].inputs if node.versions else ()
    if place < len(parameters):
        parameter = parameters[place]
        if parameter.kind != "variadic" or not parameter.uniform:
            return parameter.name
    return str(place)


def _may_lack(node: Node, place: int) -> bool:
    """Whether an output that nobody uses may go without a name, and so need not be computed."""
    outputs: tuple[Parameter, ...] = node.versions[-1].outputs if node.versions else ()
    return place < len(outputs) and outputs[place].kind == "optional"
