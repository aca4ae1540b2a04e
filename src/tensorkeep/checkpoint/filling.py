"""Put what was saved into what is there: compare all of it first, then change all or nothing."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorkeep import frameworks
from tensorkeep.checkpoint.crew import Crew
from tensorkeep.checkpoint.stateful import Stateful, branch, stateful
from tensorkeep.checksum import THREADS
from tensorkeep.errors import MismatchError, TensorKeepError

_LISTED = 20
Described = tuple[str, tuple[int, ...]]  # an element type and a shape


@dataclass(slots=True)
class Differences:
    """How what was saved differs from what it is to be put into, by dotted names.

    Args:
        missing: what is there, and was not saved.
        unexpected: what was saved, and is not there.
        different: what has another shape, element type or kind, with both.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    different: list[tuple[str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.different)

    def error(self, where: str) -> MismatchError:
        """Give the one error that lists them all."""
        parts = []
        for what, rows in (
            ("missing in the checkpoint", self.missing),
            ("not expected", self.unexpected),
            ("different", [f"{name} ({how})" for name, how in self.different]),
        ):
            if rows:
                more = f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
                parts.append(f"{len(rows)} {what}: {', '.join(rows[:_LISTED])}{more}")
        return MismatchError(
            f"does not fit what it is to be restored into: {'; '.join(parts)}",
            where=where,
            cure="Restore into what was saved, or what fits of it with partial=True.",
        )


def fill(like: Any, saved: Any, where: str, *, partial: bool = False) -> tuple[Any, Differences]:
    """Put a saved nesting into arrays and objects like those it came from.

    Arrays of NumPy and PyTorch and objects that have a state are changed in place; JAX arrays,
    numbers and containers come back new. A None in `like` takes whatever was saved there.

    Args:
        like: the nesting to fill.
        saved: what was saved, whose arrays nobody else uses.
        where: names the checkpoint in messages.
        partial: fill what fits, and report the rest.

    Returns:
        The nesting of `like` with what was saved, and the differences.

    Raises:
        MismatchError: something is missing, unexpected or different, unless `partial`.
        UnsupportedError: an object refused its state; nothing has then changed.

    >>> weight = np.zeros(2)
    >>> filled, _ = fill({"w": weight, "step": 0}, {"w": np.ones(2), "step": 3}, "example")
    >>> weight.tolist(), filled["step"]
    ([1.0, 1.0], 3)
    """
    filling = _Filling()
    value = filling.node(like, saved, ())
    found = filling.differences
    if found and not partial:
        raise found.error(where)
    filling.apply(where)
    return value, found


@dataclass(slots=True)
class _Filling:
    differences: Differences = field(default_factory=Differences)
    objects: list[tuple[str, Stateful, Any]] = field(default_factory=list)
    changes: list[Callable[[], None]] = field(default_factory=list)  # by other libraries
    copies: list[Callable[[], None]] = field(default_factory=list)  # on all threads

    def node(self, like: Any, saved: Any, path: tuple[str, ...]) -> Any:
        """Give the value for a place, and note what has to be done for it."""
        if like is None:
            return saved
        place = ".".join(path) or "the state"
        if (keeper := stateful(like)) is not None:
            self._object(like, keeper, saved, path, place)
            return like
        if (apart := branch(like)) is not None:
            return apart.build(list(self._mapping(apart.parts, saved, path, place).values()))
        if isinstance(like, Mapping):
            return self._mapping(like, saved, path, place)
        if isinstance(like, list | tuple):
            return self._sequence(like, saved, path, place)
        if (described := _describe(like)) is not None:
            return self._array(like, described, saved, place)
        told = _describe(saved)
        # A count may have become an array since: Flax's `step` does under jit.
        if isinstance(saved, Mapping | list | tuple) or (
            told is not None and (told[1] != () or not isinstance(like, int | float | complex))
        ):
            self._differ(place, like, saved)
            return like
        return saved

    def _differ(self, place: str, like: Any, saved: Any) -> None:
        self.differences.different.append(
            (place, f"{_said(saved)} was saved, {_said(like)} is there")
        )

    def _mapping(
        self, like: Mapping[Any, Any], saved: Any, path: tuple[str, ...], place: str
    ) -> Any:
        if not isinstance(saved, Mapping):
            self._differ(place, like, saved)
            return like
        rows: dict[Any, Any] = {}
        for key, value in like.items():
            if key in saved:
                rows[key] = self.node(value, saved[key], (*path, str(key)))
            else:
                self.differences.missing.append(".".join((*path, str(key))))
                rows[key] = value
        for key in saved:
            if key not in like:
                self.differences.unexpected.append(".".join((*path, str(key))))
        kind: Any = type(like)
        if kind is dict or not isinstance(like, dict):
            return rows if kind is dict else kind(rows)
        again = copy.copy(like)  # with what a defaultdict, say, has beside its items
        again.clear()
        again.update(rows)
        return again

    def _sequence(
        self, like: list[Any] | tuple[Any, ...], saved: Any, path: tuple[str, ...], place: str
    ) -> Any:
        fields = getattr(type(saved), "_fields", None), getattr(type(like), "_fields", None)
        if not isinstance(saved, list | tuple) or (None not in fields and fields[0] != fields[1]):
            self._differ(place, like, saved)
            return like
        names = getattr(type(like), "_fields", None) or tuple(map(str, range(len(like))))
        rows = [self.node(a, b, (*path, n)) for a, b, n in zip(like, saved, names, strict=False)]
        for i in range(len(saved), len(like)):
            self.differences.missing.append(".".join((*path, names[i])))
        for i in range(len(like), len(saved)):
            self.differences.unexpected.append(".".join((*path, str(i))))
        rows += like[len(rows) :]
        if hasattr(type(like), "_fields"):
            kind: Any = type(like)
            return kind._make(rows)
        return rows if isinstance(like, list) else tuple(rows)

    def _array(
        self, like: Any, described: tuple[str, tuple[int, ...]], saved: Any, place: str
    ) -> Any:
        if _describe(saved) != described:
            self._differ(place, like, saved)
            return like
        if isinstance(like, np.ndarray):
            if not like.flags.writeable:
                return _numpy(saved)
            self.copies.append(lambda: np.copyto(like, _numpy(saved)))
            return like
        torch: Any = sys.modules.get("torch")
        if torch is not None and isinstance(like, torch.Tensor):
            self.changes.append(lambda: _copy_torch(torch, like, saved))
            return like
        jax: Any = sys.modules.get("jax")
        if jax is not None and isinstance(like, jax.Array):
            return jax.device_put(np.array(_numpy(saved)), like.sharding)
        return saved  # `like` only says what is expected, as jax.ShapeDtypeStruct does

    def _object(
        self, like: Any, keeper: Stateful, saved: Any, path: tuple[str, ...], place: str
    ) -> None:
        if not keeper.whole:
            self.objects.append((place, keeper, saved))
            return
        if not isinstance(saved, Mapping):
            self._differ(place, like, saved)
            return
        current = keeper.take()
        fitting = {}
        for name, value in current.items():
            full = ".".join((*path, name))
            if name not in saved:
                self.differences.missing.append(full)
            elif _describe(value) != _describe(saved[name]):
                self._differ(full, value, saved[name])
            else:
                fitting[name] = saved[name]
        self.differences.unexpected += [".".join((*path, n)) for n in saved if n not in current]
        torch: Any = sys.modules["torch"]
        found = {name: _to_torch(value) for name, value in fitting.items()}
        strict = len(found) == len(current) == len(saved)

        def give() -> None:
            with torch.no_grad():
                like.load_state_dict(found, strict=strict)

        self.changes.append(give)

    def apply(self, where: str) -> None:
        """Do what was noted: objects that may refuse first, copies that cannot fail last."""
        done: list[tuple[Stateful, Any]] = []
        for place, keeper, saved in self.objects:
            try:
                done.append((keeper, _copied(keeper.take())))
                # Its own: what it keeps of a map would keep the file's space after it was removed.
                keeper.give(copy.deepcopy(saved))
            except Exception as error:
                for earlier, state in reversed(done):
                    with contextlib.suppress(Exception):  # one that refuses even what it gave
                        earlier.give(state)
                if isinstance(error, TensorKeepError):
                    raise
                raise MismatchError(
                    f"{place} refuses the state that was saved for it: {error}",
                    where=where,
                    cure="Restore into an object like the one that was saved.",
                ) from error
        for change in self.changes:
            change()
        workers = Crew(THREADS - 1)
        try:
            workers.run(self.copies)
        finally:
            workers.close()


def _copied(state: Any) -> Any:
    """Copy the NumPy arrays of a state, which the object may be about to change in place."""
    if type(state) is np.ndarray:
        return state.copy()
    if type(state) in (dict, OrderedDict):
        return type(state)((key, _copied(value)) for key, value in state.items())
    return type(state)(map(_copied, state)) if type(state) in (list, tuple) else state


def _describe(value: Any) -> Described | None:
    """Give the element type and the shape of anything that has both."""
    shape, kind = getattr(value, "shape", None), getattr(value, "dtype", None)
    if kind is None or shape is None or isinstance(value, np.generic | type):
        return None
    name = getattr(kind, "name", None) or str(kind)
    return str(name).removeprefix("torch."), tuple(shape)


def _said(value: Any) -> str:
    described = _describe(value)
    if described is None:
        return f"a {type(value).__name__}"
    return f"{described[0]} {described[1]}"


def _numpy(value: Any) -> Any:
    found = frameworks.to_array(value, "the checkpoint")
    return value if found is None else found[1]


def _to_torch(value: Any) -> Any:
    torch: Any = sys.modules["torch"]
    if _describe(value) is None or isinstance(value, torch.Tensor):
        return value
    return frameworks.by_name("torch").from_numpy(_numpy(value), None, "the checkpoint")


def _copy_torch(torch: Any, like: Any, saved: Any) -> None:
    with torch.no_grad():
        like.copy_(_to_torch(saved))
