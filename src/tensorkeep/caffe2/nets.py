"""Nets on disk: init_net.pb and predict_net.pb, as Caffe2's mobile exporter wrote them.

Each file is one NetDef, binary or (.pbtxt) text. The init net has a fill for every weight and is
run once; the predict net computes. Nets of fills, of load and save operators and of a few trivial
ones run here; what computes does not.

Facts: caffe2/python/predictor/mobile_exporter.py, caffe2/core/net.cc and net_simple.cc of PyTorch
1.10, read and run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.caffe2.operator import OPERATORS, check_message, create_operator
from tensorkeep.caffe2.workspace import Workspace
from tensorkeep.errors import ArgumentError, CorruptError, LossError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.source import MemorySource, Source
from tensorkeep.store import Location
from tensorkeep.stores import Target, locate
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.fills import FILL_OF
from tensorkeep.wire.caffe2.schema import NET, OPERATOR
from tensorkeep.wire.caffe2.values import Int8Tensor

TEXT_SUFFIXES = (".pbtxt", ".prototxt", ".txt")

_HEAD = 4096
_TEXT = re.compile(rb"(\s|#[^\n]*\n)*[A-Za-z_]\w*\s*[:{<]")
_INT8_FILLS = {dtypes.UINT8: "Int8GivenTensorFill", dtypes.INT32: "Int8GivenIntTensorFill"}


def read_net(target: Target | bytes) -> Message:
    """Read a NetDef from a file or its bytes; text and binary are told apart by their bytes.

    Args:
        target: a path, an URL or a Location; bytes are the net itself.

    Raises:
        MissingError: there is no such file.
        CorruptError: it is damaged, cut short or something else; the message says what.

    >>> net = read_net(b'op { type: "ConstantFill" output: "w" }')
    >>> net.op[0].type, read_net(net.encode()) == net
    ('ConstantFill', True)
    """
    source = MemorySource(target, "net") if isinstance(target, bytes) else _file(target).source
    where, head = source.where, bytes(source.read(0, min(_HEAD, source.size)))
    _refuse_others(head, where)
    net = _parse_text(source, where) if _is_text(head) else _parse(source, where)
    _check_operators(net, where)
    return net


def write_net(net: Message, target: Target, *, durable: bool = True) -> None:
    """Write a NetDef: as text where the name ends in .pbtxt or .prototxt, else as binary.

    The file appears whole or not at all.

    Raises:
        ArgumentError: it is no NetDef, or the target no file.
        StoreError: the disk is full or failed.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/init_net.pbtxt"
    >>> write_net(init_net_of({"w": np.ones(2, np.float32)}), path)
    >>> read_net(path).op[0].output
    ['w']
    """
    net = check_message(net, NET)
    location = _file(target)
    chunks: Iterable[Any] = net.chunks()
    if location.suffix in TEXT_SUFFIXES:
        chunks = [net.to_text().encode("utf-8", "surrogateescape")]
    store = location.store.writer()
    try:
        store.put(location.key, chunks, durable=durable)
        store.commit()
    except BaseException:
        store.rollback()
        raise


def run_net(
    workspace: Workspace,
    net: Message | Target | bytes,
    *,
    seed: int | None = None,
    strict: bool | None = None,
    durable: bool | None = None,
) -> bool:
    """Run a net of fills, load, save and trivial operators in a workspace.

    What the device_option of an operator leaves open, the random_seed too, is as in the net's.

    Args:
        workspace: where its blobs go.
        net: a NetDef, or where one is.
        seed: have the first operator draw with this random seed, the second with the next, ... as
            after Caffe2's `Net.set_rand_seed(seed)`.
        strict: refuse what Caffe2 read wrongly without a word; by default as the workspace does.
        durable: have what is saved on the disk when this returns; likewise.

    Raises:
        UnsupportedError: operators that do not run here, which are named; nothing was run then.
        ArgumentError: the net declares an output that nothing in it writes.
        TensorKeepError: what an operator raises.

    >>> ws = Workspace()
    >>> run_net(ws, b'op { type: "RangeFill" output: "w" arg { name: "shape" ints: 3 } }')
    True
    >>> ws.fetch("w").tolist()
    [0.0, 1.0, 2.0]
    """
    if isinstance(net, str | bytes | os.PathLike | Location):
        net = read_net(net)
    net = check_message(net, NET)
    _refuse_computing(net)
    if seed is not None:
        net = _seeded(net, seed)
    return workspace.run_net(net, strict=strict, durable=durable)


def init_net_of(
    arrays: Mapping[str, npt.ArrayLike | Tensor | Int8Tensor],
    inputs: Iterable[str] = (),
    *,
    lossy: bool = False,
) -> Message:
    """Describe arrays as an init net: one fill each, as Caffe2's mobile exporter does.

    float32, int64, int32, int16, uint8, bool, string and quantized tensors are kept exactly.
    No fill is given float16 or bfloat16 values, and that of doubles holds them as floats.

    Args:
        arrays: the weights by name, the statistics of SpatialBN included. They are not copied, but
            read when the net is written.
        inputs: the data inputs of the predict net, which are made as placeholders of shape (1, 1).
        lossy: keep float16 and bfloat16 as float32, which holds their every value but forgets the
            type, and round float64 to float32.

    Raises:
        LossError: an element type that no fill keeps.

    >>> net = init_net_of({"w": np.ones((2, 3), np.float32)}, inputs=["data"])
    >>> [(op.type, op.output[0]) for op in net.op]
    [('GivenTensorFill', 'w'), ('GivenTensorFill', 'data')]
    """
    net = Message(NET)
    net.op = [_fill_of(name, array, lossy) for name, array in arrays.items()]
    placeholder = np.zeros((1, 1), np.float32)
    net.op += [_fill_of(name, placeholder, lossy) for name in inputs]
    return net


def _fill_of(name: str, array: Any, lossy: bool) -> Message:
    if isinstance(array, Int8Tensor):
        return _int8_fill_of(name, array)
    tensor = array if isinstance(array, Tensor) else Tensor.of(array, name)
    values = tensor.numpy()
    if tensor.dtype.kind == "float" and tensor.dtype.bits > 8 and tensor.dtype not in FILL_OF:
        if not (lossy or _is_float32(values)):
            raise _loss(name, tensor)
        double = tensor.dtype is dtypes.FLOAT64
        type_name = "GivenTensorDoubleFill" if double else "GivenTensorFill"
        with np.errstate(all="ignore"):
            values = values.astype(np.float32)
    elif tensor.dtype in FILL_OF:
        type_name = FILL_OF[tensor.dtype]
    else:
        raise _loss(name, tensor)
    if tensor.dtype is dtypes.UINT8:
        return _fill(type_name, name, shape=list(tensor.shape), values=[bytes(tensor.read())])
    return _fill(type_name, name, shape=list(tensor.shape), values=values)


def _int8_fill_of(name: str, quantized: Int8Tensor) -> Message:
    data = quantized.data
    if data.dtype not in _INT8_FILLS:
        raise _loss(name, data)
    values = bytes(data.read()) if data.dtype is dtypes.UINT8 else data.numpy()
    return _fill(
        _INT8_FILLS[data.dtype],
        name,
        shape=list(data.shape),
        values=values,
        Y_scale=float(quantized.scale),
        Y_zero_point=int(quantized.zero_point),
    )


def _fill(type_name: str, name: str, **arguments: Any) -> Message:
    fill = create_operator(type_name, [], [name], **arguments)
    fill.name = ""  # which Caffe2's core.CreateOperator always sets
    return fill


def _is_float32(values: npt.NDArray[Any]) -> bool:
    """Tell whether doubles are floats, bit for bit; narrower floats are not, for their type."""
    if values.dtype != np.float64:
        return False
    with np.errstate(all="ignore"):
        return values.astype(np.float32).astype(np.float64).tobytes() == values.tobytes()


def _loss(name: str, tensor: Tensor) -> LossError:
    cure = "Keep it in a database instead: tensorkeep.caffe2.save holds every type of Caffe2's."
    if tensor.dtype in (dtypes.FLOAT16, dtypes.BFLOAT16):
        cure = "With lossy=True it becomes float32: the values stay, the type is forgotten."
    elif tensor.dtype is dtypes.FLOAT64:
        cure = "With lossy=True its values are rounded to float32."
    return LossError(f"no fill of an init net keeps {tensor.dtype} exactly", where=name, cure=cure)


def _seeded(net: Message, seed: int) -> Message:
    """Give a copy of a net whose operators draw with one seed after the other."""
    seeded, operators = Message(NET), []
    for field in net:  # shared, not copied: arguments hold the weights
        seeded[field] = net[field]
    for index, definition in enumerate(net.op):
        operator = Message(OPERATOR)
        for field in definition:
            operator[field] = definition[field]
        option = definition.device_option.copy()
        option.random_seed = (seed + index) % 2**32
        operator.device_option = option
        operators.append(operator)
    seeded.op = operators
    return seeded


def _refuse_computing(net: Message) -> None:
    unknown = sorted({definition.type for definition in net.op} - OPERATORS.keys())
    if not unknown:
        return
    kind = "a predict net" if any(definition.input for definition in net.op) else "a net"
    more = f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
    listed = ", ".join(unknown[:12]) + more
    raise UnsupportedError(
        f"is {kind} with operators that do not run here: {listed}",
        where=_called(net),
        cure="Weights are in its init net: give that (init_net.pb) to get them. To compute, "
        "tensorkeep.run takes the net itself, or convert it: tensorkeep convert predict_net.pb "
        "model.onnx.",
    )


def _file(target: Target) -> Location:
    location = locate(target)
    if not location.key:
        raise ArgumentError(
            "is a folder or a whole database", where=location.where, cure="Name a file in it."
        )
    return location


def _refuse_others(head: bytes, where: str) -> None:
    """Recognise what people take for a net, and say what it is."""
    if not head:
        raise CorruptError("is empty", where=where, cure="The download or save did not finish.")
    for pattern, problem, cure in _OTHERS:
        if pattern.match(head):
            raise CorruptError(problem, where=where, cure=cure)


_OTHERS = [
    (re.compile(pattern, re.IGNORECASE), problem, cure)
    for pattern, problem, cure in (
        (
            rb"version https://git-lfs",
            "is a Git LFS pointer, not the net it stands for",
            "Run `git lfs pull` in its repository.",
        ),
        (
            rb"\s*<(!doctype|html|\?xml)",
            "is a web page, not a net",
            "The download needs another address or a login.",
        ),
        (rb"\x80[\x02-\x05]", "is a pickle, not a net", "Open it where its code is trusted."),
        (rb"PK\x03\x04", "is a zip archive, not a net", "Unpack it first."),
        (rb"\x1f\x8b", "is gzip-compressed, not a net", "Unpack it first."),
        (
            rb"\x08[\x01-\x7f][\x12\x1a:]",
            "looks like an ONNX model, not a Caffe2 net",
            "Open it with tensorkeep.open.",
        ),
        (
            rb"[^\0]\0\0\0",
            "looks like a minidb database of blobs, not a net",
            "Read it with tensorkeep.caffe2.load.",
        ),
    )
]


def _is_text(head: bytes) -> bool:
    """Tell text from binary: a NetDef's binary starts with a tag and a length."""
    return bool(_TEXT.match(head)) and not re.search(rb"[\0-\x08\x0e-\x1f\x7f]", head)


