"""Array libraries: one file per library, one row here. None is imported before it is used."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tensorkeep.errors import ArgumentError
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
    if name not in FRAMEWORKS:
        raise ArgumentError(
            f"no framework is called {name!r}", cure=f"There are {', '.join(FRAMEWORKS)}."
        )
    return FRAMEWORKS[name]


def to_array(value: Any, where: str) -> tuple[str, npt.NDArray[Any]] | None:
    """Give the framework and the values of an array of any library; None for anything else."""
    for framework in FRAMEWORKS.values():
        if framework.recognises(value):
            return framework.name, framework.to_numpy(value, where)
    return None
