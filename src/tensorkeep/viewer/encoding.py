"""Answers as bytes: strict JSON, or a head in JSON with float32s after it."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNED = 8


def to_json(answer: Any) -> bytes:
    """Write an answer as JSON in ASCII.

    Raises:
        ValueError: it holds a number that is not finite.

    >>> from tensorkeep.viewer.answers import Problem
    >>> to_json([Problem("no such file")])
    b'[{"problem":"no such file","cure":""}]'
    """
    text = json.dumps(answer, default=_fields, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")


def pack(head: Any, values: npt.NDArray[np.float32]) -> bytes:
    """Write a head and float32s: 4 bytes of its length, the head, zeros up to 8 bytes, the values.

    >>> from tensorkeep.viewer.answers import Problem
    >>> len(pack(Problem(""), np.zeros(2, np.float32)))
    40
    """
    text = to_json(head)
    length = len(text).to_bytes(4, "little")
    padding = bytes(-(4 + len(text)) % _ALIGNED)
    return b"".join((length, text, padding, np.ascontiguousarray(values, "<f4").tobytes()))


def _fields(answer: Any) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in _names(answer.__class__)}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))
