"""The steps of Load by the names they have in Caffe2: one blob's record at a time.

A blob's records are counted in a BlobState. `Assembly` holds the states of one run together with
the records themselves, and gives the blob once it is complete.
Facts: caffe2/operators/load_save_op_util.h (prepareBlob, ProcessBlob, updateBlobStates,
validateBlobStates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorkeep import dtypes
from tensorkeep.caffe2.operator import check_message
from tensorkeep.caffe2.workspace import Workspace
from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.message import Message
from tensorkeep.source import MemorySource
from tensorkeep.wire.caffe2.decode import Part, parse_part
from tensorkeep.wire.caffe2.schema import BLOB
from tensorkeep.wire.caffe2.states import Assembly, BlobState, update_state
from tensorkeep.wire.caffe2.values import UNINITIALIZED, Blob, Device

Proto = Part | Message | bytes


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known, or expected, of a tensor before it is read; None is anything.

    Args:
        shape: a tuple, or what makes one.
        dtype: one of this library's; a name or one of NumPy's becomes one.
        device: where it is said to live.

    >>> TensorInfo([2, 3], "float32").shape
    (2, 3)
    """

    shape: tuple[int, ...] | None = None
    dtype: DType | None = None
    device: Device | None = None

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(axis) for axis in self.shape))
        if self.dtype is not None:
            object.__setattr__(self, "dtype", dtypes.dtype(self.dtype))


def prepare_blob(workspace: Workspace, states: Mapping[str, BlobState], name: str) -> None:
    """Drop what a blob held before this run, unless the run has read some of it.

    A blob of a parent stays there without a value, since what is read next goes there.

    >>> ws = Workspace()
    >>> ws.feed("w", b"old")
    >>> prepare_blob(ws, {}, "w")
    >>> ws.has("w")
    False
    """
    if name not in states and not workspace.remove(name) and workspace.has(name):
        workspace.set(name, Blob(UNINITIALIZED, None))


def process_blob(workspace: Workspace, proto: Proto, assembly: Assembly, name: str) -> bool:
    """Take one record of a blob, and put the blob into the workspace once it is complete.

    Args:
        workspace: where the blob goes.
        proto: the record, a BlobProto.
        assembly: the states and records of this run.
        name: what the blob is called in the workspace.

    Returns:
        Whether the blob is complete with it.

    Raises:
        CorruptError: the record is damaged, or contradicts those before.
        UnsupportedError: no deserializer reads its type.

    >>> from tensorkeep.caffe2 import serialize_blob
    >>> ws = Workspace()
    >>> process_blob(ws, serialize_blob("s", b"text"), Assembly(), "s"), ws.fetch("s")
    (True, b'text')
    """
    prepare_blob(workspace, assembly.states, name)
    complete = assembly.add(name, part_of(name, proto))
    if complete:
        workspace.set(name, assembly.result(name))
    return complete


def update_blob_states(proto: Proto, states: dict[str, BlobState], name: str) -> bool:
    """Count one record of a blob as Caffe2 does; True when the blob is complete with it.

    Raises:
        CorruptError: the record is one too many, or of another kind than those before.

    >>> import numpy as np
    >>> from tensorkeep.caffe2 import serialize_blob
    >>> states = {}
    >>> update_blob_states(serialize_blob("w", np.zeros((2, 3))), states, "w")
    True
    >>> states["w"].current_size, states["w"].total_size, states["w"].shape
    (6, 6, (2, 3))
    """
    return update_state(states, name, part_of(name, proto))


def validate_blob_states(
    states: Mapping[str, BlobState], expected: Mapping[str, TensorInfo] | None = None
) -> None:
    """Refuse blobs that are not complete, or not what they are expected to be.

    Raises:
        CorruptError: part of a blob is missing, or its shape, dtype or device is another.
        MissingError: an expected blob was not read at all.

    >>> import numpy as np
    >>> from tensorkeep.caffe2 import serialize_blob
    >>> states = {}
    >>> _ = update_blob_states(serialize_blob("w", np.zeros((2, 3))), states, "w")
    >>> validate_blob_states(states, {"w": TensorInfo(shape=(2, 3))})
    """
    for name, state in states.items():
        if not state.complete:
            unit = "elements" if state.is_tensor else "pieces"
            raise CorruptError(
                f"the blob {name!r} has {state.current_size} of {state.total_size} {unit}",
                where=state.where,
                cure="The file is cut short or lost a record.",
            )
    for name, info in (expected or {}).items():
        if name not in states:
            raise MissingError(f"there is no blob {name!r}")
        _check_info(name, states[name], info)


def _check_info(name: str, state: BlobState, info: TensorInfo) -> None:
    found = TensorInfo(state.shape, state.dtype, state.device)
    for what in ("shape", "dtype", "device"):
        wanted, has = getattr(info, what), getattr(found, what)
        if wanted is not None and has != wanted:
            raise CorruptError(
                f"the blob {name!r} has the {what} {has}, where {wanted} is expected",
                where=state.where,
            )


def part_of(name: str, proto: Proto) -> Part:
    """Read the head of a record that is given as a message or as bytes.

    Raises:
        CorruptError: it is no BlobProto.
    """
    if isinstance(proto, Part):
        return proto
    if isinstance(proto, Message):
        proto = check_message(proto, BLOB).encode()
    return parse_part(name, MemorySource(proto, "BlobProto"))
