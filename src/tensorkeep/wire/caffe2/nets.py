"""Nets: a model as Caffe2 says it, the predict net beside the weights that a State holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError
from tensorkeep.message import Message
from tensorkeep.store import Location
from tensorkeep.wire.text import dump_json, parse_json


class Given(NamedTuple):
    """What is said of an input: its element type and its shape, each None where it is not."""

    dtype: str | None = None
    shape: tuple[int, ...] | None = None


@dataclass(slots=True)
class Nets:
    """The net of a model that computes, as `State.document`.

    Attributes:
        predict: the NetDef.
        inputs: the blobs that are given to it; those that nothing else makes where empty.
        outputs: the blobs that come out of it; its external outputs where empty.
        given: by input, what it and the files beside it say of its type and shape.
        location: where it lies, beside which its weights are looked for; None for one in memory.
        missing: where its weights were looked for, as messages about missing ones say it.

    >>> from tensorkeep.wire.caffe2.schema import NET
    >>> net = Message(NET, name="tiny")
    >>> _ = net.add("op", type="Relu", input=["x"], output=["y"])
    >>> Nets(net).summary()
    'a Caffe2 net of 1 operator'
    """

    predict: Message
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    given: dict[str, Given] = field(default_factory=dict)
    location: Location | None = None
    missing: str = ""

    dialect = "caffe2"

    def summary(self) -> str:
        """Say in a few words what there is."""
        count = len(self.predict.op)
        return f"a Caffe2 net of {count:,} operator{'' if count == 1 else 's'}"


_INPUTS = "tensorkeep.inputs"


def tell_inputs(predict: Message, given: Mapping[str, Given]) -> None:
    """Note types and shapes of inputs in an argument of a net, which Caffe2 has no place for."""
    known = {
        name: [each.dtype, list(each.shape or ())] for name, each in given.items() if each.shape
    }
    if known:
        predict.add("arg", name=_INPUTS, s=dump_json(known).encode("utf-8", "surrogateescape"))


def told_inputs(predict: Message, where: str) -> dict[str, Given]:
    """Read what `tell_inputs` noted; empty where it noted nothing.

    Raises:
        CorruptError: the argument is something else.
    """
    told: dict[str, Given] = {}
    for argument in predict.arg:
        if argument.name != _INPUTS:
            continue
        found = parse_json(bytes(argument.s), where, _INPUTS, most=_MOST_INPUTS)
        rows = found.items() if isinstance(found, dict) else [("", found)]
        for name, row in rows:
            match row:
                case [str(dtype), list(shape)] if dtype in DTYPES and all(map(is_size, shape)):
                    told[name] = Given(dtype, tuple(shape))
                case _:
                    problem = f"{_INPUTS} says {str(row)[:60]!r}, no element type and shape"
                    raise CorruptError(problem, where=where)
    return told


_MOST_INPUTS = 100_000


def is_size(value: object) -> bool:
    """Whether a value is the size of an axis."""
    return type(value) is int and value >= 0


def init_beside(location: Location) -> Location | None:
    """Give where the init net of a predict net goes: init_net.pb beside predict_net.pb.

    None where a name is not that of a predict net.

    >>> from tensorkeep.stores.memory import MemoryStore
    >>> init_beside(Location(MemoryStore({}), "models/a_predict_net.pb")).key
    'models/a_init_net.pb'
    """
    head, found, tail = location.name.rpartition("predict_net")
    return location.sibling(f"{head}init_net{tail}") if found else None


__all__ = ["Given", "Nets", "init_beside"]
