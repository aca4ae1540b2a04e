"""RNN, GRU and LSTM: unrolled, step by step, since the length of the sequence is known."""

from __future__ import annotations

from tensorkeep.models.exchange.onnx_to_nnef.cells import Gru, Lstm, Rnn
from tensorkeep.models.exchange.onnx_to_nnef.operands import floats, is_used
from tensorkeep.models.exchange.onnx_to_nnef.sequences import Sequences
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.wire.nnef.operations import Reference

_MOST_STEPS = 256
_NOTE = "unrolled, at most 256 steps; sequence_lens has to be constant"


@TABLE.row("RNN", becomes="matmul, add, tanh, ... for each step", note=_NOTE)
def _rnn(node: Node, to: Writer) -> None:
    _unroll(node, to, Rnn, states=1, activations=("Tanh",))


@TABLE.row("GRU", becomes="matmul, sigmoid, tanh, ... for each step", note=_NOTE)
def _gru(node: Node, to: Writer) -> None:
    _unroll(node, to, Gru, states=1, activations=("Sigmoid", "Tanh"))


@TABLE.row("LSTM", becomes="matmul, sigmoid, tanh, ... for each step", note=_NOTE)
def _lstm(node: Node, to: Writer) -> None:
    _unroll(node, to, Lstm, states=2, activations=("Sigmoid", "Tanh", "Tanh"))


def _unroll(
    node: Node, to: Writer, cell: type[Rnn], *, states: int, activations: tuple[str, ...]
) -> None:
    given = [node.input(index) for index in (0, 1, 2, 3, 5, 6, 7)]
    floats(to, *given)
    directions = _directions(node)
    if len(activations) * len(directions) != len(_activations(node, activations, directions)):
        raise Refused(f"its activations are not {len(activations)} for each direction")
    sequences = Sequences(node, to)
    if sequences.steps * len(directions) > _MOST_STEPS:
        raise Refused(
            f"its {sequences.steps:,} steps would make too large a graph unrolled; "
            f"{_MOST_STEPS // len(directions)} are the most",
            "Give the model a shorter sequence by shapes={...} (--shape).",
        )
    made = []
    for index, reverse in enumerate(directions):
        named = _activations(node, activations, directions)
        chosen = named[index * len(activations) : (index + 1) * len(activations)]
        made.append(_run(cell(node, to, index, chosen), sequences, index, reverse, states))
    _give(node, to, sequences, made, states)
    text = f"{sequences.steps:,} steps of it are unrolled"
    to.report.add("expanded", str(node), text)


def _run(
    cell: Rnn, sequences: Sequences, index: int, reverse: bool, states: int
) -> tuple[list[Reference], list[Reference]]:
    """Run one direction: give the result of each step in order of time, and the last states."""
    to = cell.to
    state = [sequences.initial(5 + number, index, cell.hidden) for number in range(states)]
    projected = sequences.projected(cell)
    results: dict[int, Reference] = {}
    order = range(sequences.steps)
    for time in reversed(order) if reverse else order:
        new = cell.step(projected(time), state)
        mask = sequences.mask(time)
        results[time] = new[0]
        if mask is not None:
            results[time] = to.apply("select", mask, new[0], 0.0)
            new = [to.apply("select", mask, *pair) for pair in zip(new, state, strict=True)]
        state = new
    return [results[time] for time in order], state


def _give(
    node: Node,
    to: Writer,
    sequences: Sequences,
    made: list[tuple[list[Reference], list[Reference]]],
    states: int,
) -> None:
    if is_used(to, node.output(0)):
        runs = [sequences.stacked(results, 0) for results, _ in made]
        whole = sequences.stacked(runs, 1)  # [steps, directions, batch, hidden]
        sequences.give(whole, (2, 0, 1, 3), node.output(0))
    for number in range(states):
        if is_used(to, node.output(1 + number)):
            last = sequences.stacked([state[number] for _, state in made], 0)
            sequences.give(last, (1, 0, 2), node.output(1 + number))


def _directions(node: Node) -> list[bool]:
    """Tell for each direction whether it runs from the end."""
    said = node.word("direction", "forward")
    known = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    if said not in known:
        raise Refused(f"its direction is {said!r}, which ONNX does not have")
    return known[said]


def _activations(node: Node, default: tuple[str, ...], directions: list[bool]) -> tuple[str, ...]:
    said = node.attributes.get("activations")
    if not said:
        return default * len(directions)
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in said
    )
