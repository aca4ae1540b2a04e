"""Objects that have a state of their own: modules, optimizers, schedulers, loaders, generators.

Anything with `state_dict()` and `load_state_dict()` is one, and so are the random generators of
Python, NumPy and PyTorch that are no globals.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep.errors import TensorKeepError, UnsupportedError


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


def capture(value: Any) -> tuple[Any, set[str]]:
    """Replace every object that has a state by that state.

    Returns:
        The nesting, and the places of what is known not to be trained (parameters of a module that
        need no gradient), as dotted names.

    Raises:
        UnsupportedError: an object does not give its state.
    """
    frozen: set[str] = set()
    return _capture(value, (), frozen, 0), frozen


def _capture(value: Any, path: tuple[str, ...], frozen: set[str], depth: int) -> Any:
    kind = type(value)
    if depth > 100:
        return value  # which is refused where the nesting is flattened
    if kind in (dict, OrderedDict):
        return kind((k, _capture(v, (*path, str(k)), frozen, depth + 1)) for k, v in value.items())
    if kind in (list, tuple):
        return kind(_capture(v, (*path, str(i)), frozen, depth + 1) for i, v in enumerate(value))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        items = zip(kind._fields, value, strict=False)
        return tuple.__new__(kind, [_capture(v, (*path, f), frozen, depth + 1) for f, v in items])
    found = stateful(value)
    if found is None:
        return value
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
