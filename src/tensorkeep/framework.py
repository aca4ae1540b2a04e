"""Framework: how an array library's tensors become NumPy arrays, and arrays its tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tensorkeep.optional import require


def _address(value: Any, where: str) -> Hashable:
    return id(value)


@dataclass(frozen=True, slots=True)
class Framework:
    """An array library, as data and plain functions. Nothing imports it until it is used.

    Args:
        name: what users call it.
        module: the module that holds its array type.
        owns: whether an object is one of its arrays; called only once the module is imported.
        to_numpy: gives the values, without a copy where it can; raises UnsupportedError.
        from_numpy: takes a writable array that nobody else uses, and a device or None.
        identity: equal for two arrays that show the same memory in the same way; raises
            UnsupportedError.
    """

    name: str
    module: str
    owns: Callable[[Any], bool]
    to_numpy: Callable[[Any, str], npt.NDArray[Any]]
    from_numpy: Callable[[npt.NDArray[Any], Any, str], Any]
    identity: Callable[[Any, str], Hashable] = _address

    def recognises(self, value: Any) -> bool:
        """Say whether `value` is one of its arrays, without importing the library."""
        return self.module in sys.modules and self.owns(value)


def library(module: str, where: str) -> Any:
    """Import an optional library.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported.

    >>> library("json", "model.safetensors").dumps([1])
    '[1]'
    """
    cure = f'Run pip install "tensorkeep[{module}]", or load with framework="numpy".'
    return require(module, f"its arrays belong to {module}", cure, where)
