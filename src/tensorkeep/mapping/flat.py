"""A state without its nesting: every place of it by its dotted path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tensorkeep import checksum
from tensorkeep.errors import ArgumentError
from tensorkeep.state import Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.tree import ROOT, unflatten
from tensorkeep.tree.vocabulary import part_of


class Place(NamedTuple):
    """A tensor, its name in the file, and what the file stored to check it by."""

    tensor: Tensor
    name: str
    digest: str = ""
    check: Callable[[], None] | None = None
    remark: str = ""


class Flat(NamedTuple):
    """What a state holds by dotted path: tensors (tied ones at several) and other values' paths."""

    places: dict[str, Place]
    others: list[str]


class _Leaf:
    """Stands for a tensor while a nesting is built."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, key: object) -> _Leaf:
        return self  # the nesting makes scalars of some tensors

    def tobytes(self) -> _Leaf:
        return self  # and bytes of others


def flat(state: State) -> Flat:
    """List the places of a state.

    >>> import numpy as np
    >>> w = Tensor.of(np.zeros(2))
    >>> tree = {"a": {"w": "$"}, "tied": "$:a.w", "step": 3}
    >>> found = flat(State({"a.w": w}, skeleton={"tree": tree}))
    >>> list(found.places), found.others
    (['a.w', 'tied'], ['step'])
    """
    if state.skeleton is None or "tree" not in state.skeleton:
        return Flat({name: place_of(state, name) for name in state}, [])
    known = {name: place_of(state, name) for name in state}
    nesting = unflatten(
        state.skeleton, dict(state.items()), lambda name, *_: _Leaf(name), state.where
    )
    found = Flat({}, [])
    held = set()
    for path, leaf in _places(nesting, ()):
        where = ".".join(path) if path else ROOT
        if isinstance(leaf, _Leaf):
            found.places[where] = known[leaf.name]
            held.add(leaf.name)
        else:
            found.others.append(where)
    for name, place in known.items():
        if name not in held:
            found.places.setdefault(name, place)
    return found


def place_of(state: State, name: str) -> Place:
    """Give a tensor of a state with what belongs to it."""
    remark = state.remarks.get(name, "")
    return Place(state[name], name, state.digests.get(name, ""), state.checks.get(name), remark)


def changed(tensor: Tensor, *origins: Place) -> Place:
    """Give a tensor that was made of others the checks of what it was made of."""
    checked = [origin for origin in origins if origin.digest or origin.check]

    def check() -> None:
        for origin in checked:
            if origin.digest:
                found = checksum.digest(origin.tensor)
                if found != origin.digest:
                    where = origin.tensor.source.where
                    raise checksum.mismatch(origin.name, origin.digest, found, where)
            if origin.check is not None:
                origin.check()

    return Place(tensor, origins[0].name, check=check if checked else None)


def from_places(places: Mapping[str, Place], usual: State) -> State:
    """Make a state of flat names, with everything else of the state `usual` but its graph.

    A tensor with several places stays one: the nesting is then a flat one that names it twice.
    """
    first: dict[int, str] = {}
    tree: dict[str, Json] = {}
    for path, place in places.items():
        key = path if not path.startswith("$") else ""
        tree[key] = f"$:{first.setdefault(id(place.tensor), path)}"
    alone = {path: places[path] for path in first.values()}
    skeleton: dict[str, Json] = {
        key: value for key, value in (usual.skeleton or {}).items() if key == "framework"
    }
    if len(alone) < len(places):
        if "" in tree and "" not in places:
            raise ArgumentError("no tensor's name may begin with $ where others are tied")
        skeleton["tree"] = tree
    return usual.replace(
        graph=None,  # it knows the tensors by their own names
        tensors={path: place.tensor for path, place in alone.items()},
        skeleton=skeleton or None,
        digests={path: place.digest for path, place in alone.items() if place.digest},
        checks={path: place.check for path, place in alone.items() if place.check},
        remarks={path: place.remark for path, place in alone.items() if place.remark},
    )


def _places(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, _Leaf):
        yield path, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _places(child, (*path, part_of(key)))
    elif isinstance(value, list | tuple | deque) and type(value).__module__ != "torch":
        for at, child in enumerate(value):
            yield from _places(child, (*path, str(at)))
    else:
        yield path, value
