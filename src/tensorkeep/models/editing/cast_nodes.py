"""Nodes that cast, and tensors that are cast where they lie."""

from __future__ import annotations

from tensorkeep import casting, dtypes
from tensorkeep.dtypes import DType
from tensorkeep.graph import NUMBERS, Place, fill_tensor
from tensorkeep.graph.codec import Absent
from tensorkeep.graph.schema import ATTRIBUTE, ATTRIBUTE_TYPES, EXTERNAL, NODE
from tensorkeep.graph.walking import INITIALIZER
from tensorkeep.message import Message
from tensorkeep.models.editing.draft import Draft

FLOAT = NUMBERS[dtypes.FLOAT32]


def cast_node(name: str, source: str, target: str, to: int) -> Message:
    """Make a Cast."""
    node = Message(NODE, op_type="Cast", name=name, input=[source], output=[target])
    node.attribute = [Message(ATTRIBUTE, name="to", i=to, type=ATTRIBUTE_TYPES["INT"])]
    return node


def recast(draft: Draft, row: Message, to: DType) -> None:
    """Have a TensorProto hold its values in another type; they are read when it is written."""
    tensor = draft.graph.read(Place(row.name, row, INITIALIZER))
    if isinstance(tensor.source, Absent) and row.data_location != EXTERNAL:
        row.data_type = NUMBERS[to]  # its data was taken out
    else:
        fill_tensor(row, casting.cast(tensor, to))
