"""Editing a model: each edit gives a new state, and keeps all that it is not about."""

from __future__ import annotations

from tensorkeep.models.editing.batching import batch
from tensorkeep.models.editing.casting import cast
from tensorkeep.models.editing.cutting import cut
from tensorkeep.models.editing.exposing import expose
from tensorkeep.models.editing.opsets import convert_opset
from tensorkeep.models.editing.renaming import rename
from tensorkeep.models.editing.weights import attach, merge, strip

__all__ = ["attach", "batch", "cast", "convert_opset", "cut", "expose", "merge", "rename", "strip"]
