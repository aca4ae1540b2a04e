"""Statistics of tensors: sampled at once, exact in the background, kept by digest."""

from __future__ import annotations

from collections.abc import Callable

from tensorkeep.state import State
from tensorkeep.viewer.answers import Statistics

Report = Callable[[int, int], None]  # bytes done, and all of them


class Measured:
    """What was measured so far; one for all that is open, used by several threads."""

    def sampled(self, state: State, index: int) -> Statistics:
        """Give what is known of a tensor: the exact figures where they are there, else a sample's."""
        raise NotImplementedError

    def exact(self, state: State, index: int, report: Report) -> Statistics:
        """Read all of a tensor, in pieces, unless that was done before."""
        raise NotImplementedError
