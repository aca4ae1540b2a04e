"""Nested containers and scalars as named tensors plus a JSON skeleton, and back.

The skeleton mirrors the nesting. Plain JSON values stand for themselves; a string that starts with
`$` is special:

    "$"                           the tensor named by the dotted path to here
    "$:NAME"                      the tensor NAME (tied tensors name the same one)
    "$$TEXT"                      the string "$TEXT"
    {"$array": LEAF, ...}         a tensor of another framework or NumPy type than the usual
    {"$scalar": LEAF}             a NumPy scalar, kept as a 0-d tensor
    {"$tuple": [...]}             a tuple
    {"$namedtuple": [MODULE, NAME, {FIELD: VALUE}]}
    {"$deque": [...], "maxlen": N}           no "maxlen" where it has none
    {"$set": [...]}, {"$frozenset": [...]}   items as keys are, sorted by type and value
    {"$dict": [[KEY, VALUE]]}     a dict whose keys are not plain strings
    {"$ordereddict": [[KEY, VALUE]]}
    {"$defaultdict": [[KEY, VALUE]], "factory": "list"}   no "factory" where it is None
    {"$counter": [[KEY, COUNT]]}
    {"$int": "0x..."}, {"$float": "nan"}, {"$complex": [RE, IM]}
    {"$range": [START, STOP, STEP]}
    {"$bytes": BASE64} or {"$bytes": LEAF}   short ones inline, long ones as a uint8 tensor
    {"$bytearray": BASE64} or {"$bytearray": LEAF}
    {"$torch": ["dtype", "float32"]}, {"$torch": ["device", "cuda:0"]}, {"$torch": ["size", [2, 3]]}

A flat dict of plain NumPy arrays needs no skeleton, so that its file is like anyone else's.
Reading one builds nothing but these types: a named tuple comes back as its own class only where
that class is already imported, else as an equal one made for it. What is torch's comes back as
torch's where torch is already imported, else as text or a tuple. A `factory` is the name of one of
the eight builtins that are listed here.
"""

from __future__ import annotations

from tensorkeep.tree.flatten import flatten
from tensorkeep.tree.unflatten import unflatten
from tensorkeep.tree.vocabulary import MAX_DEPTH, ROOT

__all__ = ["MAX_DEPTH", "ROOT", "flatten", "unflatten"]
