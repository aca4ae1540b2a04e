"""Recurrent nets of Caffe2, against loops over steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.models.exchange.arrays import floats, int32s
from tests.models.exchange.caffe2_nets import check, model, net, op, outputs_of, translated

from tensorkeep.errors import TranslationError
from tensorkeep.message import Message

RANDOM = np.random.default_rng(5)
STEPS, BATCH, SIZE = 6, 3, 4
X = RANDOM.normal(size=(STEPS, BATCH, 5)).astype(np.float32)
LENGTHS = int32s([6, 2, 4])


def numbers(*shape: int) -> Any:
    return (RANDOM.normal(size=shape) * 0.7).astype(np.float32)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def recurrent(
    step: Message, states: list[tuple[str, str, str]], references: str, **more: Any
) -> Message:
    """Make a RecurrentNetwork as Caffe2's rnn_cell does: states are before, after, initial."""
    initial = " ".join(state[2] for state in states)
    links = [("input_t", "i2h", 0)]
    aliases: list[tuple[str, str, int]] = []
    for before, after, _ in states:
        links += [(before, f"{before}_states", 0), (after, f"{before}_states", 1)]
        aliases += [
            (f"{before}_states", f"{after}_all", 1),
            (f"{before}_states", f"{after}_last", -1),
        ]
    made = " ".join(alias[1] for alias in aliases)
    words: dict[str, Any] = {
        "alias_src": [row[0] for row in aliases],
        "alias_dst": [row[1] for row in aliases],
        "alias_offset": [row[2] for row in aliases],
        "recurrent_states": [f"{state[0]}_states" for state in states],
        "initial_recurrent_state_ids": list(range(1, len(states) + 1)),
        "link_internal": [row[0] for row in links],
        "link_external": [row[1] for row in links],
        "link_offset": [row[2] for row in links],
        "step_net": step,
        "timestep": "timestep",
        "outputs_with_grads": [0],
        "enable_rnn_executor": 1,
    }
    inputs = f"i2h {initial} {references}"
    return op("RecurrentNetwork", inputs, f"{made} step_workspaces", **{**words, **more})


def lstm_step(unit: str = "h c gates lengths timestep", **words: Any) -> Message:
    return net(
        op("FC", "h gates_w gates_b", "gates", axis=2),
        op("Sum", "gates input_t", "gates"),
        op("LSTMUnit", unit, "h_t c_t", **words),
    )


W = {"i2h_w": numbers(4 * SIZE, 5), "i2h_b": numbers(4 * SIZE)}
G = {"gates_w": numbers(4 * SIZE, SIZE), "gates_b": numbers(4 * SIZE)}


def lstm(h: Any, c: Any, lengths: Any, bias: float, drops: bool) -> dict[str, Any]:
    hs, cs = [h], [c]
    for t in range(STEPS):
        gates = X[t] @ W["i2h_w"].T + W["i2h_b"] + h @ G["gates_w"].T + G["gates_b"]
        i, f, o, g = np.split(gates, 4, axis=1)
        cell = sigmoid(f + bias) * c + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        running = (t < lengths)[:, None]
        c = np.where(running, cell, 0 if drops else c)
        h = np.where(running, hidden, 0 if drops else h)
        hs.append(h)
        cs.append(c)
    made = {"h_t_all": hs[1:], "h_t_last": hs[-1:], "c_t_all": cs[1:], "c_t_last": cs[-1:]}
    return {name: np.array(rows, np.float32) for name, rows in made.items()}


STATES = [("h", "h_t", "h0"), ("c", "c_t", "c0")]


@pytest.mark.parametrize("drops", [False, True])
def test_lstm(drops: bool) -> None:
    h0, c0 = numbers(SIZE), numbers(BATCH, SIZE)  # a vector is the state of the whole batch
    ops = [
        op("FC", "x i2h_w i2h_b", "i2h", axis=2),
        recurrent(
            lstm_step(forget_bias=1.5, drop_states=drops),
            STATES,
            "gates_w gates_b lengths",
        ),
    ]
    expected = lstm(np.tile(h0, (BATCH, 1)), c0, LENGTHS, 1.5, drops)
    weights = {**W, **G, "h0": h0, "c0": c0}
    state = model(*ops, weights=weights, outputs="h_t_all h_t_last c_t_all c_t_last")
    check(state, {"x": X, "lengths": LENGTHS}, expected, needs="rank")


def test_lstm_without_lengths_as_text_and_other_parts_of_its_states() -> None:
    h0, c0 = numbers(1, BATCH, SIZE), numbers(BATCH, SIZE)
    step = lstm_step("h c gates timestep", sequence_lengths=0)
    made = recurrent(step, STATES, "gates_w gates_b", step_net=step.to_text())
    offsets = next(row for row in made.arg if row.name == "alias_offset")
    offsets["ints"] = [0, -2, 3, -1]
    ops = [op("FC", "x i2h_w i2h_b", "i2h", axis=2), made]
    whole = lstm(h0[0], c0, np.full(BATCH, STEPS), 0.0, False)
    expected = {
        "h_t_all": np.concatenate([h0, whole["h_t_all"]]),
        "h_t_last": whole["h_t_all"][-2:],
        "c_t_all": whole["c_t_all"][2:],
        "c_t_last": whole["c_t_last"],
    }
    state = model(*ops, weights={**W, **G, "h0": h0, "c0": c0}, outputs=" ".join(expected))
    check(state, {"x": X}, expected, needs="rank")


