"""Faults of names: values that nothing makes, that several make, and what nobody uses."""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush

from tensorkeep.models.checks.findings import Report, quoted, several
from tensorkeep.models.checks.scopes import Scope

_BEFORE = -1  # the place of what is there before the first node


class Names:
    """The values of a scope by name, with the place of the node that makes each."""

    def __init__(self, scope: Scope, outer: Names | None) -> None:
        self.scope = scope
        self.outer = outer
        self.made: dict[str, int] = {}

    def sees(self, name: str, at: int) -> bool:
        """Whether a node at a place, or within it, may use a name."""
        place = self.made.get(name)
        if place is not None and place < at:
            return True
        return self.outer is not None and self.outer.sees(name, self.scope.at)


def check_names(scope: Scope, report: Report, outer: Names | None = None) -> set[str]:
    """Look at a scope and its subgraphs; gives the names that they take from outside."""
    names = Names(scope, outer)
    _define(names, report)
    taken = _takes(scope, names, report)
    _check_uses(names, taken, report)
    _check_unused(scope, names, taken, report)
    inside = set().union(*taken) if taken else set()
    inside.update(filter(None, scope.outputs))
    return {name for name in inside if name not in names.made}


def values_of(scope: Scope) -> Names:
    """Give the values of a scope that is in no other."""
    names = Names(scope, None)
    _define(names, Report())
    return names


def _define(names: Names, report: Report) -> None:
    scope, made = names.scope, names.made
    for place, name in enumerate(scope.inputs):
        where = f"{scope.where}.input[{place}]"
        if not name:
            cure = "Name it, or remove it."
            report.error("input-without-name", where, "an input has no name", cure)
        elif name in made:
            _twice(name, where, "is an input twice", report)
        made[name] = _BEFORE
    inputs = set(made)
    initializers: dict[str, int] = {}
    for place, name in enumerate(scope.initializers):
        if name in initializers and name:
            where = f"{scope.where}.initializer[{place}]"
            same = _are_same(scope, initializers[name], place)
            cure = "Remove it; both are the same." if same else "Rename one of both."
            problem = f"the name {quoted(name)} is that of another initializer already"
            report.error("duplicate-initializer", where, problem, cure, fixable=same)
        initializers.setdefault(name, place)
        made[name] = _BEFORE
    for name in sorted(initializers.keys() & inputs) if scope.outer is not None else ():
        problem = f"{quoted(name)} is an input of the subgraph and an initializer in it"
        report.warning("shadowed-name", scope.where, problem, "Rename one of both.")
    for index, node in enumerate(scope.nodes):
        for name in filter(None, node.output):
            if name in made:
                kind = "an initializer" if name in initializers else "an input of the graph"
                before = made[name]
                maker = scope.label(before) if before >= 0 else kind
                _twice(name, scope.label(index), f"is already made by {maker}", report)
            else:
                made[name] = index
    made.pop("", None)
    if scope.outer is not None and names.outer is not None:
        for name, index in made.items():
            if names.outer.sees(name, scope.at):
                where = scope.label(index) if index >= 0 else scope.where
                problem = f"{quoted(name)} hides a value of that name outside the subgraph"
                report.warning("shadowed-name", where, problem, "Rename one of both.")


def _twice(name: str, where: str, what: str, report: Report) -> None:
    problem = f"the value {quoted(name)} {what}; each name stands for one value"
    report.error("duplicate-value", where, problem, "Rename one of both, and what uses it.")


def _are_same(scope: Scope, first: int, second: int) -> bool:
    """Whether two initializers are the same, bit for bit."""
    dense = scope.message.initializer
    return second < len(dense) and bool(dense[first] == dense[second])


def _takes(scope: Scope, names: Names, report: Report) -> list[set[str]]:
    """Give what each node takes of the scope, also through its subgraphs."""
    taken = []
    for index, node in enumerate(scope.nodes):
        used = set(filter(None, node.input))
        for inner in scope.inner.get(index, ()):
            used |= check_names(inner, report, names)
        taken.append(used)
    return taken


def _check_uses(names: Names, taken: list[set[str]], report: Report) -> None:
    scope = names.scope
    late: set[str] = set()
    for index, node in enumerate(scope.nodes):
        for name in node.input:
            if not name or names.sees(name, index):
                continue
            maker = names.made.get(name)
            if maker is None:
                problem = f"takes {quoted(name)}, which nothing makes"
                cure = (
                    report.guess(name, names.made)
                    or "Add the initializer, input or node that makes it."
                )
                report.error("unknown-input", scope.label(index), problem, cure)
            else:
                late.add(name)
    late |= {
        name
        for index, used in enumerate(taken)
        for name in used
        if names.made.get(name, -1) >= index
    }
    if late:
        _check_order(names, taken, report)
    for place, name in enumerate(scope.outputs):
        where = f"{scope.where}.output[{place}]"
        if not name:
            cure = "Name the value that comes out."
            report.error("output-without-name", where, "an output has no name", cure)
        elif not names.sees(name, len(scope.nodes)):
            problem = f"the output {quoted(name)} is made by nothing"
            cure = (
                report.guess(name, names.made)
                or "Add the node that makes it, or remove the output."
            )
            report.error("unknown-output", where, problem, cure)
    for name, times in Counter(filter(None, scope.outputs)).items():
        if times > 1:
            problem = f"the output {quoted(name)} is there {times} times"
            report.warning("duplicate-output", scope.where, problem, "Keep one of them.")


