"""Predictor exports: a model whole in one database, its nets and its parameters.

The first record, `!!META_NET_DEF`, is a std::string of a MetaNetDef: the predict net, a net that
makes its inputs and outputs, a net that loads the parameters, and which blobs are which. The
parameters follow as Save writes them.

Facts: caffe2/python/predictor/predictor_exporter.py and predictor_py_utils.py of PyTorch 1.10,
read and run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorkeep.caffe2.operator import create_operator
from tensorkeep.caffe2.operators.save import check_options
from tensorkeep.caffe2.paths import recognise
from tensorkeep.caffe2.workspace import Workspace
from tensorkeep.errors import ArgumentError, CorruptError, MissingError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import META_NET, NET, PREDICTOR_CONSTS

_NAMES = Message(PREDICTOR_CONSTS)  # whose defaults are the names
META_NET_DEF: str = _NAMES.META_NET_DEF
PREDICTOR_DBREADER: str = _NAMES.PREDICTOR_DBREADER

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PredictorExport:
    """A model as it was exported.

    Args:
        predict_net: the net that computes the outputs.
        predict_init_net: the net that makes the inputs and outputs, each of zeros.
        global_init_net: the net that loads the parameters from the blob `!!PREDICTOR_DBREADER`.
        parameters: the arrays by name, in the order of the export.
        inputs: the names of the inputs.
        outputs: the names of the outputs.
        shapes: the shapes of inputs and outputs, as far as the predict-init net makes them.
        meta: the whole MetaNetDef, for what else it holds.
    """

    predict_net: Message
    predict_init_net: Message
    global_init_net: Message
    parameters: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    shapes: dict[str, Shape]
    meta: Message


def load_predictor(
    path: str | os.PathLike[str],
    db_type: str | None = None,
    *,
    name: str = "",
    strict: bool = True,
) -> PredictorExport:
    """Read a predictor export; nothing of it is run.

    Args:
        path: the database.
        db_type: its type; by default it is recognised.
        name: which of several models in it, as they were named when they were exported.
        strict: refuse damage that Caffe2 did not notice.

    Raises:
        MissingError: there is no such database, no model of that name in it, or a parameter is
            missing.
        UnknownFormatError: no type of database recognises it.
        CorruptError: it is damaged.

    >>> import tempfile, numpy as np
    >>> from tensorkeep.caffe2 import read_net
    >>> net = read_net(b'op { type: "FC" input: "x" input: "w" input: "b" output: "y" }')
    >>> path = f"{tempfile.mkdtemp()}/model.minidb"
    >>> weights = {"w": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    >>> save_predictor(path, net, weights, ["x"], ["y"], {"x": (1, 3), "y": (1, 2)})
    >>> export = load_predictor(path)
    >>> list(export.parameters), export.inputs, export.shapes
    (['w', 'b'], ['x'], {'x': (1, 3), 'y': (1, 2)})
    """
    where, workspace = os.fspath(path), Workspace(strict=strict)
    db_type = db_type or recognise(where)
    database: dict[str, Any] = {"db": where, "db_type": db_type, "absolute_path": 1}
    workspace.run(create_operator("Load", [], [META_NET_DEF], allow_incomplete=1, **database))
    if not workspace.has(META_NET_DEF):
        raise MissingError(
            f"is no predictor export: it has no record {META_NET_DEF!r}",
            where=where,
            cure="Read it with tensorkeep.caffe2.load.",
        )
    content = workspace.fetch(META_NET_DEF)
    if not isinstance(content, bytes):
        raise CorruptError(f"{META_NET_DEF!r} is a tensor, not a std::string", where=where)
    meta = Message.parse(META_NET, content, where=f"{where}: {META_NET_DEF}")
    meta.check_required()
    blobs = {part: _blobs(meta, _key(part, name)) for part in ("PARAMETERS", "INPUTS", "OUTPUTS")}
    parameters = list(dict.fromkeys(blobs["PARAMETERS"]))
    if parameters:
        workspace.run(create_operator("Load", [], parameters, **database))
    predict_init_net = _net(meta, _key("PREDICT_INIT_NET", name), where)
    return PredictorExport(
        predict_net=_net(meta, _key("PREDICT_NET", name), where),
        predict_init_net=predict_init_net,
        global_init_net=_net(meta, _key("GLOBAL_INIT_NET", name), where),
        parameters={parameter: workspace.fetch(parameter) for parameter in parameters},
        inputs=blobs["INPUTS"],
        outputs=blobs["OUTPUTS"],
        shapes=_shapes(predict_init_net, {*blobs["INPUTS"], *blobs["OUTPUTS"]}),
        meta=meta,
    )


def save_predictor(
    path: str | os.PathLike[str],
    predict_net: Message,
    parameters: Mapping[str, Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    *,
    db_type: str = "minidb",
    name: str = "",
    extra_init_net: Message | None = None,
    global_init_net: Message | None = None,
    net_type: str | None = None,
    num_workers: int | None = None,
    durable: bool = True,
    **arguments: Any,
) -> None:
    """Export a model into one database, as Caffe2's predictor_exporter.save_to_db does.

    Args:
        path: the database, which is replaced where it is one file.
        predict_net: the NetDef that computes the outputs.
        parameters: the weights by name, the statistics of SpatialBN included.
        inputs: the names of the inputs.
        outputs: the names of the outputs.
        shapes: the shape of every input and output.
        db_type: the type of the database.
        name: to tell several models apart; it is put behind the keys of the nets.
        extra_init_net: what to run with the predict-init net, in every thread.
        global_init_net: what to run once, behind the loading of the parameters.
        net_type: how the predict net is to be run, such as "dag".
        num_workers: by how many threads.
        durable: have it on the disk when this returns.
        arguments: of Save, such as chunk_size.

    Raises:
        ArgumentError: an input that repeats or is a parameter, or one without a shape.
        StoreError: the database cannot be written; what was there before is unchanged.

    >>> import tempfile, numpy as np
    >>> from tensorkeep.caffe2 import read_net
    >>> net = read_net(b'op { type: "Relu" input: "x" output: "y" }')
    >>> path = f"{tempfile.mkdtemp()}/model.minidb"
    >>> save_predictor(path, net, {}, ["x"], ["y"], {"x": (1, 3), "y": (1, 3)})
    >>> load_predictor(path).outputs
    ['y']
    """
    check_options(arguments)
    _check_names(list(parameters), inputs, outputs, shapes)
    meta = Message(META_NET)
    for part, names in (("PARAMETERS", parameters), ("INPUTS", inputs), ("OUTPUTS", outputs)):
        _add_blobs(meta, _key(part, name), list(names))
    predict = _predict_net(predict_net, [*inputs, *parameters], outputs)
    if net_type is not None:
        predict.type = net_type
    if num_workers is not None:
        predict.num_workers = num_workers
    init = _predict_init_net([*inputs, *outputs], shapes)
    load = _global_init_net(list(parameters), db_type)
    for net, more in ((init, extra_init_net), (load, global_init_net)):
        _append(net, more)
        _set_model_id(net, predict_net)
    for part, net in (("PREDICT_INIT", init), ("GLOBAL_INIT", load), ("PREDICT", predict)):
        meta.add("nets", key=_key(f"{part}_NET", name), value=net)

    workspace = Workspace(durable=durable)
    workspace.feed(META_NET_DEF, meta.encode())
    for parameter, value in parameters.items():
        workspace.feed(parameter, value, copy=False)
    database: dict[str, Any] = {
        "db": os.fspath(path),
        "db_type": db_type,
        "absolute_path": 1,
        **arguments,
    }
    workspace.run(create_operator("Save", [META_NET_DEF, *parameters], **database))


def _check_names(
    parameters: list[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
) -> None:
    if len(set(inputs)) < len(inputs):
        name = next(name for name in inputs if list(inputs).count(name) > 1)
        raise ArgumentError(f"the input {name!r} is named twice", where="predictor export")
    for name in parameters:
        if name in inputs or name in outputs:
            kind = "an input" if name in inputs else "an output"
            raise ArgumentError(
                f"{name!r} is both a parameter and {kind}", where="predictor export"
            )
    for name in (*inputs, *outputs):
        if name not in shapes:
            raise ArgumentError(
                f"{name!r} has no shape", where="predictor export", cure="Name it in `shapes`."
            )


def _predict_net(given: Message, inputs: list[str], outputs: Sequence[str]) -> Message:
    net = Message(NET, name=given.name or "predict", op=given.op, arg=given.arg)
    net.partition_info = given.partition_info
    net.external_input, net.external_output = inputs, outputs
    return net


def _predict_init_net(names: list[str], shapes: Mapping[str, Sequence[int]]) -> Message:
    net = Message(NET, name="predict-init", external_input=names)
    for name in names:
        shape = [int(axis) for axis in shapes[name]]
        _add_operator(net, "ConstantFill", [], [name], shape=shape, value=0.0)
    return net


def _global_init_net(parameters: list[str], db_type: str) -> Message:
    net = Message(NET, name="global-init")
    if db_type != "manifold_db":  # which opens by itself
        _add_operator(net, "Load", [PREDICTOR_DBREADER], parameters)
        net.external_input = [PREDICTOR_DBREADER] * 2  # as Caffe2's exporter does
        net.external_output = parameters
    return net


def _add_operator(
    net: Message, type: str, inputs: list[str], outputs: list[str], **arguments: Any
) -> None:
    operator = create_operator(type, inputs, outputs, **arguments)
    operator.name = ""  # which Caffe2's core.CreateOperator always sets
    net.op.append(operator)


def _append(net: Message, more: Message | None) -> None:
    """Add the operators of a net behind those of another, as core.Net.AppendNet does."""
    if more is None:
        return
    written = {name for definition in net.op for name in definition.output}
    known = written | {*net.external_input}
    net.external_input += [name for name in more.external_input if name not in known]
    net.external_output += [
        name for name in more.external_output if name not in net.external_output
    ]
    net.op += more.op


def _set_model_id(net: Message, predict_net: Message) -> None:
    given = next((argument for argument in predict_net.arg if argument.name == "model_id"), None)
    if given is None:
        return
    for argument in net.arg:
        if argument.name == "model_id":
            argument.i = given.i
            return
    net.add("arg", name="model_id", i=given.i)


def _add_blobs(meta: Message, key: str, names: list[str]) -> None:
    meta.add("blobs", key=key, value=names)


def _key(part: str, name: str) -> str:
    kind = f"{part}_TYPE" if part.endswith("_NET") else f"{part}_BLOB_TYPE"
    return f"{kind}_{name}" if name else kind


def _first(entries: Iterable[Message], key: str) -> Message | None:
    """Find a key in a list of entries: of several, Caffe2 takes the first."""
    return next((entry for entry in entries if entry.key == key), None)


def _blobs(meta: Message, key: str) -> list[str]:
    found = _first(meta.blobs, key)
    return list(found.value) if found is not None else []


def _net(meta: Message, key: str, where: str) -> Message:
    found = _first(meta.nets, key)
    if found is None:
        known = ", ".join(entry.key for entry in meta.nets) or "none"
        raise MissingError(f"has no net {key}", where=where, cure=f"It has: {known}.")
    net: Message = found.value
    return net


def _shapes(net: Message, names: set[str]) -> dict[str, Shape]:
    """Give the shapes that a predict-init net makes blobs with."""
    shapes: dict[str, Shape] = {}
    for definition in net.op:
        argument = next((a for a in definition.arg if a.name == "shape"), None)
        if definition.type == "ConstantFill" and not definition.input and argument is not None:
            made = tuple(argument.ints.tolist())
            shapes.update({name: made for name in definition.output if name in names})
    return shapes
