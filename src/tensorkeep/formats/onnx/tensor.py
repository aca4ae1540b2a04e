"""One tensor in a file, a TensorProto, as ONNX's tests and model zoo keep inputs and outputs."""

from __future__ import annotations

from tensorkeep.errors import TensorKeepError
from tensorkeep.formats.onnx.files import opener_of
from tensorkeep.graph import read_tensor
from tensorkeep.graph.schema import TENSOR
from tensorkeep.message import Message
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.models import is_onnx_tensor

_UINT64 = 13  # Caffe2's number for float64, the bytes of which it keeps in the same field


def accepts(location: Location) -> bool:
    """A TensorProto of ONNX: a type, a shape, and a name or as many bytes as these take."""
    if not location.key or not is_onnx_tensor(location.head, location.source.size):
        return False
    try:
        message = Message.parse(TENSOR, location.source)
        if message.data_type == _UINT64 and not message.name:
            return False
        read_tensor(message, location.where)
    except TensorKeepError:
        return False
    return True


def decode(location: Location) -> State:
    """Give the tensor under its own name, or that of the file."""
    message = Message.parse(TENSOR, location.source, where=location.where)
    opener, close_files = opener_of(location)
    name = str(message.name) or location.name.partition(".")[0]

    def close() -> None:
        close_files()
        location.close()

    try:
        tensor = read_tensor(message, location.where, opener)
        return State({name: tensor}, format="onnx-tensor", where=location.where, close=close)
    except BaseException:
        close()
        raise
