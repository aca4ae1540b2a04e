"""What differs beside the tensors: metadata, the nesting, and what a model is otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tensorkeep.graph.comparing import compare
from tensorkeep.state import State
from tensorkeep.tree import unflatten


@dataclass(frozen=True, slots=True)
class Change:
    """A value of the metadata or the nesting that differs: its place, and both sides as text."""

    place: str
    a: str
    b: str


def scalars(state: State) -> dict[str, object]:
    """Collect the numbers, text and bytes of a state's nesting by their dotted place in it.

    >>> state = State({}, skeleton={"tree": {"step": 3, "betas": {"$tuple": [0.9, 0.99]}}})
    >>> scalars(state)
    {'step': 3, 'betas.0': 0.9, 'betas.1': 0.99}
    """
    return {path: value for path, value in _leaves(state) if not isinstance(value, _Part)}


@dataclass(frozen=True, slots=True)
class _Part:
    """What a place of the nesting holds that is no value: a kind of container, or a tensor."""

    text: str

    def __getitem__(self, index: object) -> _Part:
        return self  # the nesting makes scalars of some tensors

    def tobytes(self) -> _Part:
        return self  # and bytes of others


_ABSENT = _Part("absent")


def _leaves(state: State) -> Iterator[tuple[str, object]]:
    if state.skeleton is not None and "tree" in state.skeleton:
        nesting = unflatten(state.skeleton, state, lambda name, *_: _Part(name), state.where)
        yield from _walk(nesting, "")


def _walk(value: object, place: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        children = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list | tuple):
        children = [(str(i), child) for i, child in enumerate(value)]
    elif value != _Part(place):  # a tensor elsewhere than its name says is tied, or renamed
        yield place, value
        return
    else:
        return
    if type(value) is not dict or not children:
        yield place, _Part(f"{type(value).__name__} of {len(children)}")
    for key, child in children:
        yield from _walk(child, f"{place}.{key}" if place else key)


def changes(a: State, b: State, rtol: float, atol: float) -> list[Change]:
    """Compare metadata and nesting.

    Containers and ties count where both files keep a nesting; against a file of flat names only
    the values do.
    """
    both = all("tree" in (state.skeleton or {}) for state in (a, b))
    left, right = (dict(_leaves(s)) if both else scalars(s) for s in (a, b))
    pairs = [
        *_pairs(a.metadata, b.metadata, "metadata."),
        *_pairs(left, right, ""),
    ]
    found = [
        Change(place, _text(x), _text(y))
        for place, x, y in pairs
        if _text(x) != _text(y) and not _close(x, y, rtol, atol)
    ]
    return found + [Change(f"model: {place}", x, y) for place, x, y in _models(a, b)]


def _models(a: State, b: State) -> Iterator[tuple[str, str, str]]:
    """Compare what models are besides their tensors; of two dialects only that they are two."""
    one, other = a.document, b.document
    if one is None and other is None:
        yield from compare(a.graph, b.graph)
    elif one is None or other is None or one.dialect != other.dialect:
        yield "dialect", _summary(a), _summary(b)
    else:
        left, right = dict(one.parts()), dict(other.parts())
        for place in dict.fromkeys((*left, *right)):
            x, y = left.get(place, _ABSENT.text), right.get(place, _ABSENT.text)
            if x != y:
                yield place, x, y


def _summary(state: State) -> str:
    if not state.dialect:
        return _ABSENT.text
    held = repr(state.graph) if state.document is None else state.document.summary()
    return f"{state.dialect}: {held}"


def _pairs(
    a: Mapping[str, object], b: Mapping[str, object], prefix: str
) -> Iterator[tuple[str, object, object]]:
    for key in dict.fromkeys((*a, *b)):
        yield prefix + key, a.get(key, _ABSENT), b.get(key, _ABSENT)


def _text(value: object) -> str:
    if isinstance(value, _Part):
        return value.text
    if isinstance(value, dict | list):  # the order of keys says nothing
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return repr(value)


def _close(x: object, y: object, rtol: float, atol: float) -> bool:
    if not (isinstance(x, float) and isinstance(y, float)):
        return False
    return abs(x - y) <= atol + rtol * abs(y) and abs(x - y) < math.inf
