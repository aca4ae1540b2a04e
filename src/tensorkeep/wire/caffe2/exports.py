"""Predictor exports: the nets of a model, in the record of a database beside its parameters."""

from __future__ import annotations

from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.fills import read_fill
from tensorkeep.wire.caffe2.nets import Given, Nets
from tensorkeep.wire.caffe2.schema import META_NET, PREDICTOR_CONSTS

_NAMES = Message(PREDICTOR_CONSTS)  # whose defaults are the names
META_NET_DEF: str = _NAMES.META_NET_DEF
_PREDICT: str = _NAMES.PREDICT_NET_TYPE
_PREDICT_INIT: str = _NAMES.PREDICT_INIT_NET_TYPE
_GLOBAL_INIT: str = _NAMES.GLOBAL_INIT_NET_TYPE
_INPUTS: str = _NAMES.INPUTS_BLOB_TYPE
_OUTPUTS: str = _NAMES.OUTPUTS_BLOB_TYPE
_LOADING = ("Load", "CreateDB")


def read_export(data: bytes, where: str) -> Nets:
    """Read the MetaNetDef of a predictor's export.

    Raises:
        CorruptError: it is damaged.
        MissingError: it has no predict net.
        ArgumentError: it has several models.
    """
    meta = Message.parse(META_NET, data, where=where)
    nets = {row.key: row.value for row in reversed(list(meta.nets))}  # of repeated ones, the first
    blobs = {row.key: list(row.value) for row in reversed(list(meta.blobs))}
    suffix = _model(list(nets), where)
    inputs = blobs.get(_INPUTS + suffix, [])
    outputs = blobs.get(_OUTPUTS + suffix, [])
    init = nets.get(_PREDICT_INIT + suffix)
    first = [net for net in (nets.get(_GLOBAL_INIT + suffix), init) if net is not None]
    predict = _prepared(nets[_PREDICT + suffix], first, {*inputs, *outputs})
    given = {} if init is None else _filled(init, inputs)
    return Nets(predict, inputs, outputs, given, missing=where)


def _model(keys: list[str], where: str) -> str:
    """Give what stands behind the keys of the model: nothing, or its name."""
    if _PREDICT in keys:
        return ""
    named = [key.removeprefix(_PREDICT) for key in keys if key.startswith(f"{_PREDICT}_")]
    if len(named) == 1:
        return named[0]
    if not named:
        raise MissingError(f"there is no {_PREDICT} among its nets", where=where)
    raise ArgumentError(f"holds several models: {', '.join(sorted(named)[:5])}", where=where)


def _prepared(predict: Message, first: list[Message], given: set[str]) -> Message:
    """Put what init nets compute before the predict net: not what they load, or put into inputs."""
    operators = [
        operator.copy()
        for net in first
        for operator in net.op
        if operator.type not in _LOADING and not given.issuperset(operator.output)
    ]
    if not operators:
        return predict
    joined = predict.copy()
    joined["op"] = [*operators, *joined.op]
    return joined


def _filled(net: Message, inputs: list[str]) -> dict[str, Given]:
    """Tell type and shape of the inputs from the fills that prepare them."""
    found: dict[str, Given] = {}
    for operator in net.op:
        if operator.type == "ConstantFill" and not operator.input:
            value = read_fill(operator).value
            for name in operator.output:
                if name in inputs and isinstance(value, Tensor):
                    found[name] = Given(value.dtype.name, value.shape)
    return found
