"""A model that is being edited: what it was, what it becomes, and what is to be told of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tensorkeep.errors import LossError, MissingError
from tensorkeep.graph import Graph
from tensorkeep.message import Message
from tensorkeep.models.opening import Model, graph_of, open_model
from tensorkeep.similar import did_you_mean
from tensorkeep.state import State

_SHOWN = 8


class Draft:
    """A copy of a model to be changed; edits are done one after another on it.

    `said` tells what was done, and `lost` what was left out because it was allowed, a sentence
    each. The state that it was made of stays as it is.
    """

    def __init__(self, before: State) -> None:
        self.before = before
        self.graph: Graph = graph_of(before).copy()
        self.said: list[str] = []
        self.lost: list[str] = []
        self.closers: list[Callable[[], None]] = []  # of other files that it takes tensors from

    @property
    def model(self) -> Message:
        """The ModelProto to change."""
        return self.graph.model

    @property
    def main(self) -> Message:
        """The main GraphProto to change."""
        graph: Message = self.graph.model.graph
        return graph

    @property
    def where(self) -> str:
        """Names the model in messages."""
        return self.before.where

    def lose(self, sentences: Iterable[str], *, lossy: bool, cure: str = "") -> None:
        """Leave something out, or refuse to.

        Raises:
            LossError: it is not allowed.
        """
        listed = list(sentences)
        if listed and not lossy:
            accept = "accept it with lossy=True."
            raise LossError(
                f"not everything can be kept: {'; '.join(listed)}",
                where=self.where,
                cure=f"{cure}, or {accept}" if cure else accept.capitalize(),
            )
        self.lost += listed

    def renew(self) -> None:
        """Forget what was read of the graph before it was changed."""
        self.graph = Graph(self.model, opener=self.graph.opener, where=self.graph.where)

    def state(self) -> State:
        """Give the model as it is now."""
        self.renew()
        state = State.of_graph(self.graph, self.before)
        return state.replace(close=self.close) if self.closers else state

    def close(self) -> None:
        """Close the files that it was made of."""
        for close in (*self.closers, self.before.close):
            close()


def edited(model: Model, change: Callable[[Draft], None]) -> State:
    """Give what a model becomes by a change; a path is opened, and closed if that fails."""
    before = open_model(model)
    draft = Draft(before)
    try:
        change(draft)
        return draft.state()
    except BaseException:
        for close in draft.closers:
            close()
        if before is not model:
            before.close()
        raise


def unknown_name(name: str, known: Iterable[str], kind: str, where: str) -> MissingError:
    """Say that there is nothing of a name, and which names are similar."""
    names = list(dict.fromkeys(known))
    cure = did_you_mean(name, names) or f"It has {listed(names)}."
    return MissingError(f"has no {kind} called {name!r}", where=where, cure=cure)


def listed(names: Iterable[str], shown: int = _SHOWN) -> str:
    """Name a few of many.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    all_names = list(names)
    more = len(all_names) - shown
    return ", ".join(all_names[:shown]) + (f" and {more:,} more" if more > 0 else "") or "none"


def counted(count: int, noun: str) -> str:
    """Count things.

    >>> counted(1, "node"), counted(2, "node")
    ('1 node', '2 nodes')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
