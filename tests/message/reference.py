"""The same messages in Google's protobuf library, and values for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import strategies as st

from tensorkeep.message import Enum, Field, Message, Schema, schemas

TABLE = """
enum Phase: TRAIN 0, TEST 1, BOTH -7

Every
  1 i32 int32
  2 i64 int64
  3 u32 uint32
  4 u64 uint64
  5 s32 sint32
  6 s64 sint64
  7 flag bool
  8 phase Phase = TEST
  9 f32 fixed32
  10 f64 fixed64
  11 sf32 sfixed32
  12 sf64 sfixed64
  13 single float
  14 double double = 2.5
  15 text string = "none"
  16 data bytes
  17 inner Every
  18 one int32 oneof choice
  19 two string oneof choice
  20 three Every oneof choice

Many
  1 i32 repeated int32
  2 i64 repeated int64
  3 u32 repeated uint32
  4 u64 repeated uint64
  5 s32 repeated sint32
  6 s64 repeated sint64
  7 flag repeated bool
  8 phase repeated Phase
  9 f32 repeated fixed32
  10 f64 repeated fixed64
  11 sf32 repeated sfixed32
  12 sf64 repeated sfixed64
  13 single repeated float
  14 double repeated double
  15 text repeated string
  16 data repeated bytes
  17 inner repeated Many
  18 every Every
  19 packs Packs

Packs
  101 i32 packed int32
  102 i64 packed int64
  103 u32 packed uint32
  104 u64 packed uint64
  105 s32 packed sint32
  106 s64 packed sint64
  107 flag packed bool
  108 phase packed Phase
  109 f32 packed fixed32
  110 f64 packed fixed64
  111 sf32 packed sfixed32
  112 sf64 packed sfixed64
  2000 single packed float
  536870911 double packed double

Needs
  1 a required int32
  2 b required Every
  3 c repeated Needs
"""
TABLE3 = """
enum Kind: NONE 0, SOME 1

Plain proto3
  1 number int32
  2 text string
  3 data bytes
  4 flag bool
  5 kind Kind
  6 single float
  7 double double
  8 numbers repeated int64
  9 singles repeated float
  10 kinds repeated Kind
  11 texts repeated string
  12 inner Plain
  17 maybe optional int32
  14 one int32 oneof choice
  15 two string oneof choice
  16 zigzags repeated sint32
"""
SCHEMAS = schemas(TABLE)
SCHEMAS3 = schemas(TABLE3)

_TYPES = {"optional": 1, "required": 2, "repeated": 3, "packed": 3}


def message_classes(table: Mapping[str, Schema], *, proto3: bool = False) -> dict[str, Any]:
    """Make protobuf's classes of the messages of a table."""
    syntax = "proto3" if proto3 else "proto2"
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax=syntax)
    known: set[str] = set()
    for schema in table.values():
        made = file.message_type.add(name=schema.name)
        oneofs: list[str] = []
        for field in schema.fields:
            _add_field(made, field, oneofs, proto3)
            if field.enum is not None and field.enum.name not in known:
                known.add(field.enum.name)
                _add_enum(file, field.enum)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))
        for name in table
    }


def _add_enum(file: Any, enum: Enum) -> None:
    made = file.enum_type.add(name=enum.name)
    for name, number in enum.numbers.items():
        made.value.add(name=name, number=number)


def _add_field(made: Any, field: Field, oneofs: list[str], proto3: bool) -> None:
    row = made.field.add(name=field.name, number=field.number, label=_TYPES[field.label])
    if field.message is not None:
        row.type, row.type_name = 11, f".t.{field.message.name}"
    elif field.enum is not None:
        row.type, row.type_name = 14, f".t.{field.enum.name}"
    else:
        row.type = getattr(row, f"TYPE_{field.scalar.name.upper()}")
    if not proto3 and not field.repeated and field.message is None:
        default = field.default
        if field.enum is not None:
            row.default_value = field.enum.names[default]
        elif default != field.scalar.zero:
            row.default_value = str(default).lower() if isinstance(default, bool) else str(default)
    if field.label == "packed":
        row.options.packed = True
    optional = proto3 and not field.repeated and not field.implicit and field.message is None
    choice = field.oneof or (f"_{field.name}" if optional else "")
    if choice and choice not in oneofs:
        oneofs.append(choice)
        made.oneof_decl.add(name=choice)
    if choice:
        row.oneof_index = oneofs.index(choice)
        row.proto3_optional = optional and not field.oneof


def plans(schema: Schema, depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Draw values for some of the fields, those of messages as plans in turn."""
    fields = [row for row in schema.fields if depth > 0 or row.message is None]

    @st.composite
    def plan(draw: st.DrawFn) -> dict[str, Any]:
        picked = draw(st.lists(st.integers(0, len(fields) - 1), max_size=6, unique=True))
        taken: set[str] = set()
        values = {}
        for field in (fields[place] for place in picked):
            if field.oneof not in taken:
                taken |= {field.oneof} - {""}
                values[field.name] = draw(_values(field, depth))
        return values

    return plan() if fields else st.just({})


def _values(field: Field, depth: int) -> st.SearchStrategy[Any]:
    one = _scalars(field) if field.message is None else plans(field.message, depth - 1)
    return st.lists(one, min_size=1, max_size=5) if field.repeated else one


def _scalars(field: Field) -> st.SearchStrategy[Any]:
    kind = field.scalar.name
    if field.enum is not None:
        return st.sampled_from(sorted(field.enum.names))
    if kind == "bool":
        return st.booleans()
    if kind in ("float", "double"):
        return st.floats(width=32 if kind == "float" else 64)
    if kind == "string":
        return st.text(max_size=8)
    if kind == "bytes":
        return st.binary(max_size=8)
    return st.integers(field.scalar.low, field.scalar.high)


def build_ours(schema: Schema, plan: Mapping[str, Any]) -> Message:
    """Build our message of a plan."""
    message = Message(schema)
    for name, value in plan.items():
        inner = schema[name].message
        if inner is None:
            message[name] = value
        elif schema[name].repeated:
            message[name] = [build_ours(inner, item) for item in value]
        else:
            message[name] = build_ours(inner, value)
    return message


def build_theirs(cls: Any, plan: Mapping[str, Any]) -> Any:
    """Build protobuf's message of a plan."""
    return cls(**plan)


def read_plan(message: Message) -> dict[str, Any]:
    """Read all that a message holds back into a plan."""
    plan: dict[str, Any] = {}
    for name in message:
        value = message[name]
        field = message.schema[name]
        if isinstance(value, np.ndarray):
            value = value.tolist()
        elif field.message is not None and field.repeated:
            value = [read_plan(item) for item in value]
        elif field.message is not None:
            value = read_plan(value)
        plan[name] = value
    return plan


def same(first: Any, second: Any) -> bool:
    """Compare plans: NaNs are alike, and zeros differ by their sign."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(repr(first) == repr(second))
