"""Telling Caffe2's messages apart by their first bytes; protobuf files have no magic number.

Each function looks at the head of a file and its size, and never raises. A message is told by which
fields stand in it, of which wire types, and by what has to be inside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tensorkeep.wire.caffe2.values import KINDS

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

_NET = {1: (2,), 2: (2,), 3: (2,), 4: (0,), 5: (2,), 6: (2,), 7: (2,), 8: (2,), 9: (2,)}
_OPERATOR = {number: (0,) if number in (9, 12) else (2,) for number in range(1, 13)}
_BLOB = {1: (2,), 2: (2,), 3: (2,), 4: (2,), 5: (2,), 6: (0,), 7: (0,)}
_TENSOR = {
    1: (0, 2),
    2: (0,),
    3: (2, 5),
    4: (2, 0),
    9: (2, 1),
    10: (2, 0),
    15: (0,),
    **dict.fromkeys((5, 6, 7, 8, 11, 13), (2,)),
}
_DEVICE = {1: (0,), 2: (0,), 3: (0,), 4: (2,), 5: (0,), 6: (2,)}
_ONNX = {1: (0,), 2: (2,), 3: (2,), 4: (2,), 5: (0,), 6: (2,), 7: (2,), 8: (2,), 14: (2,)}
_META_NET = dict.fromkeys(range(1, 11), (2,))

# Which field of a TensorProto holds the elements of which DataType.
_SMALL = (4, 5)
_HOLDER = {
    0: (6,),
    1: (3, 13),
    2: (4,),
    3: (5,),
    4: (6,),
    10: (10,),
    13: (9,),
    **dict.fromkeys((5, 6, 7, 8, 9, 12), _SMALL),
}
_HOLDERS = (3, 4, 5, 6, 9, 10, 13)
_CONTENTS = (3, 4, 5)  # of a BlobProto
_KINDS = frozenset(kind.encode() for kind in KINDS)
_TYPE = re.compile(rb"[\x20-\x7e]{1,200}")
_IDENTIFIER = re.compile(rb"[A-Za-z_][\w:.\-]{0,200}")
# What a NetDef written as text begins with; `op {` has to stand in the part that is looked at.
_TEXT_NET = re.compile(rb"\s*(#.*\s*)*(name|op|type|arg|device_option|external_input)\b\s*[:{<]")
_TEXT_LAYER = re.compile(rb"^layers?\s*:?\s*\{", re.MULTILINE)
_TEXT_OP = re.compile(rb"^\s*op\s*:?\s*[{<]", re.MULTILINE)


class _Field(NamedTuple):
    """A field of the top level; `data` is what of it stands in the head."""

    number: int
    wire: int
    data: bytes
    whole: bool


def is_net(head: bytes, size: int) -> bool:
    """A NetDef: its operators have types.

    >>> is_net(bytes.fromhex("12 08 12 01 77 22 03 46 43 31"), 10)
    True
    """
    found = _fields(head, size, _NET)
    operators = [field for field in found or () if field.number == 2]
    return bool(operators) and all(map(_is_operator, operators))


def is_net_text(head: bytes) -> bool:
    """A NetDef in protobuf's text form."""
    return bool(_TEXT_NET.match(head)) and bool(_TEXT_OP.search(head))


def is_blob(head: bytes, size: int) -> bool:
    """A BlobProto: at most one name, then a type that is text, and known or with a content."""
    found = _fields(head, size, _BLOB)
    if not found or _count(found, 1) > 1 or _count(found, 2) != 1:
        return False
    kind = next(field for field in found if field.number == 2)
    tensors = [field for field in found if field.number == 3]
    if not any(field.number in _CONTENTS for field in found) and kind.data not in _KINDS:
        return False
    return bool(_TYPE.fullmatch(kind.data)) and all(map(_is_tensor_field, tensors))