def _check_order(names: Names, taken: list[set[str]], report: Report) -> None:
    scope = names.scope
    order = sorted_nodes(taken, names.made)
    if order is None:
        stuck = [scope.label(index) for index in in_cycle(taken, names.made)]
        problem = f"the nodes form a circle: {', '.join(stuck[:5])}"
        if len(stuck) > 5:
            problem += f" and {len(stuck) - 5:,} more"
        cure = "Take the circle apart: one of them has to take another value."
        report.error("cyclic-graph", scope.where, problem, cure)
        return
    for index, used in enumerate(taken):
        for name in sorted(used):
            maker = names.made.get(name, _BEFORE)
            if maker > index:
                problem = f"takes {quoted(name)}, which {scope.label(maker)} makes only later"
                cure = "Sort the nodes, so that each follows those whose outputs it takes."
                report.error("unsorted-node", scope.label(index), problem, cure, fixable=True)


def sorted_nodes(taken: list[set[str]], made: dict[str, int]) -> list[int] | None:
    """Give an order in which nodes follow what they take, near to theirs; None in a circle."""
    waits, users = _edges(taken, made)
    ready = [index for index, count in enumerate(waits) if not count]
    heapify(ready)
    order = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for user in users[index]:
            waits[user] -= 1
            if not waits[user]:
                heappush(ready, user)
    return order if len(order) == len(taken) else None


def in_cycle(taken: list[set[str]], made: dict[str, int]) -> list[int]:
    """Give the nodes that lie on a circle, or between two."""
    forward, users = _edges(taken, made)
    makers: list[list[int]] = [[] for _ in taken]
    for index, each in enumerate(users):
        for user in each:
            makers[user].append(index)
    backward = [len(each) for each in users]
    alive = set(range(len(taken)))
    for counts, following in ((forward, users), (backward, makers)):
        ready = [index for index in alive if not counts[index]]
        while ready:
            index = ready.pop()
            alive.discard(index)
            for other in following[index]:
                counts[other] -= 1
                if not counts[other] and other in alive:
                    ready.append(other)
    return sorted(alive)


def _edges(taken: list[set[str]], made: dict[str, int]) -> tuple[list[int], list[list[int]]]:
    waits = [0] * len(taken)
    users: list[list[int]] = [[] for _ in taken]
    for index, used in enumerate(taken):
        for maker in {made[name] for name in used if made.get(name, _BEFORE) >= 0}:
            users[maker].append(index)
            waits[index] += 1
    return waits, users


def _check_unused(scope: Scope, names: Names, taken: list[set[str]], report: Report) -> None:
    """Look for nodes that no output needs, and for constants that no node takes."""
    needed = reachable(scope, names.made, taken)
    for index in range(len(scope.nodes)):
        if index not in needed:
            problem = "no output of the graph needs what it makes"
            cure = "Remove it, unless its outputs are to be read by name."
            report.warning("unreachable-node", scope.label(index), problem, cure)
    used = set().union(*taken) if taken else set()
    used |= {*scope.outputs, *scope.noted}
    inputs = set(scope.inputs)
    idle = [name for name in scope.initializers if name and name not in used | inputs]
    if scope.where.startswith("training_info") or not (scope.nodes or scope.outputs):
        return  # bindings use them; a graph without nodes only keeps tensors
    for name in dict.fromkeys(idle):
        problem = f"nothing uses the initializer {quoted(name)}"
        cure = "Remove it, with tensorkeep.models.fix(model, unused=True) for all of them."
        report.warning("unused-initializer", scope.where, problem, cure)
    for name in dict.fromkeys(scope.inputs):
        if name and name not in used and scope.outer is None:
            where = f"{scope.where}.input[{scope.inputs.index(name)}]"
            problem = f"nothing uses the input {quoted(name)}"
            report.warning("unused-input", where, problem, "Remove it, if no caller gives it.")


def reachable(scope: Scope, made: dict[str, int], taken: list[set[str]]) -> set[int]:
    """Give the places of the nodes that an output needs."""
    needed: set[int] = set()
    ends = (*scope.outputs, *scope.noted)
    wanted = [made[name] for name in ends if made.get(name, _BEFORE) >= 0]
    while wanted:
        index = wanted.pop()
        if index not in needed:
            needed.add(index)
            wanted += [made[name] for name in taken[index] if made.get(name, _BEFORE) >= 0]
    if scope.where.startswith("training_info"):
        return set(range(len(scope.nodes)))
    return needed


def check_node_names(scope: Scope, report: Report) -> None:
    """Look for names that several nodes of a graph have."""
    times = Counter(str(node.name) for node in scope.nodes if node.name)
    repeated = [name for name, count in times.items() if count > 1]
    if repeated:
        problem = f"several nodes are called {several(repeated)}"
        cure = "Give each a name of its own, so that tools can tell them apart."
        report.warning("duplicate-node-name", scope.where, problem, cure)
