"""Scripts written for Caffe2: each was run with Caffe2 (PyTorch 1.10) too, and gave the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep.caffe2.compat import caffe2_pb2, core, workspace
from tensorkeep.caffe2.nets import read_net
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, UnsupportedError

DATA = Path(__file__).parent.parent / "data" / "caffe2"


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[Path]:
    workspace.SwitchWorkspace("default")
    workspace.ResetWorkspace(str(tmp_path / "root"))
    yield tmp_path / "root"
    workspace.ResetWorkspace(".")


def feed_all() -> None:
    random = np.random.RandomState(0)
    workspace.FeedBlob("w", random.randn(3, 4).astype(np.float32))
    workspace.FeedBlob("b", np.arange(4))
    workspace.FeedBlob("h", random.randn(5).astype(np.float16))
    workspace.FeedBlob("s", np.array(["x", "yy"]))
    workspace.FeedBlob("txt", "hello")


def test_a_script_that_saves_and_loads(root: Path) -> None:
    assert workspace.RootFolder() == str(root)
    feed_all()
    names = ["w", "b", "h", "s", "txt"]
    assert sorted(workspace.Blobs()) == sorted(names)
    save = core.CreateOperator(
        "Save", names, [], absolute_path=0, db="test.minidb", db_type="minidb"
    )
    assert workspace.RunOperatorOnce(save)
    assert hashlib.sha256((root / "test.minidb").read_bytes()).hexdigest() == (
        "6b88079fe3608ae607bd67ee96c710bb25c52788bfd031ceb67dfea1897b3317"
    )
    assert save.SerializeToString().hex() == (
        "0a01770a01620a01680a01730a037478741a002204536176652a110a0d6162736f6c7574655f70617468"
        "18002a110a026462220b746573742e6d696e6964622a110a0764625f7479706522066d696e696462"
    )
    before = workspace.FetchBlobs(names)
    workspace.ResetWorkspace()
    assert workspace.RootFolder() == str(root)
    assert not workspace.Blobs()
    load = core.CreateOperator(
        "Load", [], [], load_all=1, absolute_path=1, db=str(root / "test.minidb"), db_type="minidb"
    )
    assert workspace.RunOperatorsOnce([load])
    for value, name in zip(before, names, strict=True):
        found = workspace.FetchBlob(name)
        assert found == value if name == "txt" else np.array_equal(found, value)
        assert type(found) is type(value)
    assert workspace.FetchBlob("s").tolist() == [b"x", b"yy"]
    assert workspace.FetchBlob("txt") == b"hello"


def test_a_script_that_takes_blobs_apart() -> None:
    feed_all()
    serialized = workspace.SerializeBlob("w")
    workspace.DeserializeBlob("w2", serialized)
    assert np.array_equal(workspace.FetchBlob("w2"), workspace.FetchBlob("w"))
    proto = caffe2_pb2.BlobProto()
    assert proto.ParseFromString(serialized) == len(serialized)
    assert (proto.name, proto.type, list(proto.tensor.dims)) == ("w", "Tensor", [3, 4])
    assert proto.tensor.data_type == caffe2_pb2.TensorProto.FLOAT
    assert proto.tensor.float_data[:2] == [1.764052391052246, 0.40015721321105957]
    assert proto.HasField("tensor")
    assert not proto.HasField("content")
    assert proto.tensor.segment.end == 12
    proto.name = proto.tensor.name = "renamed"
    assert proto.SerializeToString().hex() == (
        "0a0772656e616d6564120654656e736f721a4d0803080410011a3078cce13f68e1cc3e938e7a3fcb6a0f40"
        "240cef3fe22e7abfff38733f62fd1abe6864d3bdf839d23e2880133ea225ba3f3a0772656e616d65644202"
        "08005a040800100c7800"
    )
    with pytest.raises(CorruptError):
        workspace.DeserializeBlob("w3", serialized[:-5])


def test_a_script_with_serialization_options(root: Path) -> None:
    feed_all()
    options = caffe2_pb2.SerializationOptions(
        options=[
            caffe2_pb2.BlobSerializationOptions(blob_name_regex="w.*", chunk_size=5),
            caffe2_pb2.BlobSerializationOptions(
                float_format=caffe2_pb2.BlobSerializationOptions.FLOAT_DEFAULT
            ),
        ]
    )
    given: dict[str, Any] = {"db": "c.minidb", "db_type": "minidb", "options": options}
    workspace.RunOperatorOnce(
        core.CreateOperator("Save", ["w", "b"], [], blob_name_overrides=["ww", "bb"], **given)
    )
    database = workspace.C.create_db("minidb", str(root / "c.minidb"), workspace.C.Mode.read)
    cursor, found = database.new_cursor(), []
    while cursor.valid():
        found.append((cursor.key(), len(cursor.value())))
        cursor.next()
    assert sorted(found) == [(b"bb#%0", 38), (b"ww#%0", 58), (b"ww#%1", 58), (b"ww#%2", 46)]
    assert not cursor.supports_seek()
    cursor.seek_to_first()
    assert cursor.valid()


def test_a_script_that_makes_a_data_set(root: Path) -> None:
    path = root / "n.minidb"
    database = workspace.C.create_db("minidb", str(path), workspace.C.Mode.write)
    transaction = database.new_transaction()
    for index in range(3):
        example = caffe2_pb2.TensorProtos()
        image = example.protos.add()
        image.dims.extend([2])
        image.data_type = 1
        image.float_data.extend([index, index + 0.1])
        label = example.protos.add()
        label.data_type = caffe2_pb2.TensorProto.INT32
        label.int32_data.append(index)
        transaction.put(f"{index:03d}", example.SerializeToString())
    transaction.commit()
    database.close()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (
        "857401bb82a2dda6d9e8f64df48a988df8883c3b88a4351c24cd110f67e8463f"
    )
    exists = core.CreateOperator("DBExists", [], ["e"], db_name="n.minidb", db_type="minidb")
    assert workspace.RunOperatorOnce(exists)
    assert workspace.FetchBlob("e").item() is True


def test_a_transaction_that_is_forgotten_is_committed(root: Path) -> None:
    database = workspace.C.create_db("minidb", str(root / "n.minidb"), workspace.C.Mode.new)
    transaction = database.new_transaction()
    transaction.put(b"k", "text")
    transaction.put("k", b"again")
    del transaction
    cursor = workspace.C.create_db(
        "minidb", str(root / "n.minidb"), workspace.C.Mode.read
    ).new_cursor()
    assert (cursor.key(), cursor.value()) == (b"k", b"text")
    cursor.next()
    assert (cursor.key(), cursor.value()) == (b"k", b"again")
    assert "lmdb" in workspace.C.registered_dbs()


def make_net() -> core.Net:
    core.Net._used.clear()
    net = core.Net("init")
    weights = net.GivenTensorFill([], "w", shape=[2, 2], values=[1.0, 2.0, 3.0, 4.0])
    net.ConstantFill([], ["b"], shape=[2], value=0.5)
    net.XavierFill([], "x", shape=[3, 2], random_seed=42)
    with (
        core.NameScope("scope"),
        core.DeviceScope(core.DeviceOption(caffe2_pb2.CPU, random_seed=7)),
    ):
        net.UniformFill([], "u", shape=[3], min=-1.0, max=1.0)
        unnamed = net.GaussianFill([], shape=[2])
    assert (str(weights), str(unnamed)) == ("w", "scope/init/GaussianFill")
    net.Copy(weights, "w_copy")
    net.Copy(["ext"], "c2")
    net.AddExternalOutput(weights)
    return net


NET_TEXT = """\
name: "init"
op {
  output: "w"
  name: ""
  type: "GivenTensorFill"
  arg {
    name: "shape"
    ints: 2
    ints: 2
  }
  arg {
    name: "values"
    floats: 1.0
    floats: 2.0
    floats: 3.0
    floats: 4.0
  }
}
"""


def test_a_script_that_builds_runs_and_keeps_an_init_net(tmp_path: Path) -> None:
    net = make_net()
    assert str(net.Proto()).startswith(NET_TEXT)
    assert [str(name) for name in net.external_inputs] == ["ext"]
    assert net.external_outputs == ["w"]
    workspace.FeedBlob("ext", np.array([9], np.float32))
    assert workspace.RunNetOnce(net)
    assert workspace.FetchBlob("w_copy").tolist() == [[1, 2], [3, 4]]
    assert workspace.FetchBlob("x").tobytes().hex()[:24] == FIRST_OF_X
    assert workspace.FetchBlob("scope/u").tobytes().hex() == U
    path = tmp_path / "init_net.pb"
    path.write_bytes(net.Proto().SerializeToString())
    proto = caffe2_pb2.NetDef()
    proto.ParseFromString(path.read_bytes())
    assert proto == net.Proto()
    assert [op.type for op in proto.op][:3] == ["GivenTensorFill", "ConstantFill", "XavierFill"]
    assert read_net(path) == net.Proto().message


# What Caffe2 drew with these seeds.
FIRST_OF_X = "9ab56f3f3f1e823fb4e792be"
U = "f00a8f3d78361abf6408a33e"


def test_a_script_that_edits_a_net() -> None:
    proto = caffe2_pb2.NetDef()
    proto.CopyFrom(make_net().Proto())
    for op in proto.op:
        for argument in op.arg:
            if op.type == "ConstantFill" and argument.name == "value":
                argument.f = 2.5
        if op.output[0] == "w":
            op.output[0] = "weights"
        op.device_option.device_type = caffe2_pb2.CPU
    del proto.external_output[:]
    proto.external_output.extend(["weights"])
    kept = [op for op in proto.op if op.output[0] not in ("w_copy", "scope/u")]
    del proto.op[:]
    proto.op.extend(kept)
    del proto.op[-1]
    del proto.external_input[:]
    proto.name = "edited"
    again = caffe2_pb2.NetDef.FromString(proto.SerializeToString())
    assert [op.output[0] for op in again.op] == ["weights", "b", "x", "scope/init/GaussianFill"]
    assert all(op.HasField("device_option") for op in again.op)
    assert again.op[3].device_option.random_seed == 7
    assert not again.external_input
    assert workspace.CreateNet(proto)
    assert workspace.RunNet("edited")
    assert workspace.RunNet(proto.name, 2)
    assert workspace.FetchBlob("b").tolist() == [2.5, 2.5]
    with pytest.raises(ArgumentError, match="already"):
        workspace.CreateNet(proto)
    assert workspace.CreateNet(proto, overwrite=True)
    with pytest.raises(MissingError, match="edited"):
        workspace.RunNet("unknown")
    with pytest.raises(ArgumentError, match="needs a name"):
        workspace.CreateNet(caffe2_pb2.NetDef())
    workspace.ResetWorkspace()
    with pytest.raises(MissingError):
        workspace.RunNet("edited")


def test_nets_are_named_and_appended() -> None:
    first = make_net()
    second = core.Net("init")
    assert (second.Name(), core.Net(first.Proto()).Name()) == ("init_1", "init_2")
    second.AddExternalInput("a", "ext")
    second.AppendNet(first).AddArgument("model_id", 3)
    assert len(second.Proto().op) == len(first.Proto().op)
    assert list(second.Proto().external_input) == ["a", "ext"]
    assert list(second.Proto().external_output) == ["w"]
    assert second.Proto().arg[0].i == 3
    assert [str(name) for name in second.ConstantFill([], 2, shape=[1])] == [
        "init_1/ConstantFill:0",
        "init_1/ConstantFill:1",
    ]
    assert second.NextName() == "init_1_blob_0"
    with pytest.raises(ArgumentError, match="already"):
        second.AddExternalInput("ext")
    with pytest.raises(ArgumentError, match="nothing in the net writes"):
        second.AddExternalOutput(core.BlobReference("nope"))
    with pytest.raises(AttributeError, match="Conv is no operator that runs here"):
        second.Conv(["x"], ["y"])
    reference = first.ConstantFill([], "more", shape=[1])
    assert str(reference.Copy([], "even_more")) == "even_more"
    assert list(first.Proto().op[-1].input) == ["more"]


def test_operators_hold_every_kind_of_argument() -> None:
    net = caffe2_pb2.NetDef(name="inner")
    operator = core.CreateOperator(
        "Load",
        ["x"],
        "y",
        control_input=["w"],
        engine="E",
        debug_info="d",
        arg=[caffe2_pb2.Argument(name="z")],
        random_seed=4,
        text="q",
        raw=b"\xff",
        flags=[True, 1],
        floats=[1.0, 2.0],
        texts=["a", b"b"],
        array=np.arange(3),
        one=np.float32(3),
        net=net,
        nothing=None,
        empty=[],
        message=caffe2_pb2.TensorShape(dims=[1]),
    )
    held = {argument.name: argument for argument in operator.arg}
    names = "z, text, raw, flags, floats, texts, array, one, net, empty, message"
    assert ", ".join(held) == names
    assert (held["text"].s, held["raw"].s) == (b"q", b"\xff")
    assert (held["flags"].ints, held["floats"].floats) == ([1, 1], [1.0, 2.0])
    assert (held["texts"].strings, held["array"].ints) == ([b"a", b"b"], [0, 1, 2])
    assert (held["one"].f, held["net"].n.name) == (3.0, "inner")
    assert held["message"].s == b"\x08\x01"
    assert (operator.device_option.random_seed, operator.engine) == (4, "E")
    assert (list(operator.control_input), operator.debug_info) == (["w"], "d")


def test_scopes_name_blobs() -> None:
    with core.NameScope("a"):
        with core.NameScope("b"):
            assert core.ScopedName("n") == "a/b/n"
            assert str(core.ScopedBlobReference("m")) == "a/b/m"
            assert workspace.GetNameScope() == "a/b/"
            operator = core.CreateOperator("Load", [core.BlobReference("x")], "y")
        with core.NameScope("c", reset=True):
            assert core.ScopedName(b"n") == "c/n"
    assert (list(operator.input), list(operator.output)) == (["x"], ["a/b/y"])
    reference = core.BlobReference("x/y")
    assert (reference.GetNameScope(), reference.GetUnscopedName()) == ("x/", "y")
    assert (str(reference + "_s"), str("p_" + reference)) == ("x/y_s", "p_x/y")
    assert {reference: 1}[core.BlobReference(b"x/y")] == 1
    assert repr(reference) == 'BlobReference("x/y")'
    with pytest.raises(AttributeError):
        reference.Copy("z")


def test_device_scopes_nest() -> None:
    outer = core.DeviceOption(caffe2_pb2.CUDA, 1, node_name="n", extra_info=["z"])
    inner = core.DeviceOption(caffe2_pb2.CPU, extra_info=["a"])
    with core.DeviceScope(outer), core.DeviceScope(inner):
        operator = core.CreateOperator("Load", [], [])
    assert operator.device_option.node_name == "n"
    assert operator.device_option.extra_info == ["a", "z"]
    assert operator.device_option.device_type == caffe2_pb2.CPU
    assert core.CurrentDeviceScope() is None
    with core.DeviceScope(outer):
        workspace.FeedBlob("w", np.ones(1, np.float32))
    serialized = caffe2_pb2.BlobProto.FromString(workspace.SerializeBlob("w"))
    assert serialized.tensor.device_detail.device_type == caffe2_pb2.CUDA
    assert serialized.tensor.device_detail.device_id == 1


def test_workspaces_are_switched() -> None:
    workspace.FeedBlob("here", "1")
    workspace.SwitchWorkspace("other", True)
    assert workspace.CurrentWorkspace() == "other"
    assert {"default", "other"} <= set(workspace.Workspaces())
    assert not workspace.HasBlob("here")
    workspace.SwitchWorkspace("default")
    assert workspace.blobs["here"] == b"1"
    workspace.blobs["more"] = np.ones(1)
    assert "more" in workspace.blobs
    assert list(workspace.blobs) == workspace.Blobs() == ["here", "more"]
    assert len(workspace.blobs) == 2


def test_tensor_protos_and_quantized_tensors_are_fed_and_fetched() -> None:
    tensor = caffe2_pb2.TensorProto(dims=[2], data_type=caffe2_pb2.TensorProto.INT64)
    tensor.int64_data.extend([3, -4])
    workspace.FeedBlob("t", tensor)
    assert workspace.FetchBlob("t").tolist() == [3, -4]
    workspace.RunOperatorMultiple(
        core.CreateOperator(
            "Int8GivenTensorFill", [], "q", shape=[2], values=b"\1\xff", Y_scale=0.5, Y_zero_point=1
        ),
        2,
    )
    data, scale, zero_point = workspace.FetchInt8Blob("q")
    assert (data.tolist(), scale, zero_point) == ([1, 255], 0.5, 1)
    assert workspace.FetchInt8BlobRealVal("q").tolist() == [0, 127]
    with pytest.raises(TypeError, match="FetchInt8Blob"):
        workspace.FetchBlob("q")
    with pytest.raises(TypeError, match="FetchBlob"):
        workspace.FetchInt8Blob("t")


def test_a_blob_without_a_value_is_there_and_cannot_be_saved() -> None:
    assert workspace.CreateBlob("u")
    assert workspace.HasBlob("u")
    with pytest.raises(UnsupportedError):
        workspace.SerializeBlob("u")
    workspace.FeedBlob("u", np.ones(1))
    assert workspace.CreateBlob("u")
    assert workspace.FetchBlob("u").tolist() == [1]
    workspace.ResetBlob("u")
    with pytest.raises(UnsupportedError):
        workspace.SerializeBlob("u")


def test_a_golden_init_net_runs_as_a_script_runs_it() -> None:
    proto = caffe2_pb2.NetDef()
    with (DATA / "net_squeezenet_mini" / "init_net.pb").open("rb") as file:
        proto.ParseFromString(file.read())
    workspace.RunNetOnce(proto)
    assert workspace.FetchBlob("conv1_w").shape == (8, 3, 3, 3)
    assert workspace.RunNetOnce(proto.SerializeToString())
    predict = caffe2_pb2.NetDef.FromString(
        (DATA / "net_squeezenet_mini" / "predict_net.pb").read_bytes()
    )
    with pytest.raises(UnsupportedError, match="Conv"):
        workspace.RunNetOnce(predict)


def test_a_changed_argument_is_what_runs() -> None:
    operator = core.CreateOperator("GivenTensorFill", [], "w", shape=[2], values=[1.0, 2.0])
    workspace.RunOperatorOnce(operator)
    operator.arg[1].floats[1] = 5.0
    workspace.RunOperatorOnce(operator)
    assert workspace.FetchBlob("w").tolist() == [1, 5]


def test_names_of_many_outputs_are_made_up() -> None:
    net = core.Net("made_up")
    names = [str(net.ConstantFill([], shape=[1])) for _ in range(2_000)]
    assert names[:2] == ["made_up/ConstantFill", "made_up/ConstantFill_2"]
    assert names[-1] == "made_up/ConstantFill_2000"
    assert len(set(names)) == 2_000
    net.Proto().op.add(type="ConstantFill").output.append("made_up/ConstantFill_2001")
    assert str(net.ConstantFill([], shape=[1])) == "made_up/ConstantFill_2002"
    del net.Proto().op[1:]
    assert not net.BlobIsDefined(names[1])
    assert net.BlobIsDefined(names[0])


def test_a_net_tells_its_blobs_and_is_cloned() -> None:
    net = core.Net("told")
    net.AddExternalInput("given")
    net.Copy("given", "copied")
    net.AddExternalOutput("copied")
    assert net.UsedBlobNames() == {"given", "copied"}
    assert net.GetBlobRef("copied").Net() is net
    with pytest.raises(KeyError, match="unknown"):
        net.GetBlobRef("unknown")
    clone = net.Clone("cloned", blob_remap={"given": "other"})
    assert clone.Name() == "cloned"
    assert clone.UsedBlobNames() == {"other", "copied"}
    assert clone.external_inputs == ["other"]
    assert net.UsedBlobNames() == {"given", "copied"}


def test_the_seeds_of_a_net() -> None:
    net = core.Net("seeded")
    for name in ("a", "b"):
        net.UniformFill([], name, shape=[3])
    net.set_rand_seed(7)
    assert [op.device_option.random_seed for op in net.Proto().op] == [7, 8]
    assert workspace.RunNetOnce(net)
    net.set_rand_seed(7, sequence_seed=False)
    assert [op.device_option.random_seed for op in net.Proto().op] == [7, 7]


def test_small_names_of_the_workspace() -> None:
    workspace.GlobalInit(["caffe2"])
    assert "Load" in workspace.RegisteredOperators()
    assert workspace.NumCudaDevices() == workspace.NumGpuDevices() == 0
    net = core.Net("small")
    assert workspace.StringifyProto(net) == net.Proto().SerializeToString()
    assert workspace.StringifyProto(net.Proto()) == net.Proto().SerializeToString()
    assert workspace.StringifyBlobName(core.BlobReference("w")) == "w"


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (workspace, "Predictor", "load_predictor"),
        (workspace, "RunPlan", "RunNet"),
        (workspace, "InferShapesAndTypes", "FetchBlob"),
        (core, "Plan", "RunNet"),
        (core, "ExecutionStep", "RunNet"),
        (core, "Unknown", "'Unknown'"),
    ],
)
def test_names_that_are_not_there_say_what_to_use(module: Any, name: str, instead: str) -> None:
    assert not hasattr(module, name)
    with pytest.raises(AttributeError, match=instead):
        getattr(module, name)
