"""Two states side by side."""

from __future__ import annotations

from collections.abc import Callable

from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Diff, Overlay

Report = Callable[[int, int], None]


def compare(a: State, b: State, report: Report) -> Diff:
    """Compare two states, tensor by tensor."""
    raise NotImplementedError


def overlay(a: Tensor, b: Tensor) -> Overlay:
    """Count both tensors' values in the same bins; of large ones, a sample's."""
    raise NotImplementedError
