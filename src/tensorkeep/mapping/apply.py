"""Applying rules to the tensors of a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from re import Match
from typing import NamedTuple

from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.mapping import layouts
from tensorkeep.mapping.flat import Place, changed, flat, from_places
from tensorkeep.mapping.patterns import compiled, replaced
from tensorkeep.mapping.rules import Rule
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

Cast = Callable[[Tensor, DType], Tensor]


LEFT_OUT = "left out"  # begins the sentences of what rules drop: that was asked for


class Mapped(NamedTuple):
    """A state under its new names, and what of the old one is not in it, a sentence each."""

    state: State
    lost: list[str]


def apply(
    state: State,
    rules: Iterable[Rule] = (),
    *,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    dtype: DType | None = None,
    cast: Cast,
) -> Mapped:
    """Choose tensors of a state and give them other names and layouts.

    Args:
        state: what to take them from; its nesting is left behind, each tensor has its dotted path.
        rules: what to do, in order, to what was chosen.
        include: patterns of the tensors to take; all of them otherwise.
        exclude: patterns of those to leave out.
        dtype: what to cast all floating-point tensors to in the end.
        cast: gives a tensor in another element type.

    Raises:
        MissingError: a pattern matches nothing.
        ArgumentError: two tensors would have one name, or a layout does not fit.
    """
    found = flat(state)
    places = found.places
    chosen = None if include is None else list(include)
    if chosen is not None:
        taken = {path for pattern in chosen for path in _matching(pattern, places, state)}
        places = {path: place for path, place in places.items() if path in taken}
    for pattern in exclude:
        for path in _matching(pattern, places, state):
            del places[path]
    lost = []
    if found.others and chosen is None:
        lost.append(f"its values that are no tensors: {_some(found.others)}")
    listed = list(rules)
    matched = 0
    for rule in listed:
        count, places = _apply(rule, places, lost, cast)
        if rule.needed and not count:
            raise MissingError(
                f"no tensor is called like {rule.sources[0]!r}",
                where=state.where,
                cure=f"It has {_some(list(places))}.",
            )
        matched += count
    if listed and not matched:
        raise MissingError(
            "none of the rules is for any of its tensors",
            where=state.where,
            cure=f"It has {_some(list(places))}.",
        )
    if dtype is not None:
        places = _cast(places, dtype, cast)
    return Mapped(from_places(places, state), lost)


def _cast(places: dict[str, Place], dtype: DType, cast: Cast) -> dict[str, Place]:
    """Cast what is a float, once where it is tied."""
    made: dict[int, Place] = {}
    for place in places.values():
        tensor = place.tensor
        if id(tensor) not in made:
            wanted = tensor.dtype is not dtype and tensor.dtype.kind in ("float", "blocks")
            made[id(tensor)] = changed(cast(tensor, dtype), place) if wanted else place
    return {path: made[id(place.tensor)] for path, place in places.items()}


def _matching(pattern: str, places: dict[str, Place], state: State) -> list[str]:
    match = compiled(pattern).fullmatch
    found = [path for path in places if path == pattern or match(path)]
    if not found:
        raise MissingError(
            f"has no tensor called {pattern!r}",
            where=state.where,
            cure=f"It has {_some(list(places))}.",
        )
    return found


def _apply(
    rule: Rule, places: dict[str, Place], lost: list[str], cast: Cast
) -> tuple[int, dict[str, Place]]:
    if rule.join is not None:
        return _join(rule, rule.join, places, cast)
    made: dict[str, Place] = {}
    dropped = []
    count = 0
    for path, place in places.items():
        match = _match(rule, path, places)
        if match is None:
            _put(made, path, place, rule)
            continue
        count += 1
        if rule.drop:
            dropped.append(path)
            continue
        targets = [replaced(rule.sources[0], to, match) for to in rule.targets] or [path]
        if rule.split is None:
            _put(made, targets[0], _laid_out(rule, place, path, cast), rule)
            continue
        pieces = layouts.cut(place.tensor, rule.split, len(targets), path)
        for target, piece in zip(targets, pieces, strict=True):
            _put(made, target, _laid_out(rule, changed(piece, place), path, cast), rule)
    if dropped:
        lost.append(f"{LEFT_OUT} by {rule.where}: {_some(dropped)}")
    return count, made


def _join(
    rule: Rule, axis: int, places: dict[str, Place], cast: Cast
) -> tuple[int, dict[str, Place]]:
    """Join tensors whose names the patterns match with the same parts remembered."""
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for path in places:
        match = compiled(rule.sources[0]).fullmatch(path)
        if match is not None and _fits(rule, path, match, places):
            groups[match.groups()] = [path]
    for pattern in rule.sources[1:]:
        for path in places:
            match = compiled(pattern).fullmatch(path)
            if match is not None and match.groups() in groups:
                groups[match.groups()].append(path)
    joins: dict[str, tuple[str, list[str]]] = {}
    gone = set()
    for paths in groups.values():
        if len(paths) != len(rule.sources) or len(set(paths)) != len(paths):
            raise ArgumentError(
                f"joins {len(rule.sources)} tensors, but there is only {_some(paths)}",
                where=rule.where,
            )
        match = compiled(rule.sources[0]).fullmatch(paths[0])
        assert match is not None
        joins[paths[0]] = replaced(rule.sources[0], rule.targets[0], match), paths
        gone.update(paths)
    made: dict[str, Place] = {}
    for path, place in places.items():
        if path in joins:
            target, paths = joins[path]
            parts = [places[p] for p in paths]
            whole = layouts.joined([part.tensor for part in parts], axis, target)
            _put(made, target, _laid_out(rule, changed(whole, *parts), target, cast), rule)
        elif path not in gone:
            _put(made, path, place, rule)
    return len(joins), made


def _match(rule: Rule, path: str, places: dict[str, Place]) -> Match[str] | None:
    match = compiled(rule.sources[0]).fullmatch(path)
    return match if match is not None and _fits(rule, path, match, places) else None


def _fits(rule: Rule, path: str, match: Match[str], places: dict[str, Place]) -> bool:
    if rule.ndim is not None and places[path].tensor.ndim != rule.ndim:
        return False
    if rule.beside:
        other = places.get(replaced(rule.sources[0], rule.beside, match))
        if other is None or rule.beside_ndim not in (None, other.tensor.ndim):
            return False
    return True


def _laid_out(rule: Rule, place: Place, path: str, cast: Cast) -> Place:
    tensor = place.tensor
    if rule.axes is not None:
        tensor = layouts.permuted(tensor, rule.axes, path)
    if rule.reshape is not None:
        tensor = layouts.reshaped(tensor, rule.reshape, path)
    if rule.dtype is not None and tensor.dtype is not rule.dtype:
        tensor = cast(tensor, rule.dtype)
    return place if tensor is place.tensor else changed(tensor, place)


def _put(made: dict[str, Place], path: str, place: Place, rule: Rule) -> None:
    if path in made:
        raise ArgumentError(f"two tensors would be called {path!r}", where=rule.where)
    made[path] = place


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown or "no tensors"