def test_gru_and_its_stacking() -> None:
    fcs = {
        f"{name}_{end}": numbers(*([SIZE] * (2 if end == "w" else 1)))
        for name in "ruo"
        for end in "wb"
    }
    step = net(
        op("Split", "input_t", "ir iu io", axis=2),
        op("FC", "h r_w r_b", "r", axis=2),
        op("FC", "h u_w u_b", "u", axis=2),
        op("Sum", "r ir", "r"),
        op("Sigmoid", "r", "rs"),
        op("Mul", "rs h", "hm"),
        op("FC", "hm o_w o_b", "o", axis=2),
        op("Sum", "u iu", "u"),
        op("Sum", "o io", "o"),
        op("Concat", "r u o", "g gdims", axis=2),
        op("GRUUnit", "h g lengths timestep", "h_t", forget_bias=0.0),
    )
    weights = {"i2h_w": numbers(3 * SIZE, 5), "i2h_b": numbers(3 * SIZE), **fcs}
    h = h0 = numbers(BATCH, SIZE)
    made = []
    for t in range(STEPS):
        r, u, o = np.split(X[t] @ weights["i2h_w"].T + weights["i2h_b"], 3, axis=1)
        reset = sigmoid(r + h @ fcs["r_w"].T + fcs["r_b"])
        update = sigmoid(u + h @ fcs["u_w"].T + fcs["u_b"])
        out = np.tanh(o + (reset * h) @ fcs["o_w"].T + fcs["o_b"])
        h = np.where((t < LENGTHS)[:, None], h * update + out * (1 - update), h)
        made.append(h)
    ops = [
        op("FC", "x i2h_w i2h_b", "i2h", axis=2),
        recurrent(step, [("h", "h_t", "h0")], f"{' '.join(fcs)} lengths"),
        op("Relu", "h_t_all", "y"),
    ]
    state = model(*ops, weights={**weights, "h0": h0}, outputs="y h_t_last")
    expected = {"y": np.maximum(floats(made), 0), "h_t_last": floats(made[-1:])}
    check(state, {"x": X, "lengths": LENGTHS}, expected, needs="rank")


def test_sequences_reversed() -> None:
    turned = X.copy()
    for i, length in enumerate(LENGTHS):
        turned[:length, i] = X[:length, i][::-1]
    feeds = {"x": X, "lengths": LENGTHS}
    check(model(op("ReversePackedSegs", "x lengths", "y")), feeds, {"y": turned})


def test_single_steps() -> None:
    h, c, gates = numbers(1, 3, 2), numbers(1, 3, 2), numbers(1, 3, 8)
    time = int32s([3])
    ops = [
        op("LSTMUnit", "h c gates n t", "h1 c1", forget_bias=1.0),
        op("GRUUnit", "h g n t", "h2", drop_states=1),
    ]
    i, f, o, g = np.split(gates, 4, 2)
    running = (time < LENGTHS)[:, None]
    cell = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    update = sigmoid(gates[..., 2:4])
    fresh = h * update + np.tanh(gates[..., 4:6]) * (1 - update)
    expected = {
        "h1": np.where(running, sigmoid(o) * np.tanh(cell), h),
        "c1": np.where(running, cell, c),
        "h2": np.where(running, fresh, 0).astype(np.float32),
    }
    feeds = {"h": h, "c": c, "gates": gates, "g": gates[..., :6].copy(), "n": LENGTHS, "t": time}
    check(model(*ops), feeds, expected)
    assert outputs_of(model(ops[1]), {n: feeds[n] for n in "hgnt"})["h2"].shape == h.shape


BAD: list[tuple[Message, dict[str, Any], str]] = [
    (net(op("MILSTMUnit", "h", "h_t c_t")), {}, "its step_net has the operator MILSTMUnit, of"),
    (lstm_step(), {"link_window": [2] * 5}, "it has a link of the offset 0 and the window 2"),
    (lstm_step(), {"alias_src": ["i2h"] * 4}, "it has an alias of 'i2h', which is no state"),
    (lstm_step(), {"recurrent_states": ["a"]}, "it has 1 states and 2 initial ones"),
    (lstm_step(), {"link_external": ["i2h"] * 5}, "it has a link of the offset 1 to 'i2h'"),
    (lstm_step(), {"step_net": "op {"}, "its step_net is no net"),
    (lstm_step(), {"step_net": ""}, "it has no step_net"),
    (lstm_step("h c gates other timestep"), {}, "its step_net reads 'other', which is not among"),
    (net(op("Relu", "h", "h_t")), {}, "its step_net does not write 'c_t', and nothing else does"),
]


@pytest.mark.parametrize(("step", "words", "reason"), BAD)
def test_refusals(step: Message, words: dict[str, Any], reason: str) -> None:
    made = recurrent(step, STATES, "gates_w gates_b lengths", **words)
    state = model(made, weights={**G, "h0": numbers(SIZE), "c0": numbers(SIZE)}, outputs="h_t_all")
    with pytest.raises(TranslationError) as caught:
        translated(state, {"i2h": (STEPS, BATCH, 4 * SIZE)})
    assert reason in str(caught.value)