def is_tensor(head: bytes, size: int) -> bool:
    """A TensorProto: a known element type, its elements in the field for that."""
    found = _fields(head, size, _TENSOR)
    return found is not None and _is_tensor(found, len(head) >= size)


def is_tensors(head: bytes, size: int) -> bool:
    """A TensorProtos: nothing but TensorProtos, as far as can be seen."""
    found = _fields(head, size, {1: (2,)})
    return bool(found) and all(map(_is_tensor_field, found or ()))


def is_onnx(head: bytes, size: int) -> bool:
    """An ONNX model: its version first, then texts, a graph and operator sets."""
    found = _fields(head, size, _ONNX)
    if not found or found[0].number != 1 or _count(found, 1) != 1:
        return False
    return any(field.number in (7, 8) for field in found)


def is_meta_net(head: bytes, size: int) -> bool:
    """A MetaNetDef: named nets and lists of blobs."""
    found = _fields(head, size, _META_NET)
    maps = [field.data for field in found or () if field.number in (1, 2)]
    return bool(maps) and all(re.match(rb"\n.[A-Z_]+_TYPE", data, re.DOTALL) for data in maps)


def name_foreign(head: bytes, size: int) -> str:
    """Name what looks like a net, but is none of those that are read; empty for anything else.

    >>> name_foreign(b"ir_version: 8 graph {", 21)
    'an ONNX model as text'
    """
    if is_onnx(head, size):
        return "an ONNX model"
    if head.lstrip().startswith(b"ir_version:"):
        return "an ONNX model as text"
    if is_meta_net(head, size):
        return "a Caffe2 MetaNetDef"
    if _TEXT_LAYER.search(head):
        return "a Caffe 1 net"
    return ""


def _is_operator(field: _Field) -> bool:
    found = _fields(field.data, len(field.data) if field.whole else 1 << 62, _OPERATOR)
    types = [row for row in found or () if row.number == 4]
    if not types:  # thousands of inputs stand before it
        return bool(found) and not field.whole
    return len(types) == 1 and _IDENTIFIER.fullmatch(types[0].data) is not None


def _is_tensor_field(field: _Field) -> bool:
    found = _fields(field.data, len(field.data) if field.whole else 1 << 62, _TENSOR)
    return found is not None and _is_tensor(found, field.whole)


def _is_tensor(found: Iterable[_Field], whole: bool) -> bool:
    fields = list(found)
    codes = [field.data[0] for field in fields if field.number == 2]
    if not codes:  # many axes stand before it
        return bool(fields) and not whole
    if any(field.whole and not _is_device(field.data) for field in fields if field.number == 8):
        return False  # ONNX has a tensor's name there
    held = {field.number for field in fields if field.number in _HOLDERS}
    return codes[-1] in _HOLDER and held <= set(_HOLDER[codes[-1]])


def _is_device(data: bytes) -> bool:
    return _fields(data, len(data), _DEVICE) is not None


def _count(found: Iterable[_Field], number: int) -> int:
    return sum(field.number == number for field in found)


def _fields(head: bytes, size: int, known: Mapping[int, tuple[int, ...]]) -> list[_Field] | None:
    """List the fields that begin in the head; None where they are not such a message's."""
    found: list[_Field] = []
    at = 0
    while at < len(head):
        tag, start = _varint(head, at)
        number, wire = tag >> 3, tag & 7
        if start < 0:
            return found if len(head) < size and len(head) - at < 10 else None
        if wire not in known.get(number, ()):
            return None
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire == _VARINT:
            length = max(_varint(head, start)[1] - start, 1)
        elif wire == _LENGTH:
            length, start = _varint(head, start)
        if start < 0 or start + length > size:
            return found if start < 0 and len(head) < size else None
        data = head[start : start + length]
        if data or not length:
            found.append(_Field(number, wire, data, len(data) == length))
        at = start + length
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode a varint: its value and where it ends; (0, -1) where it is cut short or too long."""
    value = 0
    for place in range(min(10, len(data) - at)):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return 0, -1
