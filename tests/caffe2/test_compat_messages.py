"""Messages with protobuf's methods: what scripts did with them gave the same in Caffe2."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from tensorkeep.caffe2.compat import caffe2_pb2, core, workspace
from tensorkeep.errors import CorruptError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import NET


def test_messages_are_copied_merged_and_cleared() -> None:
    given = core.CreateOperator("Load", ["x"], "y", db="q", random_seed=4)
    made = caffe2_pb2.OperatorDef()
    made.CopyFrom(given)
    made.arg[0].name = "changed"
    assert (given.arg[0].name, made == given) == ("db", False)
    made.ClearField("device_option")
    assert (made.HasField("device_option"), made.device_option.random_seed) == (False, 0)
    made.device_option.SetInParent()
    assert made.HasField("device_option")
    made.Clear()
    assert (made.SerializeToString(), made.ByteSize(), len(made.arg)) == (b"", 0, 0)
    made.MergeFrom(given)
    assert made == given
    made.MergeFromString(given.SerializeToString())
    assert list(made.input) == ["x", "x"]
    assert copy.deepcopy(given) == copy.copy(given) == given
    assert pickle.loads(pickle.dumps(given)) == given
    names = [field.name for field, _ in given.ListFields()]
    assert names == ["input", "output", "name", "type", "arg", "device_option"]
    assert given.IsInitialized()
    assert not caffe2_pb2.QTensorProto().IsInitialized()


def test_a_message_inside_is_there_once_something_in_it_is_set() -> None:
    operator = caffe2_pb2.OperatorDef()
    assert operator.device_option.device_id == 0
    assert operator.SerializeToString() == b""
    operator.device_option.extra_info.append("x")
    assert operator.HasField("device_option")
    assert operator.SerializeToString() == b"\x32\x03\x32\x01x"
    option = operator.device_option
    option.device_type = 0
    again = caffe2_pb2.OperatorDef.FromString(operator.SerializeToString())
    assert again.device_option.HasField("device_type")
    with pytest.raises(AttributeError):
        del operator.device_option


def test_what_repeats_takes_copies() -> None:
    operator = caffe2_pb2.OperatorDef(type="A")
    net = caffe2_pb2.NetDef()
    for name in ("a", "b"):
        operator.type = name
        net.op.append(operator)
        net.op.extend([operator])
    net.op.insert(0, operator)
    net.op.add(type="last").input.append("i")
    assert [op.type for op in net.op] == ["b", "a", "a", "b", "b", "last"]
    assert net.op[-1].input == ["i"]
    net.op.extend(net.op)
    assert len(net.op) == 12
    net.op.remove(net.op[0])
    assert len(caffe2_pb2.NetDef.FromString(net.SerializeToString()).op) == 11


def test_text_may_be_given_as_bytes() -> None:
    operator = caffe2_pb2.OperatorDef(type=b"Load")
    operator.input.extend([b"x", "y"])
    assert operator.type == "Load"
    assert caffe2_pb2.OperatorDef.FromString(operator.SerializeToString()).input == ["x", "y"]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda op: setattr(op, "input", ["a"]), AttributeError),
        (lambda op: setattr(op, "device_option", caffe2_pb2.DeviceOption()), AttributeError),
        (lambda op: setattr(op, "unknown", 1), AttributeError),
        (lambda op: op.unknown, AttributeError),
        (lambda op: caffe2_pb2.OperatorDef(unknown=1), ValueError),
        (lambda op: op.HasField("input"), ValueError),
        (lambda op: op.HasField("unknown"), ValueError),
        (lambda op: op.ClearField("unknown"), ValueError),
        (lambda op: op.ParseFromString(b"\xff\xff"), CorruptError),
        (lambda op: op.ParseFromString("text"), TypeError),
        (lambda op: setattr(op, "type", 3), TypeError),
        (lambda op: setattr(op, "type", None), TypeError),
        (lambda op: op.arg.append(3), TypeError),
        (lambda op: op.CopyFrom(caffe2_pb2.NetDef()), TypeError),
        (lambda op: caffe2_pb2.OperatorDef.of(Message(NET)), TypeError),
        (lambda op: core.CreateOperator("Load", 3, []), TypeError),
        (lambda op: core.CreateOperator("Load", [3], []), TypeError),
        (lambda op: core.CreateOperator("Load", [], [], bad=object()), ValueError),
        (lambda op: caffe2_pb2.TensorProto.DataType.Name(99), ValueError),
        (lambda op: caffe2_pb2.TensorProto.DataType.Value("NONE"), ValueError),
        (lambda op: caffe2_pb2.TensorProto.DataType.Name(op), TypeError),
        (lambda op: caffe2_pb2.TensorProto(data_type="NONE"), ValueError),
        (lambda op: caffe2_pb2.TensorProto(data_type=99), ValueError),
        (lambda op: setattr(caffe2_pb2.TensorProto(), "data_type", -1), ValueError),
        (lambda op: setattr(caffe2_pb2.TensorProto(), "data_type", "FLOAT"), TypeError),
        (lambda op: caffe2_pb2.OperatorDef(unknown=None), ValueError),
        (lambda op: workspace.StringifyProto(3), ValueError),
        (lambda op: workspace.StringifyBlobName(op), ValueError),
        (lambda op: workspace.RunOperatorOnce(caffe2_pb2.NetDef()), TypeError),
        (lambda op: workspace.RunOperatorOnce(caffe2_pb2.NetDef()), RuntimeError),
        (lambda op: workspace.RunNetOnce(b"\xff"), RuntimeError),
        (lambda op: workspace.RunNet("unknown"), RuntimeError),
        (lambda op: workspace.FetchBlob("x"), RuntimeError),
        (lambda op: workspace.SwitchWorkspace("unknown"), RuntimeError),
        (lambda op: workspace.DeserializeBlob("x", b"\xff"), RuntimeError),
        (lambda op: workspace.RunNetOnce("init"), TypeError),
        (lambda op: workspace.FeedBlob("x", [1, 2]), TypeError),
        (lambda op: workspace.FetchBlob("x"), KeyError),
        (lambda op: workspace.SwitchWorkspace("unknown"), KeyError),
    ],
)
def test_mistakes_raise_what_protobuf_or_our_errors_raise(
    wrong: Callable[[Any], object], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        wrong(caffe2_pb2.OperatorDef())


def test_enums_are_those_of_caffe2() -> None:
    assert caffe2_pb2.TensorProto.DataType.Name(10) == "INT64"
    assert caffe2_pb2.TensorProto.DataType.Value("INT64") == caffe2_pb2.TensorProto.INT64
    for name, number in caffe2_pb2.TensorProto.DataType.items():
        assert getattr(caffe2_pb2.TensorProto, name) == getattr(core.DataType, name) == number
    for name, number in caffe2_pb2.DeviceTypeProto.items():
        assert getattr(caffe2_pb2, name) == number
        assert getattr(caffe2_pb2, name.removeprefix("PROTO_")) == number
    for name, number in caffe2_pb2.BlobSerializationOptions.FloatFormat.items():
        assert getattr(caffe2_pb2.BlobSerializationOptions, name) == number
    for name, number in caffe2_pb2.TensorProto.SerializationFormat.items():
        assert getattr(caffe2_pb2.TensorProto, name) == number


def test_enums_list_what_they_have() -> None:
    assert caffe2_pb2.TensorProto.DataType.keys()[:2] == ["UNDEFINED", "FLOAT"]
    assert caffe2_pb2.TensorProto.DataType.values()[:2] == [0, 1]
    assert caffe2_pb2.TensorProto.DataType.items()[:2] == [("UNDEFINED", 0), ("FLOAT", 1)]


def test_messages_are_made_of_dicts() -> None:
    operator = caffe2_pb2.OperatorDef(
        type="x", name=None, arg=[{"name": "a", "i": 1}], device_option={"device_type": 1}
    )
    assert not operator.HasField("name")
    assert (operator.arg[0].i, operator.device_option.device_type) == (1, 1)
    assert caffe2_pb2.TensorProto(data_type="INT32").data_type == 2
    assert caffe2_pb2.OperatorDef(arg=None, device_option=None).ByteSize() == 0


def test_what_is_required_of_the_messages_inside() -> None:
    argument = caffe2_pb2.Argument(qtensors=[{}])
    assert not argument.IsInitialized()
    tensor = caffe2_pb2.TensorProto(segment={"begin": 0})
    assert not tensor.IsInitialized()
    tensor.segment.end = 3
    assert tensor.IsInitialized()


def test_errors_can_be_sent_to_other_processes() -> None:
    with pytest.raises(CorruptError) as found:
        workspace.DeserializeBlob("x", b"\xff")
    again = pickle.loads(pickle.dumps(found.value))
    assert type(again) is type(found.value)
    assert str(again) == str(found.value)
    assert issubclass(type(again), RuntimeError)
