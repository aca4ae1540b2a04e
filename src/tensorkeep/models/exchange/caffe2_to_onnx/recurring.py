"""Recurrent nets: a step net that runs once for each element of a sequence, as an ONNX Scan.

RecurrentNetwork keeps each state as (steps + 1, batch, size), the initial one first. Links tell
which part of which blob a blob of the step net is; aliases tell which part of a state comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.boxes import INT64, part, size_of, within, without
from tensorkeep.models.exchange.caffe2_to_onnx.nested import needed_net, translate_net
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.sizes import Size
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

# What is about training, or about how fast it runs.
_WORDS_OF_TRAINING = """
    param param_grads backward_step_net backward_link_internal backward_link_external
    backward_link_offset outputs_with_grads recompute_blobs_on_backward enable_rnn_executor
    rnn_executor.num_threads rnn_executor.debug
"""
_OF_TRAINING = _WORDS_OF_TRAINING.split()


@dataclass(slots=True)
class _State:
    """A state: its blob, the value it starts with, and the blobs of the step net that it is."""

    blob: str
    initial: str
    before: str = ""
    after: str = ""


@dataclass(slots=True)
class _Steps:
    """What the arguments of a RecurrentNetwork say."""

    states: list[_State]
    sequences: dict[str, str]  # by blob of the step net, the value of which it is one element
    aliases: list[tuple[str, str, int]]
    timestep: str


@TABLE.row(
    "RecurrentNetwork",
    becomes="Scan",
    note="with any step net whose operators are translated: LSTM, GRU, and others",
)
def recurrent_network(op: Operator, to: Writer) -> None:
    """A net run for each element of a sequence, which is given what it made before."""
    net, steps = needed_net(op, "step_net"), _read(op)
    for name in _OF_TRAINING:
        op.has(name)
    starts = [_started(state, op.input(0), to) for state in steps.states]
    aliased = {name for _, name, _ in steps.aliases}
    for index, blob in enumerate(op.message.output):
        if op.wanted(index) and blob not in aliased:
            raise Refused(f"its output {blob!r}, which is no alias of a state, is used")
    made = _scanned(op, net, steps, starts, to)
    by_blob = {state.blob: index for index, state in enumerate(steps.states)}
    for source, name, offset in steps.aliases:
        index = list(op.message.output).index(name)
        if op.wanted(index):
            state = by_blob[source]
            _alias(starts[state], made[state], offset, op.output(index), to)


def _read(op: Operator) -> _Steps:
    known = dict(zip(op.blobs, op.inputs, strict=True))
    names, numbers = op.texts("recurrent_states"), op.integers("initial_recurrent_state_ids")
    if len(names) != len(numbers) or not names or len(set(names)) != len(names):
        raise Refused(f"it has {len(names)} states and {len(numbers)} initial ones")
    if any(not 0 <= number < len(op.inputs) for number in numbers):
        raise Refused(f"its initial states are the inputs {numbers}, and it has {len(op.inputs)}")
    states = {
        name: _State(name, op.input(number)) for name, number in zip(names, numbers, strict=True)
    }
    sequences = _read_links(op, states, known)
    for state in states.values():
        if not state.before or not state.after:
            raise Refused(f"no link gives the state {state.blob!r} to the step net, or takes it")
    sources, made = op.texts("alias_src"), op.texts("alias_dst")
    offsets = op.integers("alias_offset")
    if not len(sources) == len(made) == len(offsets):
        raise Refused("its aliases are not as many as their offsets")
    outputs = set(op.message.output)
    aliases = [row for row in zip(sources, made, offsets, strict=True) if row[1] in outputs]
    for source, _, _ in aliases:
        if source not in states:
            raise Refused(f"it has an alias of {source!r}, which is no state")
    return _Steps(list(states.values()), sequences, aliases, op.text("timestep", "timestep"))


def _read_links(op: Operator, states: dict[str, _State], known: dict[str, str]) -> dict[str, str]:
    inner, outer = op.texts("link_internal"), op.texts("link_external")
    offsets = op.integers("link_offset")
    windows = op.integers("link_window") or [1] * len(inner)
    if not len(inner) == len(outer) == len(offsets) == len(windows):
        raise Refused("its links are not as many as their offsets")
    sequences = {}
    for mine, blob, offset, window in zip(inner, outer, offsets, windows, strict=True):
        if window != 1 or offset not in (0, 1):
            raise Refused(f"it has a link of the offset {offset} and the window {window}")
        if blob in states and offset == 1:
            states[blob].after = mine
        elif blob in states:
            states[blob].before = mine
        elif blob in known and offset == 0:
            sequences[mine] = known[blob]
        else:
            raise Refused(f"it has a link of the offset {offset} to {blob!r}")
    if not sequences:
        raise Refused("no link gives a sequence to the step net")
    return sequences


def _started(state: _State, sequence: str, to: Writer) -> str:
    """Give an initial state as (1, batch, size); one that is a vector is that of each element."""
    value, rank = state.initial, to.rank(state.initial)
    if rank == 2:
        return within(value, 0, to)
    if rank == 3:
        if to.shape(value, [0]) != [1]:
            raise Refused(f"its initial state {value!r} is of {to.shape(value, [0])[0]} steps")
        return value
    if rank != 1:
        raise Refused(f"its initial state {value!r} has {rank} axes")
    one, batch = to.constant([1], np.int64), size_of(sequence, 1, to)
    made = to.node("Expand", [value, to.node("Concat", [one, batch, one], axis=0)])
    size: Size = (to.dims(value) or (None,))[0]
    to.know(made, to.type(value), (1, None, size))
    return made


def _scanned(
    op: Operator, net: Message, steps: _Steps, starts: list[str], to: Writer
) -> list[tuple[str, str]]:
    """Run the step net over the sequences; gives the last value of each state, and all of them."""
    known = dict(zip(op.blobs, op.inputs, strict=True))
    with to.body("step") as body:
        time = to.parameter("timestep", "int32", (1,))
        known[steps.timestep] = time
        for state, start in zip(steps.states, starts, strict=True):
            dims = to.dims(start)
            known[state.before] = to.parameter(state.before, to.type(start), dims)
        for name, value in steps.sequences.items():
            dims = to.dims(value)
            each = to.parameter(name, to.type(value), dims[1:] if dims is not None else None)
            known[name] = within(each, 0, to)
        after = [state.after for state in steps.states]
        results = translate_net(net, "its step_net", known, after, to)
        to.result(to.node("Add", [time, to.constant([1], np.int32)]))
        for value in results:
            to.result(value)
        for value in results:
            to.result(without(value, 0, to))
    begin = to.constant([0], np.int32)
    names = [to.fresh("steps")]
    names += [to.fresh(f"{state.blob}_last") for state in steps.states]
    names += [to.fresh(state.blob) for state in steps.states]
    inputs = [begin, *starts, *steps.sequences.values()]
    to.with_bodies("Scan", inputs, names, {"num_scan_inputs": len(steps.sequences)}, body=body)
    length: Size = (to.dims(op.input(0)) or (None,))[0]
    made = []
    for index, start in enumerate(starts, 1):
        last, every = names[index], names[index + len(starts)]
        dims, kind = to.dims(start) or (1, None, None), to.type(start)
        to.know(last, kind, dims)
        to.know(every, kind, (length, *dims[1:]))
        made.append((last, every))
    return made


def _alias(start: str, made: tuple[str, str], offset: int, output: str, to: Writer) -> None:
    """Give a part of a state: from an element on, or from so many before its end."""
    last, every = made
    if offset == 1:
        to.node("Identity", [every], output)
    elif offset == -1:
        to.node("Identity", [last], output)
    else:
        whole = to.node("Concat", [start, every], axis=0)
        to.node("Identity", [part(whole, offset, np.iinfo(np.int64).max, to, 0)], output)


def _running(op: Operator, first: int, to: Writer) -> str | None:
    """Tell which elements of the batch have not ended, as (batch, 1); None where none ends."""
    for name in ("sequence_lengths", "drop_states"):
        op.has(name)
    if not op.flag("sequence_lengths", True):
        op.refuse_more(first + 1)
        return None
    op.refuse_more(first + 2)
    lengths, time = (to.node("Cast", [op.input(first + at)], to=INT64) for at in (0, 1))
    return within(to.node("Less", [time, lengths]), 1, to)


def _kept(op: Operator, running: str | None, made: str, before: str, at: int, to: Writer) -> None:
    """Give a new state, or the one before where the sequence has ended, or zeros."""
    if running is None:
        to.node("Identity", [made], op.output(at))
        return
    if op.flag("drop_states"):
        before = to.constant(0, np.dtype(to.type(before)))
    to.node("Where", [running, made, before], op.output(at))


@TABLE.row("LSTMUnit", becomes="Split, Sigmoid, Tanh, Mul, Add, Where")
def lstm_unit(op: Operator, to: Writer) -> None:
    """One step of an LSTM: the gates are input, forget, output and cell."""
    hidden, cell, gates = (op.input(index) for index in range(3))
    running = _running(op, 3, to)
    into, forget, out, fresh = to.nodes("Split", [gates], [None] * 4, axis=-1, num_outputs=4)
    if bias := op.number("forget_bias", 0.0):
        forget = to.node("Add", [forget, to.constant(bias, np.dtype(to.type(gates)))])
    into, forget, out = (to.node("Sigmoid", [gate]) for gate in (into, forget, out))
    fresh = to.node("Mul", [into, to.node("Tanh", [fresh])])
    made = to.node("Add", [to.node("Mul", [forget, cell]), fresh])
    if op.wanted(0):
        shown = to.node("Mul", [out, to.node("Tanh", [made])])
        _kept(op, running, shown, hidden, 0, to)
    if op.wanted(1):
        _kept(op, running, made, cell, 1, to)


@TABLE.row("GRUUnit", becomes="Split, Sigmoid, Tanh, Mul, Add, Where")
def gru_unit(op: Operator, to: Writer) -> None:
    """One step of a GRU: the gates are reset, which is used before, update and output."""
    op.has("forget_bias")
    hidden, gates = op.input(0), op.input(1)
    running = _running(op, 2, to)
    _, update, out = to.nodes("Split", [gates], [None] * 3, axis=-1, num_outputs=3)
    update, out = to.node("Sigmoid", [update]), to.node("Tanh", [out])
    rest = to.node("Sub", [to.constant(1, np.dtype(to.type(gates))), update])
    made = to.node("Add", [to.node("Mul", [hidden, update]), to.node("Mul", [out, rest])])
    _kept(op, running, made, hidden, 0, to)


@TABLE.row("ReversePackedSegs", becomes="ReverseSequence")
def reverse(op: Operator, to: Writer) -> None:
    """Each sequence of a batch from its end to its start; what is behind its end stays."""
    op.refuse_more(2)
    lengths = to.node("Cast", [op.input(1)], to=INT64)
    made = to.node(
        "ReverseSequence", [op.input(0), lengths], op.output(), time_axis=0, batch_axis=1
    )
    to.know(made, to.type(op.input(0)), to.dims(op.input(0)))
