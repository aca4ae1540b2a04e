"""Other names and layouts for the tensors of a state: rules, maps of rules, merging and splitting.

Everything here takes lazy states and gives lazy states; a tensor is laid out anew while it is read.
"""

from __future__ import annotations

from tensorkeep.mapping.apply import LEFT_OUT, Mapped, apply
from tensorkeep.mapping.flat import changed, flat, place_of
from tensorkeep.mapping.merging import METADATA, merge, parts
from tensorkeep.mapping.rules import Rule, known_maps, read_map, renaming

__all__ = [
    "LEFT_OUT",
    "METADATA",
    "Mapped",
    "Rule",
    "apply",
    "changed",
    "flat",
    "known_maps",
    "merge",
    "parts",
    "place_of",
    "read_map",
    "renaming",
]
