"""Write an LSTM, as an operator and as a Scan over its steps; both give the numbers of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

import tensorkeep as tk
from tensorkeep import models

STEPS, BATCH, WIDTH, HIDDEN = 7, 3, 4, 5


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"W": (4 * HIDDEN, WIDTH), "R": (4 * HIDDEN, HIDDEN), "B": (4 * HIDDEN,)}
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def by_operator(arrays: dict[str, Any]) -> tk.State:
    x = models.input("x", "float32", [STEPS, "N", WIDTH])
    bias = np.concatenate([arrays["B"], np.zeros_like(arrays["B"])])  # of the input, of the state
    all_steps, last = models.node(
        "LSTM", x, arrays["W"][None], arrays["R"][None], bias[None], hidden_size=HIDDEN, outputs=2
    )
    steps = models.node("Squeeze", all_steps, [1])  # there is one direction
    return models.model({"steps": steps, "last": models.node("Squeeze", last, [0])}, name="lstm")


def by_scan(arrays: dict[str, Any]) -> tk.State:
    h = models.input("h", "float32", ["N", HIDDEN])
    c = models.input("c", "float32", ["N", HIDDEN])
    now = models.input("now", "float32", ["N", WIDTH])
    gates = now @ arrays["W"].T + h @ arrays["R"].T + arrays["B"]
    i, o, f, new = models.node("Split", gates, outputs=4, axis=1)
    next_c = models.node("Sigmoid", f) * c + models.node("Sigmoid", i) * models.node("Tanh", new)
    next_h = models.node("Sigmoid", o) * models.node("Tanh", next_c)
    step = models.body([h, c, now], [next_h, next_c, next_h])

    x = models.input("x", "float32", [STEPS, "N", WIDTH])
    rows = models.node("Gather", models.node("Shape", x), [1])
    start = models.node("Expand", 0.0, models.node("Concat", rows, [HIDDEN], axis=0))
    last, _, steps = models.node("Scan", start, start, x, outputs=3, body=step, num_scan_inputs=1)
    outputs = {
        "steps": steps.typed("float32", [STEPS, "N", HIDDEN]),
        "last": last.typed("float32", ["N", HIDDEN]),
    }
    return models.model(outputs, name="lstm")


def by_numpy(arrays: dict[str, Any], x: Any) -> Any:
    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    h = c = np.zeros((BATCH, HIDDEN), "float32")
    steps = []
    for now in x:
        gates = now @ arrays["W"].T + h @ arrays["R"].T + arrays["B"]
        i, o, f, new = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
        steps.append(h)
    return np.stack(steps)


def main() -> None:
    arrays = weights()
    x = np.random.default_rng(1).standard_normal((STEPS, BATCH, WIDTH)).astype("float32")
    expected = by_numpy(arrays, x)
    for name, built in (("operator", by_operator(arrays)), ("scan", by_scan(arrays))):
        found = models.run(built, {"x": x})
        print(f"{name}: {built.graph}")
        same = np.allclose(found["steps"], expected, atol=1e-5)
        same &= np.allclose(found["last"], expected[-1], atol=1e-5)
        print(f"{name}: the same numbers as NumPy: {same}")


if __name__ == "__main__":
    main()
