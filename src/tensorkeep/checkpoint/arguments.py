"""What a caller gives to a Checkpointer, checked and made plain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tensorkeep import frameworks
from tensorkeep.api import refuse_damage
from tensorkeep.errors import ArgumentError, UnsafeError, UnsupportedError
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten
from tensorkeep.wire.text import bound_values, dump_json, parse_json

Flat = tuple[dict[str, Tensor], dict[str, Json] | None, dict[str, Json]]
_MAX_VALUES = 4 * MAX_TENSORS - 100  # beside which state.json has those of the random generators


def check_step(step: object) -> int:
    """Refuse what is no step."""
    if type(step) is not int or not 0 <= step < 10**18:
        raise ArgumentError(f"a step cannot be {step!r}", cure="Give an integer from 0 on.")
    return step


def called(state: Any) -> Any:
    """Give the state itself, or what the function that was given for it gives."""
    plain_function = callable(state) and not hasattr(state, "state_dict")
    return state() if plain_function else state


def flatten_state(state: Any) -> Flat:
    """Turn a nesting, or an opened State, into named tensors, a skeleton and metadata.

    Raises:
        CorruptError: a tensor of an opened State is not what was saved.
        UnsupportedError: something cannot be kept, or there is more of it than can be read again.
    """
    if isinstance(state, State):
        refuse_damage(state)
        metadata = {key: value for key, value in state.metadata.items() if key != "checkpoint"}
        return dict(state.items()), state.skeleton, metadata
    tensors, skeleton = flatten(state, frameworks.reader())
    try:
        bound_values(dump_json(skeleton), _MAX_VALUES, "the state")
    except UnsafeError:
        problem = f"it holds more than {_MAX_VALUES:,} single numbers and texts"
        raise UnsupportedError(problem, where="the state", cure="Put them into arrays.") from None
    if len(tensors) > MAX_TENSORS:
        problem = f"it holds {len(tensors):,} tensors, of which {MAX_TENSORS:,} can be read again"
        raise UnsupportedError(problem, where="the state", cure="Put some into one array.")
    return tensors, skeleton, {}


def check_metrics(metrics: Mapping[Any, Any] | None) -> dict[str, float | str]:
    """Turn metrics into what JSON holds; NumPy's and PyTorch's numbers too.

    Raises:
        UnsupportedError: one is neither a number nor text.
    """
    found: dict[str, float | str] = {}
    if not isinstance(metrics, Mapping | None):
        raise UnsupportedError(
            f"the metrics are a {type(metrics).__name__}", cure="Give numbers or text, by name."
        )
    for name, value in (metrics or {}).items():
        plain = _plain(value)
        if type(name) is not str or plain is None:
            raise UnsupportedError(
                f"the metric {name!r} is a {type(value).__name__}",
                cure="Give numbers or text, by name.",
            )
        found[name] = plain
    dump_json(found)  # refuses integers of more digits than can be read again
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
    if isinstance(value, str):
        return str(value)  # NumPy's too
    return int(value) if isinstance(value, int) else None


def check_metadata(metadata: Mapping[str, Json] | None) -> dict[str, Json]:
    """Refuse what is not JSON, and copy the rest, which the training may go on changing."""
    try:
        kept = dict(metadata or {})
        if not all(isinstance(key, str) for key in kept):
            raise TypeError("its keys are not all text")
        copy = parse_json(dump_json(kept), "metadata", most=MAX_TENSORS)
    except (TypeError, ValueError, UnsafeError) as error:
        raise UnsupportedError(
            f"the metadata is not JSON: {error}",
            cure="Use a dict of text keys with numbers, text, lists and dicts in it.",
        ) from None
    return dict(copy)
