"""Giving values and nodes of a model other names, wherever they are named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tensorkeep.errors import ArgumentError
from tensorkeep.graph.walking import graphs_within
from tensorkeep.mapping.patterns import check_replacement, compiled, replaced
from tensorkeep.models.editing.draft import Draft, edited, unknown_name
from tensorkeep.models.editing.scopes import defined, names_within, rename_values
from tensorkeep.models.opening import Model
from tensorkeep.state import State

_SPECIAL = frozenset("*?[")
NODE = "node:"


def rename(
    model: Model, names: Mapping[str, str] | None = None, *, nodes: Mapping[str, str] | None = None
) -> State:
    """Give inputs, outputs, tensors and intermediate values of the main graph other names.

    All that names them follows: nodes, subgraphs, training, annotations, sharding. All are renamed
    at once, so that two may swap their names.

    Args:
        model: a path or a state; it is not changed.
        names: new names by old ones. Old ones may be patterns, such as `block.*`, each `*` in the
            new name being what a `*` took; or regular expressions behind `re:`.
        nodes: the same for the names of nodes; `node:OLD` in `names` does so too.

    Raises:
        MissingError: there is nothing of an old name; similar ones are named.
        ArgumentError: a new name is taken, or a subgraph would take it for a value of its own.
    """
    return edited(model, lambda draft: apply(draft, names or {}, nodes or {}))


def apply(draft: Draft, names: Mapping[str, str], nodes: Mapping[str, str]) -> None:
    """Rename values and nodes of a draft."""
    nodes = {**_checked(nodes)}
    values: dict[str, str] = {}
    for old, new in _checked(names).items():
        if old.startswith(NODE):
            nodes[old.removeprefix(NODE)] = new.removeprefix(NODE)
        else:
            values[old] = new
    where = draft.where
    chosen = _resolve(values, defined(draft.main), "value", where)
    for inner in list(graphs_within(draft.main))[1:] if chosen else ():
        for name in defined(inner).keys() & set(chosen.values()):
            raise ArgumentError(
                f"{name!r} is taken by a value of the graph {inner.name!r}, which lies in it",
                where=where,
                cure="Choose another name.",
            )
    if chosen:
        _rename(draft, chosen)
    graphs = list(graphs_within(draft.main))
    called = dict.fromkeys(node.name for graph in graphs for node in graph.node if node.name)
    renamed = _resolve(nodes, called, "node", where)
    for graph in graphs if renamed else ():
        for node in graph.node:
            if node.name in renamed:
                node.name = renamed[node.name]
    draft.said += [f"renamed {old} to {new}" for old, new in chosen.items()]
    draft.said += [f"renamed the node {old} to {new}" for old, new in renamed.items()]


def _checked(names: Any) -> Mapping[str, str]:
    if not isinstance(names, Mapping) or not all(
        isinstance(name, str) for pair in names.items() for name in pair
    ):
        raise ArgumentError(f"names are a dict of new ones by old ones, as text, not {names!r}")
    return names


def _resolve(
    names: Mapping[str, str], known: Iterable[str], kind: str, where: str
) -> dict[str, str]:
    """Give the new name of each that changes it."""
    listed = dict.fromkeys(known)
    chosen: dict[str, str] = {}
    for old, new in names.items():
        if not new:
            raise ArgumentError(f"the {kind} {old!r} cannot be called nothing", where=where)
        if old in listed:
            found = {old: new}
        elif old.startswith("re:") or _SPECIAL.intersection(old):
            check_replacement(old, new)
            matches = {name: compiled(old).fullmatch(name) for name in listed}
            found = {n: replaced(old, new, m) for n, m in matches.items() if m is not None}
            found = {n: m for n, m in found.items() if n not in names}  # its own name goes first
        else:
            found = {}
        if not found:
            raise unknown_name(old, listed, kind, where)
        for name, other in found.items():
            if chosen.setdefault(name, other) != other:
                raise ArgumentError(
                    f"the {kind} {name!r} is to be called both {chosen[name]!r} and {other!r}",
                    where=where,
                )
    chosen = {old: new for old, new in chosen.items() if old != new}
    kept = {name for name in listed if name not in chosen}
    taken: dict[str, str] = {}
    for old, new in chosen.items():
        if new in kept or new in taken:
            raise ArgumentError(
                f"cannot call the {kind} {old!r} {new!r}: "
                + (f"{taken[new]!r} is to be called so too" if new in taken else "it is taken"),
                where=where,
                cure="Choose another name, or rename that one too.",
            )
        taken[new] = old
    return chosen


def _rename(draft: Draft, names: dict[str, str]) -> None:
    rename_values(draft.main, names, draft.where)
    for training in draft.model.training_info:
        seen: Mapping[str, str] = names
        if "algorithm" in training:
            clash = set(defined(training.algorithm)).intersection(names.values())
            if clash:  # both are one graph when it is trained
                raise ArgumentError(
                    f"the training algorithm has a value called {min(clash)!r} already",
                    where=draft.where,
                    cure="Choose another name.",
                )
            seen = names_within(training.algorithm, names, draft.where)
            rename_values(training.algorithm, seen, draft.where)
        for entry in training.initialization_binding:
            entry.key = seen.get(entry.key, entry.key)
        for entry in training.update_binding:
            entry.key = seen.get(entry.key, entry.key)
            entry.value = seen.get(entry.value, entry.value)
