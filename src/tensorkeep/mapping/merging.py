"""Several states as one, and one as several."""

from __future__ import annotations

from collections.abc import Sequence

from tensorkeep.errors import ArgumentError
from tensorkeep.mapping.apply import Mapped
from tensorkeep.mapping.flat import Place, flat, from_places
from tensorkeep.state import Json, State

METADATA = "the metadata"  # begins the sentences of what differs there


def merge(states: Sequence[State], prefixes: Sequence[str] = ()) -> Mapped:
    """Put several states into one of flat names.

    Args:
        states: what to merge; all have to stay open while the result is used.
        prefixes: one for each state, put before its names with a dot; none otherwise.

    Raises:
        ArgumentError: two of them have a tensor of the same name.

    >>> import numpy as np
    >>> from tensorkeep.tensor import Tensor
    >>> a, b = (State({"w": Tensor.of(np.zeros(2))}, where=name) for name in "ab")
    >>> list(merge([a, b], ["left", "right"]).state)
    ['left.w', 'right.w']
    """
    if prefixes and len(prefixes) != len(states):
        raise ArgumentError(
            f"there are {len(prefixes)} prefixes for {len(states)} files",
            cure="Give one for each file, in the same order.",
        )
    places: dict[str, Place] = {}
    found: dict[str, str] = {}
    metadata: dict[str, Json] = {}
    lost = []
    for at, state in enumerate(states):
        prefix = f"{prefixes[at]}." if prefixes and prefixes[at] else ""
        held = flat(state)
        for name, place in held.places.items():
            new = prefix + name
            if new in places:
                raise ArgumentError(
                    f"both {found[new]} and {state.where} have a tensor called {new!r}",
                    cure="Give each file a prefix, or leave the tensor out of one of them.",
                )
            places[new] = place
            found[new] = state.where
        lost += [f"{other} of {state.where}, which is no tensor" for other in held.others]
        lost += [f"{sentence}, in {state.where}" for sentence in state.refused]
        for key, value in state.metadata.items():
            if metadata.setdefault(key, value) != value:
                lost.append(f"{METADATA} {key!r} of {state.where}, which differs")
    usual = states[0].replace(
        metadata=metadata,
        refused=(),
        where=", ".join(state.where for state in states),
        close=lambda: _close(states),
    )
    return Mapped(from_places(places, usual), lost)


def _close(states: Sequence[State]) -> None:
    for state in states:
        state.close()


def parts(state: State) -> dict[str, State]:
    """Split a state by the first part of its names, which they keep.

    >>> import numpy as np
    >>> from tensorkeep.tensor import Tensor
    >>> w = Tensor.of(np.zeros(2))
    >>> {part: list(s) for part, s in parts(State({"a.w": w, "b.w": w, "a.b": w})).items()}
    {'a': ['a.w'], 'b': ['b.w']}
    """
    split: dict[str, dict[str, Place]] = {}
    for name, place in flat(state).places.items():
        split.setdefault(name.partition(".")[0], {})[name] = place
    alone = state.replace(close=None)
    return {part: from_places(places, alone) for part, places in split.items()}
