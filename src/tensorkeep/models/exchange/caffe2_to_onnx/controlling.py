"""Branches and loops: the nets that they hold become the bodies of If and Loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.effects import effects
from tensorkeep.models.exchange.caffe2_to_onnx.nested import needed_net, net_of, translate_net
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.sizes import Dims
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.caffe2.schema import NET

Body = Callable[[Sequence[str], str], list[str]]

_ATTEMPTS = 4
_READS = "what its body reads has to be among its inputs"


@TABLE.row("IsEmpty", becomes="Size, Equal")
def is_empty(op: Operator, to: Writer) -> None:
    """Whether a tensor has no elements."""
    to.node("Equal", [to.node("Size", [op.input(0)]), to.constant(0, np.int64)], op.output())


@TABLE.row("If", becomes="If")
def branch(op: Operator, to: Writer) -> None:
    """One net or another; what a net does not write stays as it was."""
    then_net, else_net = needed_net(op, "then_net"), net_of(op, "else_net") or Message(NET)
    known = dict(zip(op.blobs, op.inputs, strict=True))
    wanted = [index for index in range(len(op.outputs)) if op.wanted(index)]
    blobs = [op.message.output[index] for index in wanted]
    bodies, made = [], []
    for net, what in ((then_net, "its then_net"), (else_net, "its else_net")):
        with to.body(what.split()[1]) as body:
            values = translate_net(net, what, known, blobs, to)
            made.append([_known(to.result(value), to) for value in values])
        bodies.append(body)
    outputs = [op.output(index) for index in wanted]
    to.with_bodies(
        "If",
        [_scalar(op.input(0), "bool", to)],
        outputs,
        then_branch=bodies[0],
        else_branch=bodies[1],
    )
    for output, then, other in zip(outputs, *made, strict=True):
        if then[0] != other[0]:
            raise Refused(f"its branches make {output!r} of {then[0]} and of {other[0]}")
        to.know(output, then[0], _common(then[1], other[1]))


@TABLE.row("While", becomes="Loop")
def loop(op: Operator, to: Writer) -> None:
    """A net run as long as a blob says, which a second net may work out before each time."""
    body_net, test_net = needed_net(op, "loop_net"), net_of(op, "cond_net")
    known = dict(zip(op.blobs, op.inputs, strict=True))
    tests = list(test_net.op) if test_net is not None else []
    whole = Message(NET)
    whole["op"] = [*(each.copy() for each in body_net.op), *(each.copy() for each in tests)]
    condition = op.blobs[0] if op.blobs else ""
    _, written = effects(whole.op)
    carried = [condition, *(b for b in known if b in written and b != condition)]
    wanted = {op.message.output[i]: op.output(i) for i in range(len(op.outputs)) if op.wanted(i)}
    for blob in wanted:
        if blob not in known:
            raise Refused(
                f"its output {blob!r} has no value where the loop never runs",
                "Add the blob to the inputs of the operator.",
            )
    if test_net is not None:
        _, tested = effects(tests)
        first = [blob for blob in carried if blob in tested]
        values = translate_net(test_net, "its cond_net", known, first, to)
        known |= dict(zip(first, values, strict=True))
    starts = [known[blob] for blob in carried]

    def body(parameters: Sequence[str], time: str) -> list[str]:
        here = known | dict(zip(carried, parameters, strict=True))
        made = translate_net(whole, "its loop_net", here, carried, to)
        return [_scalar(made[0], "bool", to), *made]

    names = _looped(starts, "", _scalar(starts[0], "bool", to), body, 0, to)
    final = known | dict(zip(carried, names, strict=False))
    for blob, output in wanted.items():
        to.node("Identity", [final[blob]], output)


@TABLE.row("ONNXWhile", becomes="Loop", note=_READS)
def onnx_loop(op: Operator, to: Writer) -> None:
    """ONNX's Loop, as Caffe2's importer of ONNX models wrote it."""
    net, known = needed_net(op, "body"), dict(zip(op.blobs, op.inputs, strict=True))
    for name in ("save_scopes", "disable_scopes"):
        op.has(name)
    count = op.integer("num_loop_carried_deps", -1)
    count = len(op.inputs) - 2 if count < 0 else count
    taken, given = list(net.external_input), list(net.external_output)
    if len(taken) < count + 2 or not 0 <= count <= len(given) - 1 or len(op.inputs) < count + 2:
        raise Refused(
            f"its body has {len(taken)} inputs and {len(given)} outputs for {count} blobs"
        )
    if len(op.outputs) != len(given) - 1:
        raise Refused(f"it has {len(op.outputs)} outputs, and its body {len(given) - 1}")
    most = _scalar(op.input(0), "int64", to) if op.flag("has_trip_count") else ""
    asks = op.flag("has_cond")
    tested = any(taken[1] in each.input for each in net.op) or taken[1] in given

    def body(parameters: Sequence[str], time: str) -> list[str]:
        here = known | dict(zip(taken[2 : count + 2], parameters, strict=True))
        here[taken[0]] = time
        if tested:
            here[taken[1]] = to.constant([True])  # or it would not run
        made = translate_net(net, "its body", here, given if asks else given[1:], to)
        return [_scalar(made[0], "bool", to), *made[1:]] if asks else [to.constant(True), *made]

    first = _scalar(op.input(1), "bool", to) if asks else to.constant(True)
    names = _looped(op.inputs[2 : count + 2], most, first, body, len(given) - 1 - count, to)
    for name, output in zip(names, op.outputs, strict=True):
        to.node("Identity", [name], output)


def _looped(
    starts: Sequence[str], most: str, first: str, make: Body, scans: int, to: Writer
) -> list[str]:
    """Add a Loop; gives what it carries at its end, and what it collected.

    Args:
        starts: what it carries at first.
        most: how often it runs at most; empty for any number.
        first: whether it runs at all.
        make: makes the outputs of the body, of what is carried and of how often it ran before.
        scans: how many of them are collected.
        to: takes the node.
    """
    carried = [_known(start, to) for start in starts]
    for attempt in range(_ATTEMPTS):
        with to.body("loop") as body:
            time = to.parameter("iteration", "int64", ())
            to.parameter("condition", "bool", ())
            parameters = [to.parameter("carried", *known) for known in carried]
            results = [to.result(value) for value in make(parameters, time)]
            made = [_known(value, to) for value in results[1:]]
        again = []
        for (kind, dims), (found, sizes) in zip(carried, made, strict=False):
            if kind != found:
                raise Refused(f"it carries a blob that is of {kind} first, and of {found} then")
            same = dims if dims is None or dims == sizes else _common(dims, sizes)
            again.append((kind, None if attempt and same != dims else same))
        if again == carried:
            break
        carried = again  # sizes that change from one time to the next
    else:
        raise Refused("the shapes that it carries never settle")
    names = [to.fresh("looped") for _ in made]
    to.with_bodies("Loop", [most, first, *starts], names, body=body)
    for name, (kind, dims) in zip(names, made, strict=True):
        to.know(name, kind, dims)
    for name, (kind, dims) in list(zip(names, made, strict=True))[len(made) - scans :]:
        to.know(name, kind, None if dims is None else (None, *dims))
    for name, (kind, dims) in zip(names, carried, strict=False):
        to.know(name, kind, dims)
    return names


def _known(value: str, to: Writer) -> tuple[str, Dims]:
    return to.type(value), to.dims(value)


def _common(one: Dims, other: Dims) -> Dims:
    """Give the sizes that two values have both; None for one that differs."""
    if one is None or other is None or len(one) != len(other):
        return None
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))


def _scalar(value: str, dtype: str, to: Writer) -> str:
    """Give a value of one element as a scalar."""
    if to.type(value) != dtype:
        raise Refused(f"{value!r} is of {to.type(value)}, where {dtype} is expected")
    if to.dims(value) == ():
        return value
    return to.node("Reshape", [value, to.constant([], np.int64)])
