"""Devices: where a blob is said to live. Nothing here touches a GPU.

Caffe2 keeps with each tensor the device it was saved from and loads it to that one or to the
operator's own. Both are kept here as a note beside the blob; its bytes stay in memory or in the
mapped file, so files of GPU runs load anywhere.
Facts: caffe2/proto/caffe2.proto (DeviceOption), caffe2/operators/load_save_op.cc and
load_save_op_gpu.cc (SetCurrentDevice).
"""

from __future__ import annotations

from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import DEVICE
from tensorkeep.wire.caffe2.values import CPU, Device


def device_option(device: Device) -> Message:
    """Describe a device as a DeviceOption.

    >>> option = device_option(Device(1, 2))
    >>> option.device_type, option.device_id
    (1, 2)
    """
    option = Message(DEVICE, device_type=device.type)
    if device.id:
        option.device_id = device.id
    return option


def device_of(definition: Message) -> Device:
    """Give the device of an OperatorDef or NetDef: the CPU where it says nothing.

    >>> from tensorkeep.caffe2.operator import create_operator
    >>> device_of(create_operator("Load", device=Device(1, 2)))
    Device(type=1, id=2)
    """
    option = definition.device_option
    return Device(option.device_type, option.device_id)


def set_current_device(proto: Message, device: Device = CPU) -> None:
    """Have the tensor of a BlobProto belong to this device instead of the one it was saved from.

    A BlobProto without a tensor is left as it is.

    >>> from tensorkeep.wire.caffe2.schema import BLOB
    >>> proto = Message(BLOB, name="w", type="Tensor")
    >>> proto.make("tensor").make("device_detail").device_type = 1
    >>> set_current_device(proto)
    >>> proto.tensor.device_detail.device_type
    0
    """
    if "tensor" in proto:
        tensor = proto.tensor
        tensor.device_detail = device_option(device)
        proto.tensor = tensor
