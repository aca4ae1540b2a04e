"""Models of Caffe2 as people have them: a predict net and its weights, found and put together.

The pair of `init_net` and `predict_net` under any of its usual names, a predictor's export in one
database, or a predict net with weights from anywhere.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy.typing as npt
import xxhash

from tensorkeep import api
from tensorkeep.database import Database
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnknownFormatError,
)
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.facts import read_value_info
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores import Target, locate
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.fills import GIVEN, RANDOM, RULED
from tensorkeep.wire.caffe2.nets import PAIR, Nets

# How the nets of a pair are called: what the name of the init net has, where that of the predict
# net has the other.
_PAIRS = (
    ("init_net", "predict_net"),
    ("init_net", "exec_net"),
    ("init", "predict"),
    ("init", "exec"),
)
_ADDED = ("_init", "_init_net", "-init", ".init")
_ENDINGS = (".pb", ".pbtxt", ".prototxt", ".pb.txt")
_FILLS = frozenset((*GIVEN, *RULED, *RANDOM))
_MOST_LISTED = 10_000

Weights = Target | State | Mapping[str, npt.ArrayLike | Tensor]


def is_caffe2(state: State) -> bool:
    """Whether a state is a model of Caffe2's, or one half of it that `open_caffe2` completes."""
    return isinstance(state.document, Nets) or state.format == "caffe2-net"


def open_caffe2(target: Target | State, weights: Weights | None = None) -> State:
    """Open a model of Caffe2's with its weights.

    Args:
        target: the predict net, the init net, the folder that both are in, or a predictor's export;
            or a state of one of them.
        weights: where the weights are, if not beside it: an init net, a checkpoint of any format, a
            state, or arrays by name.

    Returns:
        The weights by the names of their blobs, with `Nets` as the document.

    Raises:
        MissingError: there is no such file, or an init net without a predict net.
        UnknownFormatError: the folder holds no net.
        ArgumentError: the folder holds more than one; it is no net.
        CorruptError: it is damaged.
    """
    if isinstance(target, State):
        found, location = target, _location_of(target)
    else:
        location = locate(target)
        if not location.key and not isinstance(location.store, Database):
            location = _net_in(location)
        found = api.open(location if location.key else target)
    try:
        return _complete(found, location, weights)
    except TensorKeepError:
        if found is not target:
            found.close()
        raise


def _complete(found: State, location: Location | None, weights: Weights | None) -> State:
    """Find the other half of what was opened."""
    if isinstance(found.document, Nets) and not _is_init(found, location):
        return with_weights(found, weights)
    if found.format != "caffe2-net":
        raise ArgumentError("is no net of Caffe2's", where=found.where)
    other = _companion(location, to_init=False)
    if other is None:
        raise MissingError(
            "there is no predict net beside this init net",
            where=found.where,
            cure="An init net holds weights alone. Put the predict net into the same folder, as "
            "predict_net.pb, or give that net, and this one with weights=.",
        )
    net = api.open(other)
    if not isinstance(net.document, Nets):
        net.close()
        raise ArgumentError("holds weights alone, and no operators", where=net.where)
    return _with(net, weights, found, other)


def with_weights(state: State, weights: Weights | None = None) -> State:
    """Give a state that holds a net its weights: those given, else those of the init net beside it.

    Args:
        state: one with `Nets` as its document; one that has its weights already stays as it is.
        weights: as `open_caffe2` takes them.
    """
    location = _nets(state).location
    if weights is not None:
        return _with(_described(state, location), weights)
    if location is None:
        return state
    other = _companion(location, to_init=True)
    if other is None:
        return _described(state, location)
    return _joined(state, api.open(other), location)


def _location_of(state: State) -> Location | None:
    if isinstance(state.document, Nets):
        return state.document.location
    if not state.where:
        return None
    with suppress(TensorKeepError):
        location = locate(state.where)
        with api.open(location) as found:  # which is another file where the store was no folder
            if found.format == state.format and list(found) == list(state):
                return location
    return None


def _is_init(state: State, location: Location | None) -> bool:
    """Whether a net with operators is an init net all the same, by its name."""
    name = location.name if location is not None and location.key else ""
    return "init" in name and "predict" not in name and len(state) > 0


