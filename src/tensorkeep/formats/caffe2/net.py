"""caffe2-net: the nets of a model, as `init_net.pb` and `predict_net.pb`, or as text in `.pbtxt`.

The tensors of an init net are what its fills write: `GivenTensorFill` and its kin hold numbers,
which are read when asked for, `ConstantFill` and its kin a rule to make them. What a random fill
would write is not invented: it is listed as `not_made` under `caffe2` in the metadata. A predict
net has no tensors; what goes in and comes out, and its operators, are in the metadata as `net`, and
the net itself is the state's document.

We write an init net as Caffe2's mobile exporter does. Before it stands a field that Caffe2 skips
(in text a comment), with the nesting, the metadata and digests; `plain=True` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError
from tensorkeep.format import Format, Stream
from tensorkeep.formats.caffe2.blobs import gather
from tensorkeep.formats.caffe2.describe import describe_net
from tensorkeep.formats.caffe2.pair import belonging_to, init_of, init_state, predict_bytes
from tensorkeep.formats.caffe2.recognise import is_net, is_net_text
from tensorkeep.formats.caffe2.sealing import (
    NET_NOTES,
    Prepared,
    finish,
    hash_whole,
    notes_field,
    prepare,
    refuse_unplain,
    take_notes,
)
from tensorkeep.formats.caffe2.sealing import (
    losses as lost_before,
)
from tensorkeep.message import Message
from tensorkeep.message.schema import encode_varint
from tensorkeep.source import MemorySource, Source
from tensorkeep.state import Json, State
from tensorkeep.store import Chunk, Late, Location, join
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.arguments import Operator, Range, read_operator, walk
from tensorkeep.wire.caffe2.fills import (
    FILL_OF,
    MAX_RULED,
    RANDOM,
    RULED,
    encode_fill,
    is_fill,
    read_fill,
)
from tensorkeep.wire.caffe2.nets import Nets, take_inputs
from tensorkeep.wire.caffe2.schema import NET
from tensorkeep.wire.caffe2.values import INT8_TENSOR, Blob

NAME = "caffe2-net"
_HOLDS = frozenset(FILL_OF)
_KINDS = frozenset((INT8_TENSOR,))
_COMMENT = b"# tensorkeep "
_OP = b"\x12"
_WORKERS, _LAST_FIELD = 4, 9  # fields of a NetDef; the others are messages and text
_LISTED = 5


def accepts(location: Location) -> bool:
    """A NetDef, in bytes or as text."""
    if not location.key:
        return False
    head = location.head
    return _is_text(head) or head.startswith(NET_NOTES) or is_net(head, location.source.size)


def decode(location: Location) -> State:
    """Read the operators, without the numbers in them."""
    source, where = location.source, location.where
    if _is_text(location.head):
        text, source = _read_text(location)
        start = 0
    else:
        text, start = take_notes(source, where, NET_NOTES)
    net = _Net()
    computes = False  # whether an operator does more than to fill
    blobs: dict[str, Blob] = {}
    not_made: dict[str, Json] = {}
    made = 0  # bytes that rules make
    for number, wire, begin, end in walk(source, start, source.size, where):
        if number != 2 or wire != 2:
            net.take(number, wire, Range(source, begin, end))
            continue
        operator = read_operator(source, begin, end, where)
        net.types.append(operator.type)
        if is_fill(operator):
            made = _fill(operator, blobs, not_made, made)
        elif operator.type in RANDOM:
            not_made.update(dict.fromkeys(operator.outputs, operator.type))
        else:
            computes = True
    summary: dict[str, Json] = {"net": describe_net(net.name, net.types, net.inputs, net.outputs)}
    if not_made:
        summary["not_made"] = not_made
    state = finish(gather(blobs), text, location, format=NAME, summary=summary)
    if not computes:
        return state
    predict = Message.parse(NET, source, start, where=where)
    given = take_inputs(predict, where)
    return state.replace(document=Nets(predict, list(given), given=given, location=location))


def _fill(operator: Operator, blobs: dict[str, Blob], not_made: dict[str, Json], made: int) -> int:
    """Take what a fill writes, unless rules then make more than is safe; gives what they make."""
    (name,) = operator.outputs
    try:
        blob = read_fill(operator)
    except UnsafeError:
        not_made[name] = operator.type
        return made
    if operator.type in RULED:
        if made + blob.value.nbytes > MAX_RULED:
            not_made[name] = operator.type
            return made
        made += blob.value.nbytes
    blobs[name] = blob
    return made


class _Net:
    """What a NetDef says beside its operators' tensors."""

    def __init__(self) -> None:
        self.name = ""
        self.types: list[str] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    def take(self, number: int, wire: int, held: Range) -> None:
        """Take in a field that is no operator.

        Raises:
            CorruptError: it cannot stand in a net.
        """
        if number > _LAST_FIELD or wire != (0 if number == _WORKERS else 2):
            where = held.source.where
            raise CorruptError(f"field {number} is not what a net has there", where=where)
        if number == 1:
            self.name = held.text()
        elif number == 7:
            self.inputs.append(held.text())
        elif number == 8:
            self.outputs.append(held.text())


def _is_text(head: bytes) -> bool:
    return head.startswith(_COMMENT) or is_net_text(head)


def _read_text(location: Location) -> tuple[bytes | None, Source]:
    """Parse a net that is written as text, and give it as bytes."""
    data = bytes(location.source.read(0, location.source.size))
    noted = None
    if data.startswith(_COMMENT):
        line, _, _ = data.partition(b"\n")
        noted = line.removeprefix(_COMMENT)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"is not UTF-8 text: {error.reason}", where=location.where) from None
    message = Message.from_text(NET, text, where=location.where)
    return noted, MemorySource(message.encode(), location.where)


