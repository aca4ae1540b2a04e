"""Where two models say something else, whatever their encodings.

A field that has its default says the same as one that is absent, and a tensor the same in raw bytes
as in a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tensorkeep.errors import TensorKeepError
from tensorkeep.graph.codec import LISTS, read_tensor
from tensorkeep.graph.schema import TENSOR
from tensorkeep.message import Message
from tensorkeep.message.schema import Field

_VALUES = frozenset((*LISTS, "raw_data", "dims", "data_type", "data_location"))


def differing(one: Message, other: Message, path: str = "") -> Iterator[str]:
    """Give the path of each field in which two messages differ, such as `graph.node.doc_string`.

    >>> from tensorkeep.graph.schema import MODEL
    >>> list(differing(Message(MODEL, domain="a"), Message(MODEL, ir_version=0)))
    ['domain']
    """
    tensor = one.schema is TENSOR
    if tensor and not _equal_tensors(one, other):
        yield f"{path}: its values"
    for field in one.schema.fields:
        if not (tensor and field.name in _VALUES):
            yield from _differing_fields(one, other, field, f"{path}.{field.name}".lstrip("."))


def _differing_fields(one: Message, other: Message, field: Field, path: str) -> Iterator[str]:
    a, b = one[field.name], other[field.name]
    if field.repeated and len(a) != len(b):
        yield path
    elif field.message is None:
        if not _equal(a, b, field):
            yield path
    elif field.repeated:
        for first, second in zip(a, b, strict=True):
            yield from differing(first, second, path)
    elif (field.name in one) != (field.name in other):
        yield path
    elif field.name in one:
        yield from differing(a, b, path)


def _equal(a: Any, b: Any, field: Field) -> bool:
    if field.numeric:
        return np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return bool(a == b)


def _equal_tensors(one: Message, other: Message) -> bool:
    try:
        a, b = read_tensor(one, ""), read_tensor(other, "")
        return a.dtype is b.dtype and a.shape == b.shape and a.read() == b.read()
    except TensorKeepError:
        return one == other
