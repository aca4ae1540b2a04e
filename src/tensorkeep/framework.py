"""Framework: how an array library's tensors become NumPy arrays, and arrays its tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Framework:
    """An array library, as data and plain functions. Nothing imports it until it is used.

    Args:
        name: what users call it.
        module: the module that holds its array type.
        owns: whether an object is one of its arrays; called only once the module is imported.
        to_numpy: gives the values, without a copy where it can; raises UnsupportedError.
        from_numpy: takes a writable array that nobody else uses, and a device or None.
    """

    name: str
    module: str
    owns: Callable[[Any], bool]
    to_numpy: Callable[[Any, str], npt.NDArray[Any]]
    from_numpy: Callable[[npt.NDArray[Any], str | None, str], Any]

    def recognises(self, value: Any) -> bool:
        """Say whether `value` is one of its arrays, without importing the library."""
        return self.module in sys.modules and self.owns(value)
