"""What a caller gives to a Checkpointer, checked and made plain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tensorkeep import frameworks
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.state import Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten
from tensorkeep.wire.text import dump_json


def check_step(step: object) -> int:
    """Refuse what is no step."""
    if type(step) is not int or not 0 <= step < 10**18:
        raise ArgumentError(f"a step cannot be {step!r}", cure="Give an integer from 0 on.")
    return step


def called(state: Any) -> Any:
    """Give the state itself, or what the function that was given for it gives."""
    plain_function = callable(state) and not hasattr(state, "state_dict")
    return state() if plain_function else state


def flatten_state(state: Any) -> tuple[dict[str, Tensor], dict[str, Json] | None]:
    """Turn a nesting, or an opened State, into named tensors and a skeleton."""
    if isinstance(state, State):
        return dict(state.items()), state.skeleton
    return flatten(state, frameworks.reader())


def check_metrics(metrics: Mapping[Any, Any] | None) -> dict[str, float | str]:
    """Turn metrics into what JSON holds; NumPy's and PyTorch's numbers too."""
    found: dict[str, float | str] = {}
    for name, value in (metrics or {}).items():
        plain = _plain(value)
        if type(name) is not str or plain is None:
            raise UnsupportedError(
                f"the metric {name!r} is a {type(value).__name__}",
                cure="Give numbers or text, by name.",
            )
        found[name] = plain
    return found


def _plain(value: Any) -> float | str | None:
    """Give a number or text as JSON holds it; None for anything else."""
    if hasattr(value, "item") and not isinstance(value, str):
        try:
            value = value.item()
        except (ValueError, RuntimeError):  # more than one number
            return None
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    return value if isinstance(value, int | str) else None


def check_metadata(metadata: Mapping[str, Json] | None) -> dict[str, Json]:
    """Refuse what is not JSON."""
    try:
        kept = dict(metadata or {})
        if not all(isinstance(key, str) for key in kept):
            raise TypeError("its keys are not all text")
        dump_json(kept)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(
            f"the metadata is not JSON: {error}",
            cure="Use a dict of text keys with numbers, text, lists and dicts in it.",
        ) from None
    return kept


@lru_cache(maxsize=1)
def writer() -> str:
    """Name this library and its version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"tensorkeep {version('tensorkeep')}"
    except PackageNotFoundError:  # used from its sources
        return "tensorkeep"
