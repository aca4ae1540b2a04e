"""The object graph: which object of a program each variable of a checkpoint belongs to."""

from __future__ import annotations

from tensorkeep.errors import FormatError
from tensorkeep.formats.tensorflow.protos import PROTOS
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor

KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MOST = 16 << 20  # bytes; a hundred for a variable are usual


def full_names(tensor: Tensor) -> tuple[dict[str, str], str]:
    """Give the names that variables had in the program, by key, and what prevents that.

    They are those that a variable shows as its `name`, such as `dense/kernel`.
    """
    if tensor.shape or tensor.nbytes > _MOST:
        return {}, f"{tensor.nbytes:,} bytes are too many to look into"
    names: dict[str, str] = {}
    try:
        text = bytes(tensor.read()[16:])  # of one string, behind two offsets
        graph = Message.parse(PROTOS["TrackableObjectGraph"], text, where=tensor.source.where)
        for node in graph.nodes:
            for attribute in node.attributes:
                if attribute.full_name and attribute.checkpoint_key:
                    names[attribute.checkpoint_key] = attribute.full_name
    except FormatError as error:
        return {}, error.problem
    return names, ""
