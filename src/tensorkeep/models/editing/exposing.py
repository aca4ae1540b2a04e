"""Intermediate values of a model as outputs."""

from __future__ import annotations

from collections.abc import Iterable

from tensorkeep.errors import ArgumentError
from tensorkeep.mapping.patterns import compiled
from tensorkeep.models.editing.draft import Draft, edited, unknown_name
from tensorkeep.models.editing.scopes import computed, defined
from tensorkeep.models.editing.value_types import typed
from tensorkeep.models.opening import Model
from tensorkeep.state import State, check_globs


def expose(model: Model, names: str | Iterable[str]) -> State:
    """Have a model give intermediate values too, behind the outputs that it has.

    Args:
        model: a path or a state; it is not changed.
        names: the values, or globs such as `layer.*`.

    Raises:
        MissingError: no node of the main graph computes such a value; similar ones are named.
        ArgumentError: it is an output already, or its type is not known.
    """
    return edited(model, lambda draft: apply(draft, names))


def apply(draft: Draft, names: str | Iterable[str]) -> None:
    """Expose values of a draft."""
    graph, where = draft.main, draft.where
    made = dict.fromkeys(computed(graph))
    outputs = {row.name for row in graph.output}
    chosen: dict[str, None] = {}
    for glob in check_globs(names):
        if glob in made:
            if glob in outputs:
                raise ArgumentError(f"{glob!r} is an output already", where=where)
            chosen[glob] = None
            continue
        if glob in defined(graph):
            raise ArgumentError(
                f"{glob!r} is not computed, but an input or a tensor of the model", where=where
            )
        found = [name for name in made if compiled(glob).fullmatch(name)]
        if not found:
            raise unknown_name(glob, made, "value", where)
        chosen |= {name: None for name in found if name not in outputs}
    rows = typed(draft, chosen, "an output")
    graph.value_info = [row for row in graph.value_info if row.name not in chosen]
    graph.output.extend(rows[name].copy() for name in chosen)
    draft.said += [f"exposed {name}" for name in chosen]