def _nets(state: State) -> Nets:
    document = state.document
    assert isinstance(document, Nets)
    return document


def _described(net: State, location: Location | None, missing: str = "") -> State:
    """Give a predict net what lies beside it says of its inputs."""
    nets = _nets(net)
    given = read_value_info(location) | nets.given
    names = "" if location is None else _missing_beside(location)
    document = Nets(
        nets.predict,
        nets.inputs,
        nets.outputs,
        given,
        missing=missing or names or nets.missing,
    )
    return net.replace(document=document)


def _joined(
    net: State, init: State, location: Location | None, given: Collection[str] = ()
) -> State:
    """Put a predict net and the init net beside it together, which makes nothing that is given."""
    init = _checked(init, location)
    made = _described(net, location, init.where)
    nets = _nets(made)
    if isinstance(init.document, Nets):  # it computes some weights: that comes first then
        computes = init.document.predict
        kept = [each for each in computes.op if any(name not in given for name in each.output)]
        nets.predict = _one_after_the_other(kept, nets.predict)
    tensors = {**dict(net.items()), **dict(init.items())}
    metadata = {**init.metadata, **net.metadata, "caffe2": _merged(net, init)}
    return made.replace(
        tensors=tensors,
        metadata=metadata,
        digests={**net.digests, **init.digests},
        checks={**net.checks, **init.checks},
        close=_closing(net, init),
    )


def _checked(init: State, location: Location | None) -> State:
    """Refuse an init net that was saved with another predict net than the one beside it.

    Raises:
        CorruptError: it was.
    """
    if PAIR not in init.metadata:
        return init
    if location is not None:
        source = location.source
        hasher = xxhash.xxh3_128(source.read(0, source.size))
        if hasher.hexdigest() != init.metadata[PAIR]:
            raise CorruptError(
                f"is not the net that {init.where} was saved with",
                where=location.where,
                cure="A save ended between the two, or it was changed since; to take them "
                "together all the same, name the init net by weights= (--weights).",
            )
    rest = {key: value for key, value in init.metadata.items() if key != PAIR}
    return init.replace(metadata=rest)


def _closing(*states: State) -> Callable[[], None]:
    def close() -> None:
        for state in states:
            state.close()

    return close


def _merged(net: State, init: State) -> dict[str, Any]:
    first, second = net.metadata.get("caffe2"), init.metadata.get("caffe2")
    known = dict(first) if isinstance(first, dict) else {}
    also = second if isinstance(second, dict) else {}
    return {**known, **{key: value for key, value in also.items() if key != "net"}}


def _one_after_the_other(init: Iterable[Message], predict: Message) -> Message:
    joined = predict.copy()
    joined["op"] = [*(operator.copy() for operator in init), *joined.op]
    return joined


def _without_fills(predict: Message, given: Collection[str]) -> Message:
    """Leave out the fills that would write over weights that are given, which nothing else does."""
    writes = Counter(blob for operator in predict.op for blob in operator.output)

    def is_given(operator: Message) -> bool:
        fills = operator.type in _FILLS and not operator.input
        return fills and all(blob in given and writes[blob] == 1 for blob in operator.output)

    if not any(map(is_given, predict.op)):
        return predict
    left = predict.copy()
    left["op"] = [operator for operator in left.op if not is_given(operator)]
    return left


def _with(
    state: State,
    weights: Weights | None,
    init: State | None = None,
    location: Location | None = None,
) -> State:
    """Give a model weights from elsewhere; they come before those that it or its init net has."""
    if weights is None:
        return state if init is None else _joined(state, init, location)
    if isinstance(weights, State):
        given = weights
    elif isinstance(weights, Mapping):
        given = State({name: _tensor(name, value) for name, value in weights.items()})
    else:
        given = api.open(weights)
    computes = isinstance(given.document, Nets) and given.format == "caffe2-net"
    also = _nets(given).predict.op if computes else []
    made = {*given, *(blob for operator in also for blob in operator.output)}
    if init is not None:
        state = _joined(state, init, location, made)
    nets = _nets(state)
    nets.missing = given.where or "the weights that were given"
    nets.predict = _without_fills(nets.predict, made)
    if also:
        nets.predict = _one_after_the_other(also, nets.predict)
    tensors = {**dict(state.items()), **dict(given.items())}
    return state.replace(
        tensors=tensors,
        metadata={**state.metadata, "caffe2": _merged(state, given)},
        digests={**state.digests, **given.digests},
        checks={**state.checks, **given.checks},
        close=state.close if given is weights else _closing(state, given),
    )


