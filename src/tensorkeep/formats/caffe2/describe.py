"""Nets in a few words: what goes in, what comes out, and how many operators of which type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tensorkeep.errors import TensorKeepError
from tensorkeep.message import Message
from tensorkeep.state import Json
from tensorkeep.wire.caffe2.schema import META_NET

_PREDICTOR_BLOBS = {
    "inputs": "INPUTS_BLOB_TYPE",
    "outputs": "OUTPUTS_BLOB_TYPE",
    "parameters": "PARAMETERS_BLOB_TYPE",
}


def describe_net(
    name: str, types: Iterable[str], inputs: Iterable[str], outputs: Iterable[str]
) -> dict[str, Json]:
    """Sum up a net.

    >>> describe_net("", ["Conv", "Relu", "Conv"], ["x"], ["y"])
    {'inputs': ['x'], 'outputs': ['y'], 'operators': {'Conv': 2, 'Relu': 1}}
    """
    found: dict[str, Json] = {"name": name} if name else {}
    counts: dict[str, Json] = dict(Counter(types))
    return {**found, "inputs": list(inputs), "outputs": list(outputs), "operators": counts}


def describe_message(net: Message) -> dict[str, Json]:
    """Sum up a parsed NetDef."""
    types = [operator.type for operator in net.op]
    return describe_net(net.name, types, net.external_input, net.external_output)


def describe_predictor(data: bytes) -> dict[str, Json]:
    """Sum up the MetaNetDef of a predictor export; empty where it is not one."""
    try:
        found = Message.parse(META_NET, data, where="the predictor's nets")
        blobs = {row.key: list(row.value) for row in reversed(found.blobs)}  # the first one counts
        nets = {row.key: describe_message(row.value) for row in reversed(found.nets)}
    except TensorKeepError:
        return {}
    named: dict[str, Json] = {name: blobs.get(key, []) for name, key in _PREDICTOR_BLOBS.items()}
    return {**named, "nets": dict(reversed(nets.items()))}
