"""The names of classes, and the classes that a model's scores put first.

A file of labels has one of these forms:

    a JSON list                     ["cat", "dog"]
    a JSON object of class numbers  {"0": "cat", "1": "dog"}; the last of several texts is the name
    a number before each name       0: cat      also as Python writes it: {0: 'cat',
    one name a line                 cat

Scores count as probabilities where none is negative and each row adds up to 1; others become such
by softmax over the last axis, subtracting the greatest first.
"""

from __future__ import annotations

import io
import json
import os
import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnsafeError,
)
from tensorkeep.models.fetching import fetched
from tensorkeep.stores import is_url

_MOST_BYTES = 16 << 20
_MOST_CLASSES = 1_000_000
_NUMBERED = re.compile(r"\{?\s*[\"']?(\d{1,9})[\"']?\s*[:\t]\s*(.*?)\s*,?\s*\}?")
_TOLERANCE = 1e-3  # what float16 leaves of 1 when a thousand of them are added


class Scored(NamedTuple):
    """A class with its probability: its number, its name (empty where it has none)."""

    number: int
    name: str
    probability: float


def read_labels(path: str | os.PathLike[str]) -> dict[int, str]:
    """Read the names of classes by their numbers.

    Raises:
        MissingError: there is no such file.
        CorruptError: it has none of the forms above.
        UnsafeError: it is far larger than names of classes are.
    """
    where = os.fspath(path)
    try:
        with io.BytesIO(fetched(where)) if is_url(where) else open(where, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except TensorKeepError:
        raise
    except FileNotFoundError:
        raise MissingError("there is no such file", where=where) from None
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=where) from error
    if len(data) > _MOST_BYTES:
        raise UnsafeError(f"has more than {_MOST_BYTES:,} bytes of labels", where=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptError(f"is not text: {error}", where=where) from None
    return parse_labels(text, where)


def parse_labels(text: str, where: str = "labels") -> dict[int, str]:
    """Find out the names of classes that a text gives.

    Raises:
        CorruptError: it has none of the forms above.

    >>> parse_labels('["cat", "dog"]')
    {0: 'cat', 1: 'dog'}
    >>> parse_labels("{3: 'cat',")
    {3: 'cat'}
    """
    if text.lstrip()[:1] in ("[", "{"):
        try:
            held = json.loads(text)
        except (ValueError, RecursionError):
            held = None  # as Python writes it, which is read line by line
        if held is not None:
            return _of_json(held, where)
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) > _MOST_CLASSES:
        raise CorruptError(f"has more than {_MOST_CLASSES:,} lines", where=where)
    found = [_NUMBERED.fullmatch(line) for line in lines if line not in ("", "{", "}")]
    if found and all(found):
        return {int(each[1]): _unquote(each[2]) for each in found if each}
    if text.lstrip()[:1] == "{":
        raise CorruptError("is no table of numbers and names", where=where)
    return dict(enumerate(lines))


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace("\\'", "'").replace('\\"', '"')
    return text


def _of_json(value: Any, where: str) -> dict[int, str]:
    rows = enumerate(value) if isinstance(value, list) else value.items()
    labels = {}
    for key, name in rows:
        if isinstance(name, list) and name:
            name = name[-1]
        if not isinstance(name, str) or not str(key).isdecimal():
            raise CorruptError(
                f"says {name!r:.60} of the class {key!r:.20}, not a name",
                where=where,
                cure='Give ["cat", "dog"] or {"0": "cat", "1": "dog"}.',
            )
        labels[int(key)] = name
    return labels


def probabilities(scores: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], bool]:
    """Give scores as probabilities along the last axis, and whether softmax was needed for it.

    Raises:
        ArgumentError: they are no scores of classes.

    >>> probabilities(np.array([[0.25, 0.75]]))
    (array([[0.25, 0.75]]), False)
    >>> probabilities(np.array([0.0, 0.0]))
    (array([0.5, 0.5]), True)
    """
    if not scores.ndim or not scores.shape[-1] or scores.dtype.kind in "OUSb":
        raise ArgumentError(f"{scores.dtype}{list(scores.shape)} are no scores of classes")
    wide = scores.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ArgumentError("the scores are not all finite")
    sums = wide.sum(axis=-1)
    if (wide >= 0).all() and np.abs(sums - 1).max(initial=0) <= _TOLERANCE:
        return wide, False
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True), True


def top(
    scores: npt.NDArray[Any], count: int, labels: dict[int, str] | None = None
) -> tuple[list[list[Scored]], bool]:
    """List the most probable classes of each row, and say whether softmax was applied.

    Axes of size 1 behind the classes do not count; all axes before them are rows.

    Raises:
        ArgumentError: they are no scores of classes.

    >>> top(np.array([[0.1, 0.7, 0.2]]), 1, {1: "dog"})
    ([[Scored(number=1, name='dog', probability=0.7)]], False)
    """
    while scores.ndim > 2 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    values, applied = probabilities(scores)
    names = labels or {}
    rows = []
    for row in values.reshape(-1, values.shape[-1]):
        best = np.argsort(-row, kind="stable")[:count].tolist()
        rows.append([Scored(n, names.get(n, ""), float(row[n])) for n in best])
    return rows, applied


__all__ = ["Scored", "parse_labels", "probabilities", "read_labels", "top"]