def _tensor(name: object, value: Any) -> Tensor:
    if not isinstance(name, str):
        raise ArgumentError(f"weights has the key {name!r}, where names of blobs are expected")
    return value if isinstance(value, Tensor) else Tensor.of(value)


def _missing_beside(location: Location) -> str:
    if not location.key:
        return ""
    names = [name for name, _ in zip(_others(location.name, to_init=True), range(2), strict=False)]
    return f"the net, and there is no {' or '.join(names)} beside it"


def _companion(location: Location | None, *, to_init: bool) -> Location | None:
    """Find the other net of a pair."""
    if location is None or not location.key:
        return None
    for name in _others(location.name, to_init=to_init):
        other = location.beside(name)
        with suppress(MissingError):
            if other.source.size and not _is_taken(other, location):
                return other
    return None


def _is_taken(other: Location, location: Location) -> bool:
    """Whether a net of a general name, such as init_net, has a partner of its own beside it."""
    partners = [tuple(set(pair) - {_split(other.name)[0]}) for pair in _PAIRS[:2]]
    stems = [pair[0] for pair in partners if len(pair) == 1]
    if _split(location.name)[0] in stems:
        return False
    return any(_exists(location.beside(stem + kind)) for stem in stems for kind in _ENDINGS)


def _exists(location: Location) -> bool:
    with suppress(MissingError):
        return location.source.size > 0
    return False


def _others(name: str, *, to_init: bool) -> Iterator[str]:
    """Give the names that the other net of a pair may have, the likeliest first.

    >>> list(_others("squeezenet_predict_net.pb", to_init=True))[:2]
    ['squeezenet_init_net.pb', 'squeezenet_init_net.pbtxt']
    >>> "model.pb" in _others("model_init.pb", to_init=False)
    True
    """
    stem, ending = _split(name)
    stems: dict[str, None] = {}
    for init, predict in _PAIRS:
        mine, other = (predict, init) if to_init else (init, predict)
        head, found, tail = stem.rpartition(mine)
        if found:
            stems[head + other + tail] = None
    for added in _ADDED:
        if to_init:
            stems[stem + added] = None
        elif stem.endswith(added):
            stems[stem.removesuffix(added)] = None
    for pair in _PAIRS[:2]:
        stems[pair[0] if to_init else pair[1]] = None
    for other in stems:
        for kind in dict.fromkeys((ending, *_ENDINGS)):
            if other and other + kind != name:
                yield other + kind


def _split(name: str) -> tuple[str, str]:
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)], name[-len(ending) :]
    return posixpath.splitext(name)


def _net_in(folder: Location) -> Location:
    """Find the predict net of a folder.

    Raises:
        UnknownFormatError: there is none.
        ArgumentError: there are several.
    """
    found: list[Location] = []
    for _, key in zip(range(_MOST_LISTED), folder.store.keys(), strict=False):
        if "/" in key or _split(key)[1].lower() not in _ENDINGS:
            continue
        location = Location(folder.store, key)
        with suppress(TensorKeepError), api.open(location) as state:
            if isinstance(state.document, Nets) and not _is_init(state, location):
                found.append(location)
    stems = {_split(location.key)[0] for location in found}
    if len(stems) == 1:
        return min(found, key=lambda location: _ENDINGS.index(_split(location.key)[1].lower()))
    cure = "Give the file itself."
    if not found:
        raise UnknownFormatError("holds no predict net of Caffe2's", where=folder.where, cure=cure)
    listed = ", ".join(location.key for location in found[:5])
    raise ArgumentError(f"holds several predict nets: {listed}", where=folder.where, cure=cure)


__all__ = ["Weights", "is_caffe2", "open_caffe2", "with_weights"]
