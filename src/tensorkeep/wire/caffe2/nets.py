"""Nets: a model as Caffe2 says it, the predict net beside the weights that a State holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import xxhash

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

    def parts(self) -> Iterator[tuple[str, str]]:
        """Give each part by its place: operators by the blobs that they write.

        A blob that is written again is told apart (`x~2`), so that their order makes no difference
        where it says nothing.
        """
        net = self.predict
        yield "net", _told(net, but=("op", "arg"))
        for argument in net.arg:
            yield f"argument {argument.name}", _told(argument, but=("name",))
        for name in dict.fromkeys((*self.inputs, *self.given)):
            dtype, shape = self.given.get(name, Given())
            yield (
                f"input {name}",
                f"{dtype or 'of any type'}, {'of any shape' if shape is None else shape}",
            )
        writes: Counter[str] = Counter()

        def versions(blobs: Iterable[str]) -> str:
            return ", ".join(f"{b}~{writes[b]}" if writes[b] > 1 else b for b in blobs)

        for operator in net.op:
            for blob in operator.input:
                writes[blob] = writes[blob] or 1  # what is given, or another net has written
            taken = versions(operator.input)
            writes.update(operator.output or [operator.type])
            said = _told(operator, but=("type", "input", "output"))
            place = versions(operator.output or [operator.type])
            call = f"{operator.type}({taken})"
            yield f"operator {place}", f"{call} {{{said}}}" if said else call


def _told(message: Message, but: Iterable[str]) -> str:
    """Say what is in a message: what is long by a digest, so that no two say the same."""
    said = []
    for name in message:
        if name in but:
            continue
        if name == "arg":
            said += [f"{row.name}: {_told(row, but=('name',))}" for row in message.arg]
            continue
        alone = Message(message.schema)
        alone[name] = message[name]
        text = " ".join(alone.to_text().split())
        if len(text) > _LONG:
            text = f"{name}: {len(text):,} characters, {xxhash.xxh3_128_hexdigest(text.encode())}"
        said.append(text)
    return ", ".join(said) + "".join(f", unknown {data.hex()}" for data in message.unknown())


_LONG = 200


PAIR = "tensorkeep.predict_net"  # in the metadata of an init net: the XXH3-128 of its predict net
_INPUTS = "tensorkeep.inputs"


def tell_inputs(nets: Nets) -> Message:
    """Give the net with an argument that says what its inputs are, for which Caffe2 has no place.

    Each input that is declared is there, also one of which nothing is known: whatever else the net
    reads is a weight then.
    """
    if not nets.inputs:
        return nets.predict
    rows: dict[str, Any] = {}
    for name in nets.inputs:
        dtype, shape = nets.given.get(name, Given())
        rows[name] = [dtype, None if shape is None else list(shape)]
    noted = nets.predict.copy()
    noted.add("arg", name=_INPUTS, s=dump_json(rows).encode("utf-8", "surrogateescape"))
    return noted


def take_inputs(predict: Message, where: str) -> dict[str, Given]:
    """Take the argument out of a net that `tell_inputs` adds; empty where it has none.

    Raises:
        CorruptError: the argument is something else.
    """
    told: dict[str, Given] = {}
    others = [argument for argument in predict.arg if argument.name != _INPUTS]
    if len(others) == len(predict.arg):
        return told
    for argument in predict.arg:
        if argument.name != _INPUTS:
            continue
        found = parse_json(bytes(argument.s), where, _INPUTS, most=_MOST_VALUES)
        rows = found.items() if isinstance(found, dict) else [("", found)]
        told.update((name, _given(row, where)) for name, row in rows)
    predict["arg"] = others
    return told


def _given(row: object, where: str) -> Given:
    match row:
        case [str() | None as dtype, list() | None as shape] if (
            dtype is None or dtype in DTYPES
        ) and all(map(_is_size, shape or ())):
            return Given(dtype, None if shape is None else tuple(shape))
    problem = f"{_INPUTS} says {str(row)[:60]!r}, no element type and shape"
    raise CorruptError(problem, where=where)


_MOST_VALUES = 100_000


def _is_size(value: object) -> bool:
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


__all__ = ["PAIR", "Given", "Nets", "init_beside", "take_inputs", "tell_inputs"]
