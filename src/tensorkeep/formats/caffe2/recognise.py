"""Telling Caffe2's messages apart by their first bytes; protobuf files have no magic number.

Each function looks at the head of a file and its size, and never raises. A message is told by which
fields stand in it, of which wire types, and by what has to be inside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tensorkeep.wire.caffe2.values import KINDS
from tensorkeep.wire.glimpse import Glimpse, glimpse

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
_MOST_AXES = 64 * 10  # bytes of varints
_HOLDERS = (3, 4, 5, 6, 9, 10, 13)
_CONTENTS = (3, 4, 5)  # of a BlobProto
_KINDS = frozenset(kind.encode() for kind in KINDS)
_TYPE = re.compile(rb"[\x20-\x7e]{1,200}")
_IDENTIFIER = re.compile(rb"[A-Za-z_][\w:.\-]{0,200}")
# What a NetDef written as text begins with; `op {` has to stand in the part that is looked at.
_TEXT_NET = re.compile(rb"\s*(#.*\s*)*(name|op|type|arg|device_option|external_input)\b\s*[:{<]")
_TEXT_OP = re.compile(rb"^\s*op\s*:?\s*[{<]", re.MULTILINE)


def is_net(head: bytes, size: int) -> bool:
    """A NetDef: its operators have types.

    >>> is_net(bytes.fromhex("12 08 12 01 77 22 03 46 43 31"), 10)
    True
    """
    found = glimpse(head, size, _NET)
    operators = [field for field in found or () if field.number == 2]
    return bool(operators) and all(map(_is_operator, operators))


def is_net_text(head: bytes) -> bool:
    """A NetDef in protobuf's text form."""
    return bool(_TEXT_NET.match(head)) and bool(_TEXT_OP.search(head))


def is_blob(head: bytes, size: int) -> bool:
    """A BlobProto: at most one name, then a type that is text, and known or with a content."""
    found = glimpse(head, size, _BLOB)
    if not found or _count(found, 1) > 1 or _count(found, 2) != 1:
        return False
    kind = next(field for field in found if field.number == 2)
    tensors = [field for field in found if field.number == 3]
    if not any(field.number in _CONTENTS for field in found) and kind.data not in _KINDS:
        return False
    return bool(_TYPE.fullmatch(kind.data)) and all(map(_is_tensor_field, tensors))


def is_tensor(head: bytes, size: int) -> bool:
    """A TensorProto: a known element type, its elements in the field for that."""
    found = glimpse(head, size, _TENSOR)
    return found is not None and _is_tensor(found, len(head) >= size)


def is_tensors(head: bytes, size: int) -> bool:
    """A TensorProtos: nothing but TensorProtos, as far as can be seen."""
    found = glimpse(head, size, {1: (2,)})
    return bool(found) and all(map(_is_tensor_field, found or ()))


def _is_operator(field: Glimpse) -> bool:
    found = field.fields(_OPERATOR)
    types = [row for row in found or () if row.number == 4]
    if not types:  # thousands of inputs stand before it
        return bool(found) and not field.whole
    return len(types) == 1 and _IDENTIFIER.fullmatch(types[0].data) is not None


def _is_tensor_field(field: Glimpse) -> bool:
    found = field.fields(_TENSOR)
    return found is not None and _is_tensor(found, field.whole)


def _is_tensor(found: Iterable[Glimpse], whole: bool) -> bool:
    fields = list(found)
    codes = [field.data[0] for field in fields if field.number == 2]
    if not codes:  # only axes can stand before it; more of them would make no tensor
        axes = [len(field.data) for field in fields if field.number == 1]
        return not whole and 0 < len(axes) == len(fields) and sum(axes) <= _MOST_AXES
    if any(field.whole and not _is_device(field.data) for field in fields if field.number == 8):
        return False  # ONNX has a tensor's name there
    held = {field.number for field in fields if field.number in _HOLDERS}
    return codes[-1] in _HOLDER and held <= set(_HOLDER[codes[-1]])


def _is_device(data: bytes) -> bool:
    return glimpse(data, len(data), _DEVICE) is not None


def _count(found: Iterable[Glimpse], number: int) -> int:
    return sum(field.number == number for field in found)
