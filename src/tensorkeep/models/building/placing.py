"""In which graph each node lies: the innermost one that has all its uses.

Nodes are looked at last made first. What uses a node was made after it, so by then its uses are
known, and so is the graph that has them all.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace

from tensorkeep.errors import ArgumentError
from tensorkeep.models.building.attributes import Body
from tensorkeep.models.building.nodes import node
from tensorkeep.models.building.symbols import Constant, Formal, Node, Symbol
from tensorkeep.models.checks.scopes import MAX_NESTING

Key = tuple[Node | Formal | Constant, int]


def key_of(symbol: Symbol) -> Key:
    """Give what a value is known by; those of other types may be the same one."""
    return symbol.origin, symbol.index


@dataclass(eq=False)
class Scope:
    """A graph: what it takes and gives, the graph that it lies in, and its nodes in order."""

    inputs: tuple[Symbol, ...]
    outputs: list[Symbol]
    output_names: tuple[str, ...]
    outside: Scope | None = None
    depth: int = 0
    nodes: list[Node] = field(default_factory=list)

    def contains(self, other: Scope | None) -> bool:
        """Whether another graph is this one, or lies in it."""
        while other is not None and other.depth > self.depth:
            other = other.outside
        return other is self


@dataclass(eq=False)
class Placed:
    """A whole graph: the scopes by the bodies they are of, inputs that belong to none, constants.

    Attributes:
        root: the outermost graph.
        bodies: the others.
        free: inputs that no graph takes, in the order they were made.
        constants: those to write, each array once.
        same: for every constant, the one of these that stands for it.
        used: the values that are used by nodes or given.
    """

    root: Scope
    bodies: dict[Body, Scope]
    free: list[Symbol]
    constants: list[Constant]
    same: dict[Constant, Constant]
    used: set[Key]

    def scopes(self) -> Iterator[Scope]:
        """Give all graphs."""
        yield self.root
        yield from self.bodies.values()

    def nodes(self) -> list[Node]:
        """Give the nodes of all graphs in the order they were made."""
        return sorted((n for s in self.scopes() for n in s.nodes), key=lambda n: n.serial)


def place(
    inputs: tuple[Symbol, ...], outputs: tuple[Symbol, ...], output_names: tuple[str, ...]
) -> Placed:
    """Place all nodes that lead to the outputs of a graph.

    Raises:
        ArgumentError: a body belongs to two nodes, or an input of one is used outside of it.
    """
    root = Scope(inputs, list(outputs), output_names)
    placed = Placed(root, {}, [], [], {}, set())
    owners: dict[Formal, Scope] = {}
    where: dict[Node, Scope] = {}
    waiting: list[tuple[int, Node]] = []
    free: dict[Formal, Symbol] = {}

    def enter(scope: Scope) -> None:
        for symbol in scope.inputs:
            if isinstance(symbol.origin, Formal):
                if symbol.origin in owners:
                    raise ArgumentError(f"the input {symbol.origin.name!r} belongs to two graphs")
                owners[symbol.origin] = scope
        for symbol in scope.outputs:
            use(symbol, scope)

    def use(symbol: Symbol, scope: Scope) -> None:
        origin = symbol.origin
        placed.used.add(key_of(symbol))
        if isinstance(origin, Node):
            if origin not in where:
                heapq.heappush(waiting, (-origin.serial, origin))
                where[origin] = scope
            else:
                where[origin] = _common(where[origin], scope)
        elif isinstance(origin, Formal):
            if origin not in owners:
                free[origin] = symbol
            elif not owners[origin].contains(scope):
                raise _outside(origin)

    enter(root)
    while waiting:
        _, current = heapq.heappop(waiting)
        scope = where[current]
        scope.nodes.append(current)
        for symbol in current.inputs:
            if symbol is not None:
                use(symbol, scope)
        for each in current.attributes:
            for body in each.bodies():
                if body in placed.bodies:
                    raise ArgumentError(
                        f"one body belongs to two nodes, of which {current} is one",
                        cure="Make a body for each, perhaps by a function of yours.",
                    )
                if scope.depth + 1 == MAX_NESTING:
                    raise ArgumentError(f"graphs nest more than {MAX_NESTING} levels deep")
                inner = Scope(
                    body.inputs, list(body.outputs), body.output_names, scope, scope.depth + 1
                )
                placed.bodies[body] = inner
                enter(inner)
    for origin in free:
        if origin in owners:
            raise _outside(origin)
    placed.free = [free[origin] for origin in sorted(free, key=lambda o: o.serial)]
    for scope in placed.scopes():
        scope.nodes.reverse()
        _own_outputs(scope, placed)
    _share(placed)
    return placed


def _share(placed: Placed) -> None:
    """Find the constants, and those that are one array; one without a name takes another's."""
    inputs = (symbol for node in placed.nodes() for symbol in node.inputs if symbol is not None)
    origins = (symbol.origin for symbol in inputs)
    constants = dict.fromkeys(each for each in origins if isinstance(each, Constant))
    first: dict[Hashable, Constant] = {}
    for constant in sorted(constants, key=lambda each: each.name == ""):
        kept = first.setdefault((constant.identity, constant.name), constant)
        if constant.name:
            first.setdefault((constant.identity, ""), constant)
        placed.same[constant] = kept
    placed.constants = [each for each in constants if placed.same[each] is each]


def _common(a: Scope, b: Scope) -> Scope:
    while a is not b:
        if a.depth < b.depth:
            a, b = b, a
        assert a.outside is not None
        a = a.outside
    return a


def _own_outputs(scope: Scope, placed: Placed) -> None:
    """Have each output of a graph be one of a node in it, and of no other name."""
    own = set(scope.nodes)
    taken: set[Key] = set()
    for at, symbol in enumerate(scope.outputs):
        key, origin = key_of(symbol), symbol.origin
        name = scope.output_names[at] if scope.output_names else ""
        said = origin.output_names[symbol.index] if _is_named(origin) else ""  # type: ignore[union-attr]
        clash = bool(name and said and name != said)
        if key in taken or origin not in own or clash:
            symbol = replace(node("Identity", symbol), type=symbol.type)
            placed.used.add(key_of(symbol))
            scope.outputs[at] = symbol
            scope.nodes.append(symbol.origin)  # type: ignore[arg-type]
        taken.add(key_of(symbol))


def _is_named(origin: Node | Formal | Constant) -> bool:
    return isinstance(origin, Node) and bool(origin.output_names)


def _outside(origin: Formal) -> ArgumentError:
    return ArgumentError(
        f"the input {origin.name!r} of a body is used outside of it",
        cure="Give what the body computes through its outputs.",
    )
