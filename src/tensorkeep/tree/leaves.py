"""The skeleton of a nesting whose tensors are lazy already, as other libraries' files hold them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

from tensorkeep.errors import UnsafeError
from tensorkeep.state import MAX_TENSORS, Json
from tensorkeep.tensor import Tensor
from tensorkeep.tree.flatten import is_good_name
from tensorkeep.tree.vocabulary import EXACT_INT, ROOT, float_text, part_of

Path = tuple[str, ...]


class Leaves:
    """The tensors of a nesting, each named by its dotted path or, if that is taken, like it.

    >>> import numpy as np
    >>> leaves = Leaves()
    >>> leaves.keep(Tensor.of(np.ones(2)), ("a", "b")), leaves.keep(Tensor.of(np.ones(2)), ("a.b",))
    ('$', '$:a.b~2')
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def keep(self, tensor: Tensor, path: Path) -> str:
        """Name a tensor; give its leaf in the skeleton.

        Raises:
            UnsafeError: there are too many.
        """
        if len(self.tensors) >= MAX_TENSORS:
            raise UnsafeError(f"holds more than {MAX_TENSORS:,} tensors", where=tensor.source.where)
        wanted = ".".join(path) if path else ROOT
        name = wanted if is_good_name(wanted) else f"tensor-{len(self.tensors)}"
        if name in self.tensors:
            numbered = (f"{name}~{i}" for i in itertools.count(2))
            name = next(n for n in numbered if n not in self.tensors)
        self.tensors[name] = tensor
        return "$" if name == wanted else f"$:{name}"


def scalar(value: bool | int | float | complex | str | None) -> Json:
    """Give the skeleton of a Python scalar."""
    if type(value) is str:
        return f"${value}" if value.startswith("$") else value
    if type(value) is int:
        return value if abs(value) < EXACT_INT else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": float_text(value)}
    if isinstance(value, complex):
        return {"$complex": [scalar(value.real), scalar(value.imag)]}
    return value


def mapping(pairs: Iterable[tuple[Any, Json]]) -> Json:
    """Give the skeleton of a dict, from its keys and the skeletons of its values."""
    listed = list(pairs)
    if all(type(key) is str and not key.startswith("$") for key, _ in listed):
        return dict(listed)
    return {"$dict": [[scalar(key), child] for key, child in listed]}


def skeleton_of(tree: Json) -> dict[str, Json] | None:
    """Give what a State keeps of a skeleton: None for a flat dict of plain arrays."""
    if (
        isinstance(tree, dict)
        and all(leaf == "$" for leaf in tree.values())
        and not any(key.startswith("$") for key in tree)
    ):
        return None
    return {"tree": tree}


__all__ = ["Leaves", "Path", "mapping", "part_of", "scalar", "skeleton_of"]