def encode(state: State, location: Location, *, plain: bool = False) -> Iterator[Stream]:
    """Write an init net, and a model's predict net; what fills cannot hold is cast or left out.

    Args:
        state: what to write.
        location: the file to write.
        plain: nothing but what Caffe2's exporter writes; what would be lost is refused.
    """
    if isinstance(state.document, Nets):
        predict = predict_bytes(state.document, location, plain=plain)
        weights = init_state(state, state.document)
        beside = init_of(location)
        noted = weights if plain else belonging_to(weights, predict)
        yield from encode(noted, beside, plain=plain)
        yield Stream(location.key, [predict], len(predict))
        return
    name = location.name.lower()
    if name.endswith(("predict_net.pb", "predict_net.pbtxt")):
        raise ArgumentError(
            "a predict net holds operators, not weights",
            where=location.where,
            cure="Name it init_net.pb.",
        )
    cast = {name: _cast(tensor) for name, tensor in state.items()}
    changed = [name for name, tensor in cast.items() if tensor is not state[name]]
    hash_whole(state, [name for name in changed if name in state.digests])
    kept = State(
        {name: tensor for name, tensor in cast.items() if tensor is not None},
        metadata=state.metadata,
        skeleton=state.skeleton if None not in cast.values() else None,
        digests={n: d for n, d in state.digests.items() if n not in changed},
        where=state.where,
    )
    prepared = prepare(kept, _HOLDS | {dtypes.FLOAT64}, kinds=_KINDS, devices=False)
    if plain:
        refuse_unplain(prepared, NAME)
        if not prepared.blobs:
            raise ArgumentError("there is nothing to save", where=location.where)
    if name.endswith(".pbtxt"):
        yield Stream(location.key, [_write_text(prepared, plain)])
        return

    def chunks() -> Iterator[Chunk | Late]:
        if not plain:
            yield notes_field(prepared, NET_NOTES)
        yield from _operators(prepared)

    yield Stream(location.key, chunks())


def _operators(prepared: Prepared) -> Iterator[Chunk]:
    for name, blob in prepared.blobs.items():
        size, chunks = encode_fill(name, blob)
        yield _OP + encode_varint(size)
        yield from chunks


def _write_text(prepared: Prepared, plain: bool) -> bytes:
    text = Message.parse(NET, join(_operators(prepared))).to_text().encode()
    return text if plain else _COMMENT + prepared.text() + b"\n" + text


class _Cast(Source):
    """The elements of a tensor as another type, cast as they are read."""

    __slots__ = ("_flat", "_kind")

    def __init__(self, tensor: Tensor, kind: DType) -> None:
        shape = (tensor.size,)
        self._flat = Tensor(tensor.dtype, shape, tensor.source, tensor.offset, tensor.nbytes)
        self._kind = kind
        super().__init__(kind.nbytes(tensor.size), tensor.source.where)

    def _read(self, start: int, stop: int) -> memoryview:
        width = self._kind.bits // 8
        first, last = start // width, -(-stop // width)
        with np.errstate(all="ignore"):  # what is too large becomes infinite
            values: npt.NDArray[np.number] = self._flat[first:last].astype(self._kind.numpy)
        skip = start - first * width
        return values.view(np.uint8).data[skip : skip + stop - start].toreadonly()


def _is_exact(tensor: Tensor) -> bool:
    """Whether a fill holds a tensor: doubles only where floats are enough for them."""
    if tensor.dtype is not dtypes.FLOAT64:
        return tensor.dtype in _HOLDS
    for piece in tensor.pieces():
        values = np.frombuffer(piece, np.float64)
        with np.errstate(all="ignore"):
            floats = values.astype(np.float32).astype(np.float64)
        if not np.array_equal(floats.view(np.uint64), values.view(np.uint64)):
            return False
    return True


def _target(kind: DType) -> DType | None:
    """Choose what a type is kept as: itself, a wider or the nearest one; None for nothing."""
    if kind in _HOLDS:
        return kind
    if kind.kind == "float":
        return dtypes.FLOAT32
    if kind.kind not in ("int", "uint") or kind is dtypes.UINT64:
        return None
    return dtypes.INT64 if kind is dtypes.UINT32 else dtypes.INT32


def _cast(tensor: Tensor) -> Tensor | None:
    kind = tensor.dtype if _is_exact(tensor) else _target(tensor.dtype)
    if kind is None or kind is tensor.dtype:
        return None if kind is None else tensor
    return Tensor(kind, tensor.shape, _Cast(tensor, kind))


def losses(state: State) -> list[str]:
    """Say which tensors there is no fill for."""
    by_kind: dict[DType, list[str]] = {}
    for name, tensor in state.items():
        if not _is_exact(tensor):
            by_kind.setdefault(tensor.dtype, []).append(name)
    lost = lost_before(state)
    for kind, names in by_kind.items():
        listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        target = _target(kind)
        what = f"becomes {target}" if target else "is left out"
        lost.append(f"{kind} ({listed}) {what}")
    if any(_target(kind) is None for kind in by_kind) and state.skeleton is not None:
        lost.append("the nesting is lost with what is left out")
    return lost


FORMAT = Format(
    name=NAME,
    suffixes=(".init_net.pb", ".predict_net.pb", ".init_net.pbtxt", ".predict_net.pbtxt"),
    accepts=accepts,
    decode=decode,
    encode=encode,
    losses=losses,
    compares_digests=True,
    dialect="caffe2",
    holds=_HOLDS,
    checked_by="XXH3-128",
    safe_by="fills are computed here; no other operator runs",
)
