"""Objects that have a state of their own: modules, optimizers, schedulers, loaders, generators.

Anything with `state_dict()` and `load_state_dict()` is one, and so are the random generators of
Python, NumPy and PyTorch that are no globals. The containers that JAX was told of (Flax's
TrainState and State, registered dataclasses) are taken apart by their fields.
"""

from __future__ import annotations

import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep.errors import TensorKeepError, UnsupportedError

# What is kept as it is, though JAX takes the containers among it apart too.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.ndarray, np.generic)
_LEAVES = frozenset((type(None), bool, int, float, complex, str, bytes, np.ndarray))
_KEPT = (dict, OrderedDict, defaultdict, Counter, deque, list, tuple)


@dataclass(frozen=True, slots=True)
class Stateful:
    """How the state of an object is taken from it and given to it.

    Args:
        take: gives the state; it may look at memory that the object goes on changing.
        give: sets the state.
        whole: whether the state always has the same entries, so that others are a mistake.
        in_place: whether `give` copies into the object's own arrays and cannot fail half-way.
    """

    take: Callable[[], Any]
    give: Callable[[Any], None]
    whole: bool = False
    in_place: bool = False


def stateful(value: Any) -> Stateful | None:
    """Say how an object keeps its state; None for a plain value.

    >>> stateful(3) is None, stateful(np.random.default_rng(0)).take()["bit_generator"]
    (True, 'PCG64')
    """
    if isinstance(value, type):
        return None
    if isinstance(value, np.random.Generator):
        bits: Any = value.bit_generator
        return Stateful(lambda: bits.state, lambda state: setattr(bits, "state", state))
    if isinstance(value, np.random.RandomState):
        return Stateful(lambda: value.get_state(legacy=False), value.set_state)
    if isinstance(value, random.Random):
        return Stateful(
            lambda: list(value.getstate()), lambda state: value.setstate(_tupled(state))
        )
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(value, getattr(torch, "Generator", ())):
        theirs: Any = value
        return Stateful(theirs.get_state, lambda state: theirs.set_state(state.cpu()))
    if callable(getattr(value, "state_dict", None)) and callable(
        getattr(value, "load_state_dict", None)
    ):
        module = torch is not None and isinstance(value, torch.nn.Module)
        return Stateful(value.state_dict, value.load_state_dict, module, module)
    return None


@dataclass(frozen=True, slots=True)
class Branch:
    """One level of a container of JAX's: its parts by name, and how to make it of others.

    What JAX holds to be static (functions, optimizers, options) is no part.
    """

    parts: dict[str, Any]
    build: Callable[[Sequence[Any]], Any]


def branch(value: Any) -> Branch | None:
    """Take a container apart that JAX was told of, or a typed random key; None for anything else.

    >>> branch([1, 2])
    """
    jax: Any = sys.modules.get("jax")
    trees: Any = getattr(jax, "tree_util", None)
    kind = type(value)
    if trees is None or isinstance(value, _PLAIN) or kind in _KEPT or isinstance(value, type):
        return None
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return None
    if isinstance(value, jax.Array):
        if not jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            return None
        name = str(jax.random.key_impl(value))
        wrap = jax.random.wrap_key_data
        return Branch({name: jax.random.key_data(value)}, lambda parts: wrap(parts[0], impl=name))
    rows, tree = trees.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
    if len(rows) == 1 and rows[0][1] is value:  # a leaf
        return None
    names = [trees.keystr(path, simple=True, separator=".") for path, _ in rows]
    if len(set(names)) != len(names):
        names = [str(i) for i in range(len(rows))]
    parts = {name: part for name, (_, part) in zip(names, rows, strict=True)}
    return Branch(parts, lambda found: trees.tree_unflatten(tree, found))


def capture(value: Any) -> tuple[Any, set[str]]:
    """Replace every object that has a state by that state, and JAX's containers by dicts.

    Returns:
        The nesting, and the places of what is known not to be trained (parameters of a module that
        need no gradient), as dotted names.

    Raises:
        UnsupportedError: an object does not give its state, or a container holds itself.
    """
    frozen: set[str] = set()
    return _capture(value, (), frozen, 0), frozen


def _capture(value: Any, path: tuple[str, ...], frozen: set[str], depth: int) -> Any:
    kind = type(value)
    if kind in _LEAVES:
        return value
    if depth > 100:
        raise UnsupportedError(
            "is nested deeper than 100 levels",
            where=".".join(path),
            cure="Does a container hold itself?",
        )
    if kind in (dict, OrderedDict):
        return kind((k, _capture(v, (*path, str(k)), frozen, depth + 1)) for k, v in value.items())
    if kind in (list, tuple):
        return kind(_capture(v, (*path, str(i)), frozen, depth + 1) for i, v in enumerate(value))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        items = zip(kind._fields, value, strict=False)
        return tuple.__new__(kind, [_capture(v, (*path, f), frozen, depth + 1) for f, v in items])
    found = stateful(value)
    if found is None:
        parts = branch(value)
        return value if parts is None else _capture(parts.parts, path, frozen, depth + 1)
    try:
        state = found.take()
    except TensorKeepError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"its {kind.__name__} does not give its state: {error}", where=".".join(path)
        ) from error
    if found.whole:
        frozen.update(
            ".".join((*path, name)) for name, p in value.named_parameters() if not p.requires_grad
        )
    return state


def _tupled(state: Any) -> Any:
    return tuple(map(_tupled, state)) if isinstance(state, list | tuple) else state
