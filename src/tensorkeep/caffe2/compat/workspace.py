"""caffe2.python.workspace, as far as scripts that load and save use it.

There is one current workspace, which is called "default" at first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.caffe2.compat import caffe2_pb2, core, database
from tensorkeep.caffe2.compat.core import (
    BlobReference,
    CurrentDeviceScope,
    CurrentNameScope,
    Net,
    missing,
)
from tensorkeep.caffe2.compat.failing import failing
from tensorkeep.caffe2.compat.proto import Proto
from tensorkeep.caffe2.files import deserialize_blob, serialize_blob
from tensorkeep.caffe2.nets import run_net
from tensorkeep.caffe2.operator import OPERATORS
from tensorkeep.caffe2.workspace import Workspace
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.message import Message, Schema
from tensorkeep.wire.caffe2 import values
from tensorkeep.wire.caffe2.schema import BLOB, NET, OPERATOR
from tensorkeep.wire.caffe2.values import Blob, Device

C = database
GlobalInit = core.GlobalInit
has_gpu_support = has_cuda_support = has_hip_support = False


class _Named(NamedTuple):
    """A workspace and the nets that were created in it."""

    workspace: Workspace
    nets: dict[str, Message]


class Int8Tensor(NamedTuple):
    """A quantized tensor: (data - zero_point) * scale."""

    data: npt.NDArray[Any]
    scale: float
    zero_point: int


_workspaces: dict[str, _Named] = {"default": _Named(Workspace(), {})}
_current = ["default"]  # a list, so that functions can change it


def CurrentWorkspace() -> str:
    """Give the name of the current workspace."""
    return _current[0]


def Workspaces() -> list[str]:
    """List the workspaces."""
    return list(_workspaces)


@failing
def SwitchWorkspace(name: str, create_if_missing: bool = False) -> None:
    """Have another workspace be the current one."""
    if name not in _workspaces:
        if not create_if_missing:
            raise MissingError(f"there is no workspace {name!r}", cure="Pass create_if_missing.")
        _workspaces[name] = _Named(Workspace(), {})
    _current[:] = [name]


def ResetWorkspace(root_folder: str | None = None) -> bool:
    """Remove all blobs and nets; set the root folder, which is made, where one is given."""
    if root_folder is not None:
        os.makedirs(root_folder, exist_ok=True)
    _here().workspace.reset(root_folder)
    _here().nets.clear()
    return True


def RootFolder() -> str:
    """Give the folder that the paths of databases start from."""
    return _here().workspace.root_folder


def Blobs() -> list[str]:
    """List the blobs."""
    return _here().workspace.blobs()


def HasBlob(name: str | BlobReference) -> bool:
    """Tell whether there is a blob."""
    return _here().workspace.has(str(name))


def CreateBlob(name: str | BlobReference) -> bool:
    """Make a blob without a value, unless there is one of that name."""
    if not HasBlob(name):
        _here().workspace.set(str(name), Blob(values.UNINITIALIZED, None))
    return True


@failing
def ResetBlob(name: str | BlobReference) -> None:
    """Forget the value of a blob."""
    _here().workspace.blob(str(name))
    _here().workspace.set(str(name), Blob(values.UNINITIALIZED, None))


@failing
def FeedBlob(
    name: str | BlobReference,
    arr: Any,
    device_option: caffe2_pb2.DeviceOption | None = None,
) -> bool:
    """Put an array, a TensorProto, text or bytes under a name."""
    option = device_option or CurrentDeviceScope()
    device = None if option is None else Device(option.device_type, option.device_id)
    if isinstance(arr, caffe2_pb2.TensorProto):
        proto = Message(BLOB, name=str(name), type=values.TENSOR, tensor=arr.message)
        arr = deserialize_blob(proto.encode())
    _here().workspace.feed(str(name), arr, device)
    return True


@failing
def FetchBlob(name: str | BlobReference) -> Any:
    """Give the value of a blob: an array, or bytes for a std::string."""
    value = _here().workspace.fetch(str(name))
    if isinstance(value, values.Int8Tensor):
        raise ArgumentError(f"{str(name)!r} is quantized", cure="Use FetchInt8Blob.")
    return value


def FetchBlobs(names: Iterable[str | BlobReference]) -> list[Any]:
    """Give the values of blobs."""
    return [FetchBlob(name) for name in names]


@failing
def FetchInt8Blob(name: str | BlobReference) -> Int8Tensor:
    """Give a quantized tensor."""
    value = _here().workspace.fetch(str(name))
    if not isinstance(value, values.Int8Tensor):
        raise ArgumentError(f"{str(name)!r} is not quantized", cure="Use FetchBlob.")
    return Int8Tensor(np.array(value.data.numpy()), value.scale, value.zero_point)


def FetchInt8BlobRealVal(name: str | BlobReference) -> npt.NDArray[np.float32]:
    """Give the real values that a quantized tensor stands for."""
    data, scale, zero_point = FetchInt8Blob(name)
    return (data.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)


@failing
def SerializeBlob(name: str | BlobReference) -> bytes:
    """Give a blob as the bytes of one BlobProto."""
    return serialize_blob(str(name), _here().workspace.blob(str(name)))


@failing
def DeserializeBlob(name: str | BlobReference, serialized: bytes) -> None:
    """Put the blob that the bytes of a BlobProto say under a name."""
    _here().workspace.set(str(name), deserialize_blob(serialized))


@failing
def RunOperatorOnce(operator: Any) -> bool:
    """Run an operator."""
    return _here().workspace.run(_message(operator, OPERATOR))


def RunOperatorMultiple(operator: Any, num_runs: int) -> bool:
    """Run an operator several times."""
    return all(RunOperatorOnce(operator) for _ in range(num_runs))


def RunOperatorsOnce(operators: Iterable[Any]) -> bool:
    """Run operators in order."""
    return all(RunOperatorOnce(operator) for operator in operators)


@failing
def RunNetOnce(net: Any) -> bool:
    """Run a net."""
    return run_net(_here().workspace, _message(net, NET))


@failing
def CreateNet(net: Any, overwrite: bool = False, input_blobs: Iterable[str] = ()) -> bool:
    """Keep a net, to be run by its name."""
    message = _message(net, NET)
    if not message.name:
        raise ArgumentError("a net needs a name to be created", cure="Set net.name.")
    if message.name in _here().nets and not overwrite:
        raise ArgumentError(f"there is a net {message.name!r} already", cure="Pass overwrite.")
    for name in input_blobs or ():
        CreateBlob(name)
    _here().nets[message.name] = message.copy()
    return True


@failing
def RunNet(name: Any, num_iter: int = 1, allow_fail: bool = False) -> bool:
    """Run a net that was created."""
    called = name.Name() if isinstance(name, Net) else str(name)
    if called not in _here().nets:
        known = ", ".join(_here().nets) or "none"
        raise MissingError(f"there is no net {called!r}", cure=f"There are: {known}.")
    net = _here().nets[called]
    return all(run_net(_here().workspace, net) for _ in range(num_iter))


def RegisteredOperators() -> list[str]:
    """List the operators that run here."""
    return list(OPERATORS)


def NumCudaDevices() -> int:
    """Give the number of GPUs that operators run on: none."""
    return 0


NumGpuDevices = NumCudaDevices


def StringifyProto(obj: Any) -> Any:
    """Give the bytes of a message, or of what has one; text and bytes are left as they are."""
    if isinstance(obj, str | bytes):
        return obj
    if isinstance(obj, Net):
        obj = obj.Proto()
    if not isinstance(obj, Proto):
        raise ArgumentError(f"a message is needed, not {type(obj).__name__}")
    return obj.SerializeToString()


def StringifyBlobName(name: str | BlobReference) -> str:
    """Give the name of a blob as text."""
    if not isinstance(name, str | BlobReference):
        raise ArgumentError(f"the name of a blob is needed, not {type(name).__name__}")
    return str(name)


def GetNameScope() -> str:
    """Give what is put before names."""
    return CurrentNameScope()


class _BlobDict:
    """The blobs of the current workspace, as `workspace.blobs[name]`."""

    def __getitem__(self, name: str | BlobReference) -> Any:
        return FetchBlob(name)

    def __setitem__(self, name: str | BlobReference, value: Any) -> None:
        FeedBlob(name, value)

    def __contains__(self, name: object) -> bool:
        return HasBlob(str(name))

    def __iter__(self) -> Iterator[str]:
        return iter(Blobs())

    def __len__(self) -> int:
        return len(Blobs())


blobs = _BlobDict()


_INSTEAD = {
    "Predictor": "Use tensorkeep.run, or tensorkeep.caffe2.load_predictor for its nets.",
    "RunPlan": "Run its nets in order with RunNet.",
    "RunPlanInBackground": "Run its nets in order with RunNet.",
    "InferShapesAndTypes": "Run the net, and ask FetchBlob(name).shape; for Load there is "
    "tensorkeep.caffe2.load_tensor_inference.",
    "InferShapesAndTypesFromBytes": "Run the net, and ask FetchBlob(name).shape.",
}


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, _INSTEAD)


def _here() -> _Named:
    return _workspaces[_current[0]]


def _message(given: Any, schema: Schema) -> Message:
    """Give an operator or net, however it is held, as a Message."""
    if isinstance(given, Net):
        given = given.Proto()
    if isinstance(given, Proto):
        given = given.message
    if isinstance(given, bytes):
        given = Message.parse(schema, given, where=schema.name)
    if not isinstance(given, Message) or given.schema is not schema:
        raise ArgumentError(f"a {schema.name} is needed, not {type(given).__name__}")
    return given
