"""An attempt: a task of one item, whose answer is plain JSON whatever happens in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tensorkeep.bulk.items import Item
from tensorkeep.errors import ArgumentError, CorruptError, StoreError, TensorKeepError
from tensorkeep.state import Json

Task = Callable[[Item], Mapping[str, Json]]
Answer = dict[str, Any]

CRASHED = "Crashed"
_PASSING = (StoreError, ConnectionError, TimeoutError)


def attempt(task: Task, item: Item) -> Answer:
    """Do a task, and say how it went.

    Returns:
        {"result": what it gave, "seconds"}, or {"error": {"kind", "problem", "message", "where",
        "cure", "damage", "passing"}, "seconds"}.
    """
    begun = time.monotonic()
    answer: Answer
    try:
        answer = {"result": _small(task(item))}
    except Exception as error:  # of one item, which must not keep the others from being done
        answer = {"error": _described(error)}
    answer["seconds"] = time.monotonic() - begun
    return answer


def crashed(problem: str, cure: str = "") -> Answer:
    """Give the answer on behalf of a process that cannot."""
    error = StoreError(problem, cure=cure)
    return {"error": {**_described(error), "kind": CRASHED, "passing": True}, "seconds": 0.0}


def unable(error: Exception) -> Answer:
    """Give the answer of a place where the task cannot be done at all."""
    return {"error": {**_described(error), "passing": False}, "seconds": 0.0}


def name_of(task: Task) -> dict[str, Json]:
    """Name a task and its settings, for a journal to tell it from others.

    >>> name_of(partial(attempt, retries=2))
    {'task': 'tensorkeep.bulk.attempts.attempt', 'settings': {'retries': '2'}}
    """
    settings: dict[str, Any] = {}
    function: Any = task
    while isinstance(function, partial):
        settings = {**function.keywords, **settings}
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    told: dict[str, Json] = {key: repr(settings[key]) for key in sorted(settings)}
    return {"task": f"{getattr(function, '__module__', '')}.{name}", "settings": told}


def _small(result: Mapping[str, Json]) -> dict[str, Any]:
    try:
        if isinstance(result, Mapping):
            made: dict[str, Any] = json.loads(json.dumps(dict(result)))
            return made
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"a task's result is to be JSON: {error}") from error
    raise ArgumentError(f"a task is to give a dict, not {type(result).__name__}")


def _described(error: Exception) -> dict[str, Any]:
    ours = isinstance(error, TensorKeepError)
    told = str(error) if ours else f"{type(error).__name__}: {error}".removesuffix(": ")
    return {
        "kind": type(error).__name__,
        "problem": getattr(error, "problem", told),
        "message": told,
        "where": getattr(error, "where", ""),
        "cure": getattr(error, "cure", ""),
        "damage": isinstance(error, CorruptError),
        "passing": isinstance(error, _PASSING),
    }
