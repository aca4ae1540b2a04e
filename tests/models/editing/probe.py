"""One model with everything in it that ONNX has, and what is to be there after any edit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

from tensorkeep.graph import KINDS

UNKNOWN = b"\xfa\x3f\x03abc"  # the bytes of field 1023, which no message of ONNX has
_KINDS = [number for number in TensorProto.DataType.values() if number]


def _say(message: Any, what: str) -> None:
    """Give a message a metadata entry and documentation of its own."""
    message.metadata_props.add(key=f"key of {what}", value=f"välue of {what}")
    if hasattr(message, "doc_string"):
        message.doc_string = f"döc of {what}"
    message.MergeFromString(UNKNOWN)


def info(name: str, shape: tuple[Any, ...] | None, kind: int = 1) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _strange_inputs() -> list[onnx.ValueInfoProto]:
    tensor = helper.make_tensor_type_proto(7, [2])
    kinds = {
        "seq": helper.make_sequence_type_proto(tensor),
        "opt": helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor)),
        "map": helper.make_map_type_proto(8, tensor),
        "sparse": helper.make_sparse_tensor_type_proto(7, [3]),
    }
    opaque = TypeProto()
    opaque.opaque_type.domain, opaque.opaque_type.name = "my", "thing"
    return [helper.make_value_info(n, kind) for n, kind in {**kinds, "opaque": opaque}.items()]


def _typed_tensors() -> list[TensorProto]:
    tensors = []
    for number in _KINDS:
        tensor = TensorProto(name=f"kind{number}", data_type=number, dims=[4])
        if number == TensorProto.STRING:
            tensor.string_data.extend([b"a", b"\xff\xfe", b"", "ü".encode()])
        else:
            tensor.raw_data = bytes(i % 2 for i in range(KINDS[number].nbytes(4)))
        tensors.append(tensor)
    lists = helper.make_tensor("lists", TensorProto.FLOAT16, [2], [1.0, 2.0])
    return [*tensors, lists]


def _sparse(name: str) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([1.0, 2.0], "f4"), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 2]), "i"), [4])


def _graph(name: str) -> onnx.GraphProto:
    node = helper.make_node("Identity", ["x"], [f"{name}.out"], name=f"{name}.node")
    _say(node, f"a node in {name}")
    graph = helper.make_graph([node], name, [], [info(f"{name}.out", (1, 4))], doc_string="dóc")
    _say(graph, name)
    return graph


def _attributes() -> list[AttributeProto]:
    tensor = numpy_helper.from_array(np.arange(3, dtype="f4"), "inner")
    kinds = helper.make_tensor_type_proto(1, ["N"])
    values: list[tuple[str, str, Any, int]] = [
        ("float", "f", 1.5, AttributeProto.FLOAT),
        ("int", "i", -3, AttributeProto.INT),
        ("string", "s", b"\xff\x00x", AttributeProto.STRING),
        ("tensor", "t", tensor, AttributeProto.TENSOR),
        ("graph", "g", _graph("in a node"), AttributeProto.GRAPH),
        ("floats", "floats", [1.0, 2.0], AttributeProto.FLOATS),
        ("ints", "ints", [1, 2], AttributeProto.INTS),
        ("strings", "strings", [b"\xfe", b""], AttributeProto.STRINGS),
        ("tensors", "tensors", [tensor, tensor], AttributeProto.TENSORS),
        ("graphs", "graphs", [_graph("first"), _graph("second")], AttributeProto.GRAPHS),
        ("sparse", "sparse_tensor", _sparse("s"), AttributeProto.SPARSE_TENSOR),
        ("sparses", "sparse_tensors", [_sparse("t")], AttributeProto.SPARSE_TENSORS),
        ("type", "tp", kinds, AttributeProto.TYPE_PROTO),
        ("types", "type_protos", [kinds, kinds], AttributeProto.TYPE_PROTOS),
    ]
    made = []
    for name, field, value, kind in values:
        attribute = AttributeProto(name=name, type=kind, doc_string=f"dóc of {name}")
        attribute.MergeFromString(UNKNOWN)
        if isinstance(value, list):
            getattr(attribute, field).extend(value)
        elif isinstance(value, float | int | bytes):
            setattr(attribute, field, value)
        else:
            getattr(attribute, field).CopyFrom(value)
        made.append(attribute)
    return made


def _function(overload: str, scale: float) -> onnx.FunctionProto:
    constant = helper.make_node("Constant", [], ["k"], value=_scale("k", scale))
    double = helper.make_node("Mul", ["v", "k"], ["out2"])
    clip = helper.make_node("LeakyRelu", ["out2"], ["out"])
    clip.attribute.add(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT)
    function = helper.make_function(
        "my",
        "Scale",
        ["v"],
        ["out"],
        [constant, double, clip],
        [helper.make_opsetid("", 12)],
        attributes=["beta"],
        attribute_protos=[helper.make_attribute("alpha", 2.0)],
        overload=overload,
    )
    function.value_info.append(info("k", (1,)))
    _say(function, f"function {overload}")
    return function


def _training(model: ModelProto) -> None:
    training = model.training_info.add()
    training.initialization.CopyFrom(
        helper.make_graph(
            [helper.make_node("Constant", [], ["w0"], value=_scale("w0"))],
            "initialization",
            [],
            [info("w0", ())],
        )
    )
    training.algorithm.CopyFrom(
        helper.make_graph(
            [helper.make_node("Add", ["w", "w"], ["w.next"])],
            "algorithm",
            [],
            [info("w.next", (4, 4))],
        )
    )
    training.initialization_binding.add(key="w", value="w0")
    training.update_binding.add(key="w", value="w.next")
    training.MergeFromString(UNKNOWN)


def probe(*, training: bool = True) -> bytes:
    """Make the model: x and c go in, y comes out, z is a second output that nothing else needs."""
    tensors = _typed_tensors()
    w = numpy_helper.from_array(np.eye(4, dtype="f4"), "w")
    _say(w, "tensor w")
    big = numpy_helper.from_array(np.linspace(-1, 1, 512, dtype="f4").reshape(4, 128), "big")
    strange = _strange_inputs()
    shown = helper.make_node("MatMul", ["x", "w"], ["m"], name="shown")
    _say(shown, "node shown")
    device = shown.device_configurations.add(configuration_id="two", pipeline_stage=1)
    sharding = device.sharding_spec.add(tensor_name="w", device=[0, 1])
    sharding.index_to_device_group_map.add(key=1, value=[0, 1])
    sharding.sharded_dim.add(axis=1).simple_sharding.add(dim_value=4, num_shards=2)
    all_kinds = helper.make_node(
        "Everything",
        ["r", *(t.name for t in tensors), "sparse.w", *(i.name for i in strange), "wide"],
        ["e"],
        name="all kinds",
        domain="my",
    )
    all_kinds.attribute.extend(_attributes())
    then, other = _graph("then"), _graph("else")
    nodes = [
        shown,
        helper.make_node("ReduceSum", ["m"], ["r"], name="sum", axes=[1], keepdims=1),
        helper.make_node("MatMul", ["x", "big"], ["wide"], name="widen"),
        all_kinds,
        helper.make_node("Scale", ["e"], ["f"], name="first call", domain="my", overload="v2"),
        helper.make_node("Scale", ["f"], ["g"], name="second call", domain="my"),
        helper.make_node("If", ["c"], ["i"], name="if", then_branch=then, else_branch=other),
        helper.make_node("Add", ["g", "i"], ["y"], name="end"),
        helper.make_node("Neg", ["x"], ["z"], name="aside"),
    ]
    nodes[1].doc_string, nodes[6].doc_string = "dóc of sum", "dóc of if"
    for node in (nodes[1], nodes[6]):
        node.metadata_props.add(key="a", value="b")
    x = info("x", (1, 4))
    x.type.denotation = "IMAGE"
    x.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    _say(x, "input x")
    e = info("e", (1, 4))
    e.type.denotation = "TENSOR"
    _say(e, "value e")
    values = [e, info("f", (1, 4)), info("g", (1, 4))]
    graph = helper.make_graph(
        nodes,
        "probe",
        [x, info("c", (), TensorProto.BOOL), *strange],
        [info("y", (1, 4)), info("z", (1, 4))],
        [w, big, *tensors, *map(_scale, ("scale", "zero"))],
        value_info=values,
        sparse_initializer=[_sparse("sparse.w")],
    )
    _say(graph, "graph")
    annotation = graph.quantization_annotation.add(tensor_name="m")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    annotation.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="zero")
    model = helper.make_model(graph, producer_name="prüf", producer_version="1", domain="d.e")
    model.ir_version, model.model_version = 13, 7
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 12), helper.make_opsetid("my", 3)])
    model.functions.extend([_function("v2", 2.0), _function("", 3.0)])
    two = model.configuration.add(name="two", num_devices=2)
    two.device.extend(["a", "b"])
    if training:
        _training(model)
    _say(model, "model")
    return bytes(model.SerializeToString())


def _scale(name: str, value: float = 0.5) -> TensorProto:
    return numpy_helper.from_array(np.array([value], "f4"), name)


def features(data: bytes) -> dict[str, Any]:
    """Give what no edit may lose, by what it is."""
    model = onnx.load_from_string(data)
    graph = model.graph
    nodes = {node.name: node for node in graph.node}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    values = {row.name: row for row in (*graph.input, *graph.value_info, *graph.output)}

    def raw(rows: Any) -> list[bytes]:
        return [row.SerializeToString() for row in rows]

    def said(message: Any) -> tuple[Any, ...]:
        kept = [row.key for row in message.metadata_props]
        doc = getattr(message, "doc_string", "")
        return kept, raw(message.metadata_props), doc, UNKNOWN in message.SerializeToString()

    found: dict[str, Any] = {
        "model": (said(model), model.producer_name, model.domain, model.model_version),
        "ir version": model.ir_version,
        "own operator sets": [raw([row]) for row in model.opset_import if row.domain],
        "functions": raw(model.functions),
        "training": raw(model.training_info),
        "devices": raw(model.configuration),
        "graph": (said(graph), graph.name),
        "annotations": raw(graph.quantization_annotation),
        "sparse": raw(graph.sparse_initializer),
        "node": said(nodes["shown"]),
        "changed node": (nodes["sum"].doc_string, raw(nodes["sum"].metadata_props)),
        "node with graphs": (nodes["if"].doc_string, raw(nodes["if"].metadata_props)),
        "sharding": raw(nodes["shown"].device_configurations),
        "overload": nodes["first call"].SerializeToString(),
        "tensor": said(tensors["w"]),
        "listed values": tensors["lists"].SerializeToString(),
        "input": (said(values["x"]), values["x"].type.denotation),
        "axis": values["x"].type.tensor_type.shape.dim[0].denotation,
        "value": (said(values["e"]), values["e"].type.denotation),
    }
    for number in _KINDS:
        found[f"element type {number}"] = tensors[f"kind{number}"].SerializeToString()
    for row in _strange_inputs():
        found[f"type {row.name}"] = values[row.name].SerializeToString()
    for row in nodes["all kinds"].attribute:
        found[f"attribute {row.name}"] = row.SerializeToString()
    for row in nodes["if"].attribute:
        found[row.name] = (said(row.g), said(row.g.node[0]), row.g.name)
    return found


FEATURES = sorted(features(probe()))
