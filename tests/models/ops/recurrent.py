"""References for what goes through time, step by step."""

from __future__ import annotations

import numpy as np
from tests.models.ops.feeds import Array, Feeds


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _parts(given: Feeds, gates: int) -> tuple[Array, Array, Array, Array]:
    w, r = given["W"][0].astype(np.float64), given["R"][0].astype(np.float64)
    half = len(given["B"][0]) // 2
    return w, r, given["B"][0, :half].astype(np.float64), given["B"][0, half:].astype(np.float64)


def rnn(given: Feeds) -> list[Array]:
    w, r, b, rb = _parts(given, 1)

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        return np.tanh(x @ w.T + h @ r.T + b + rb), c

    return _through(given, len(r), step)[:2]


def gru(given: Feeds) -> list[Array]:
    w, r, b, rb = (np.split(part, 3) for part in _parts(given, 3))

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        z, g = (sigmoid(x @ w[k].T + h @ r[k].T + b[k] + rb[k]) for k in (0, 1))
        new = np.tanh(x @ w[2].T + (g * h) @ r[2].T + b[2] + rb[2])
        return (1 - z) * new + z * h, c

    return _through(given, len(r[0]), step)[:2]


def lstm(given: Feeds) -> list[Array]:
    w, r, b, rb = (np.split(part, 4) for part in _parts(given, 4))

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        i, o, f, n = (x @ w[k].T + h @ r[k].T + b[k] + rb[k] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(n)
        return sigmoid(o) * np.tanh(c), c

    return _through(given, len(r[0]), step)


def _through(given: Feeds, hidden: int, step) -> list[Array]:  # type: ignore[no-untyped-def]
    x = given["X"].astype(np.float64)
    lengths = given.get("lengths", np.full(x.shape[1], len(x)))
    h = c = np.zeros((x.shape[1], hidden))
    shown = np.zeros((len(x), 1, x.shape[1], hidden))
    for t in range(len(x)):
        live = (t < lengths)[:, None]
        new_h, new_c = step(x[t], h, c)
        h, c = np.where(live, new_h, h), np.where(live, new_c, c)
        shown[t, 0] = np.where(live, new_h, 0)
    return [shown, h[None], c[None]]
