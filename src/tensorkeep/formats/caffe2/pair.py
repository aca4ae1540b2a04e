"""A model as Caffe2 keeps it: a predict net, and beside it the init net that makes its weights.

Written as mobile_exporter does: what goes in has a stand-in in the init net, [[0]], since the
Predictor wants every blob to be there before it runs.
"""

from __future__ import annotations

import numpy as np
import xxhash

from tensorkeep.errors import ArgumentError
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.nets import PAIR, Nets, init_beside, tell_inputs


def init_of(location: Location) -> Location:
    """Give where the init net goes.

    Raises:
        ArgumentError: the name is not that of a predict net.
    """
    beside = init_beside(location)
    if beside is None:
        raise ArgumentError(
            "a model of Caffe2's is two nets, and this is not the name of a predict net",
            where=location.where,
            cure="Name it predict_net.pb, or such as lenet_predict_net.pb; its init net goes "
            "beside it.",
        )
    return beside


def init_state(state: State, nets: Nets) -> State:
    """Give what the init net holds: the weights, and a stand-in for each input."""
    stand_in = Tensor.of(np.zeros((1, 1), np.float32))
    missing = {name: stand_in for name in nets.inputs if name not in state}
    return state.replace(tensors={**dict(state.items()), **missing}, document=None)


def predict_bytes(nets: Nets, location: Location, *, plain: bool) -> bytes:
    """Give the predict net as it is written, as text where its name says so.

    What its inputs are is noted in it, unless it is to be plain.
    """
    predict = nets.predict if plain else tell_inputs(nets)
    if location.name.lower().endswith(".pbtxt"):
        return predict.to_text().encode("utf-8", "surrogateescape")
    return predict.encode()


def belonging_to(weights: State, predict: bytes) -> State:
    """Note in what an init net holds which predict net it was saved with.

    The two are files of fixed names, so a save that is killed between them would leave the new
    weights beside the old net.
    """
    metadata = {**weights.metadata, PAIR: xxhash.xxh3_128_hexdigest(predict)}
    return weights.replace(metadata=metadata)
