"""Models to test with: those that ONNX ships, and one in which every field is filled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper
from tests.onnx_cases import node_cases

import tensorkeep as tk
from tensorkeep.message import Message
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

_SHIPPED = Path(os.path.dirname(onnx.backend.test.__file__)) / "data"


@cache
def generated() -> dict[str, bytes]:
    """Give the models with which ONNX tests its operators, as bytes."""
    return {case.name: encode(case.model) for case in node_cases()}


@cache
def shipped() -> dict[str, bytes]:
    """Give the models that come as files with the `onnx` package."""
    files = [*_SHIPPED.glob("*/*/model.onnx"), *_SHIPPED.glob("light/*.onnx")]
    return {str(file.relative_to(_SHIPPED)): file.read_bytes() for file in sorted(files)}


def encode(model: Any) -> bytes:
    """Give a message of the `onnx` library as bytes that are always the same."""
    return bytes(model.SerializeToString(deterministic=True))


def at(data: bytes, key: str = "m.onnx") -> Location:
    """Give a model's bytes as a file in memory."""
    return Location(MemoryStore({key: data}), key)


def saved(state: Any, key: str = "m.onnx", **options: Any) -> bytes:
    """Save a state in memory, and give the bytes of its file."""
    store = MemoryStore()
    tk.save(state, Location(store, key), **options)
    return store.data[key]


def touch(message: Message) -> None:
    """Set every field of a message, and of all in it, to what it is, so that it is written anew."""
    for name in list(message):
        value = message[name]
        inner = value if isinstance(value, list) else [value]
        for item in inner:
            if isinstance(item, Message):
                touch(item)
        message[name] = value


def tensors_of(message: Any) -> Iterator[Any]:
    """Give every TensorProto in a message of the `onnx` library, wherever it is."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if not hasattr(value, "ListFields") else [value]:
                yield from tensors_of(item)


def full_model(depth: int = 9) -> Any:
    """Make a model in which every field of every message has a value of its own."""
    model = onnx.ModelProto()
    _fill(model, depth, iter(range(1, 10**9)))
    return model


def _fill(message: Any, depth: int, numbers: Iterator[int]) -> None:
    if isinstance(message, onnx.TensorProto):
        number = next(numbers)
        message.CopyFrom(numpy_helper.from_array(np.full((2, 2), number, np.float32), f"t{number}"))
        message.doc_string = "a tensor"
        message.metadata_props.add(key="k", value=str(number))
        return
    oneofs = set()
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None:
            if field.containing_oneof.name in oneofs:
                continue
            oneofs.add(field.containing_oneof.name)
        many = not hasattr(getattr(message, field.name), "ListFields") and _is_list(message, field)
        if field.message_type is not None:
            if depth:
                for _ in range(2 if many and depth > 7 else 1):
                    inner = getattr(message, field.name)
                    _fill(inner.add() if many else inner, depth - 1, numbers)
                    if not many:
                        inner.SetInParent()
            continue
        value = _value(field, next(numbers))
        if many:
            getattr(message, field.name).extend([value, value])
        else:
            setattr(message, field.name, value)


def _is_list(message: Any, field: Any) -> bool:
    return hasattr(getattr(message, field.name), "extend")


def _value(field: Any, number: int) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return number / 4
    if field.cpp_type != field.CPPTYPE_STRING:
        return number
    return f"v{number}" if field.type == field.TYPE_STRING else b"\xff%d" % number