def _parse_text(source: Source, where: str) -> Message:
    text = str(source.read(0, source.size), "utf-8", "surrogateescape")
    try:
        return Message.from_text(NET, text, where=where)
    except CorruptError as error:
        cure = "It is the text of another kind of message, or was edited by hand."
        if re.search(r"^[ \t]*layers?[ \t]*\{", text, re.MULTILINE):
            cure = "It describes a network of Caffe, the forerunner of Caffe2."
        raise CorruptError(f"is no NetDef: {error.problem}", where=where, cure=cure) from None


def _parse(source: Source, where: str) -> Message:
    try:
        net = Message.parse(NET, source, where=where)
        net.check_required()
    except CorruptError as error:
        cure = "It is cut short or damaged, or another kind of file."
        raise CorruptError(f"is no NetDef: {error.problem}", where=where, cure=cure) from None
    return net


def _check_operators(net: Message, where: str) -> None:
    for index, definition in enumerate(net.op):
        if not definition.type:
            raise CorruptError(
                f"is no NetDef: what should be operator {index} has no type",
                where=where,
                cure="It is another kind of message, or damaged.",
            )
    if not any(True for _ in net):
        raise CorruptError(
            "is no NetDef: it has none of its fields",
            where=where,
            cure="It is another kind of message, or damaged.",
        )


def _called(net: Message) -> str:
    return f"net {net.name!r}" if net.name else "net without a name"
