"""Array libraries: one file per library, one row here. None is imported before it is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy.typing as npt

from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.framework import Framework
from tensorkeep.frameworks import jax, numpy, torch

FRAMEWORKS: dict[str, Framework] = {
    "jax": jax.FRAMEWORK,
    "numpy": numpy.FRAMEWORK,
    "torch": torch.FRAMEWORK,
}


def by_name(name: str) -> Framework:
    """Find a framework by its name.

    Raises:
        ArgumentError: there is none.
    """
    if str(name) not in FRAMEWORKS:
        raise ArgumentError(
            f"no framework is called {name!r}", cure=f"There are {', '.join(FRAMEWORKS)}."
        )
    return FRAMEWORKS[name]


def to_array(value: Any, where: str) -> tuple[str, npt.NDArray[Any]] | None:
    """Give the framework and the values of an array of any library; None for anything else.

    Raises:
        UnsupportedError: an array that cannot be kept, or of a library that is not known here.
    """
    framework = _owner(value, where)
    return None if framework is None else (framework.name, framework.to_numpy(value, where))


def reader() -> Callable[[Any, str], tuple[str, npt.NDArray[Any]] | None]:
    """Give a `to_array` for one walk over a state, which reads tied values once.

    Values that show the same memory give the same array. Where they had to be copied, from a GPU
    for one, nothing else would tell that they are tied.
    """
    seen: dict[Hashable, tuple[Any, npt.NDArray[Any]]] = {}

    def read(value: Any, where: str) -> tuple[str, npt.NDArray[Any]] | None:
        framework = _owner(value, where)
        if framework is None:
            return None
        key = framework.name, framework.identity(value, where)
        if key not in seen:  # the value is held too, so that its memory is not used again
            seen[key] = value, framework.to_numpy(value, where)
        return framework.name, seen[key][1]

    return read


def _owner(value: Any, where: str) -> Framework | None:
    for framework in FRAMEWORKS.values():
        if framework.recognises(value):
            return framework
    if callable(getattr(type(value), "numpy", None)):
        raise UnsupportedError(
            f"is a {type(value).__module__}.{type(value).__qualname__}, which is not kept",
            where=where,
            cure="Keep its .numpy().",
        )
    return None
