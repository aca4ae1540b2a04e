"""Writing datasets: samples from anywhere, to one file or several, whole or not at all."""

from __future__ import annotations

from tensorkeep.data.writing.verb import Written, write

__all__ = ["Written", "write"]
