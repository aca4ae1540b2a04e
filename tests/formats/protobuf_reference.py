"""Google's classes for the messages of our schema, made of its text, and States made with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import tensorkeep as tk
import tensorkeep.formats.protobuf as package
from tensorkeep.formats.protobuf import fields
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

PROTO = Path(package.__file__).with_name("tensorkeep.proto")

_BLOCK = re.compile(r"(message|enum) (\w+) \{(.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r"^\s*(repeated )?(\w+) (\w+) = (\d+);$", re.MULTILINE)
_VALUE = re.compile(r"^\s*(\w+) = (\d+);$", re.MULTILINE)


def classes(*, packed: bool = True, extra: str = "") -> dict[str, Any]:
    """Give the messages and enums by name.

    Args:
        packed: how Google's writer writes repeated numbers.
        extra: text of more fields, put into every message.
    """
    text = re.sub(r"//.*", "", PROTO.read_text(encoding="utf-8"))
    assert re.search(r'^syntax = "proto3";$', text, re.MULTILINE)
    file = descriptor_pb2.FileDescriptorProto(
        name="tensorkeep.proto", package="tensorkeep", syntax="proto3"
    )
    blocks = _BLOCK.findall(text)
    kinds = {name: kind for kind, name, _ in blocks}
    for kind, name, body in blocks:
        if kind == "enum":
            enum = file.enum_type.add(name=name)
            for value, number in _VALUE.findall(body):
                enum.value.add(name=value, number=int(number))
            continue
        message = file.message_type.add(name=name)
        for repeated, type_name, field_name, number in _FIELD.findall(body + extra):
            _add(message, kinds, bool(repeated), type_name, field_name, int(number), packed)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: pool.FindEnumTypeByName(f"tensorkeep.{name}")
        if kind == "enum"
        else message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorkeep.{name}"))
        for kind, name, _ in blocks
    }


def _add(
    message: Any,
    kinds: dict[str, str],
    repeated: bool,
    type_name: str,
    name: str,
    number: int,
    packed: bool,
) -> None:
    field = message.field.add(name=name, number=number, label=3 if repeated else 1)
    if type_name in kinds:
        field.type = 11 if kinds[type_name] == "message" else 14
        field.type_name = f".tensorkeep.{type_name}"
    else:
        field.type = getattr(field, f"TYPE_{type_name.upper()}")
    if repeated and not packed and field.type == field.TYPE_INT64:
        field.options.packed = False


CLASSES = classes()
STATE: Any = CLASSES["State"]
MAGIC = int.from_bytes(fields.MAGIC[1:], "little")


def at(data: bytes, key: str = "a.tensors.pb") -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.tensors.pb"), **options)
    return store.data["a.tensors.pb"]


def joined(state: Any) -> list[bytes]:
    """Join the chunks of each tensor, as a reader with Google's library does."""
    out = [bytearray(row.nbytes) for row in state.header.tensors]
    for chunk in state.chunks:
        out[chunk.tensor][chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
    return [bytes(data) for data in out]


def google(tensors: dict[str, Any], **header: Any) -> Any:
    """Build the State that a writer with Google's library would, with no more than it has to."""
    state = STATE(magic=MAGIC)
    state.header.version = 1
    for place, (name, array) in enumerate(tensors.items()):
        tensor = tk.Tensor.of(array)
        code = fields.CODES[tensor.dtype]
        state.header.tensors.add(name=name, dtype=code, shape=tensor.shape, nbytes=tensor.nbytes)
        if tensor.nbytes:
            state.chunks.add(tensor=place, data=bytes(tensor.read()))
    for name, value in header.items():
        setattr(state.header, name, value)
    return state
