"""Bulk work: verify, convert and prune thousands of files, on all cores or on a cluster."""

from __future__ import annotations

from tensorkeep.bulk.finding import find
from tensorkeep.bulk.items import Item
from tensorkeep.bulk.outcomes import Outcome, Summary
from tensorkeep.bulk.running import run

__all__ = ["Item", "Outcome", "Summary", "find", "run"]
