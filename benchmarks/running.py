"""Compare loading a model to run it: ours against `onnxruntime.InferenceSession(path)`.

    python -m benchmarks.running --size 1GiB --layers 16 --rounds 3

Each case is a process of its own, which runs the model once after loading it. The time is that of
loading; the memory is the peak of what was taken beyond imports and mapped files. `Gather` looks up
rows of its weights, of which ONNX Runtime keeps no second copy; `MatMul` packs them anew.
Files are in the page cache; each figure is the median of the rounds. Ratios above 1 are in our
favour.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_OPERATORS = ("Gather", "MatMul")
_FORMS = ("one file", "external")


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="1GiB")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    size = int(given.size[:-3]) * _UNITS[given.size[-3:]]
    print("| what | onnxruntime (s, MB) | ours (s, MB) | time | memory |")
    print("|---|---:|---:|---:|---:|")
    for operator in _OPERATORS:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), operator, size, given.layers)
            for form in _FORMS:
                path = Path(folder) / f"{form.partition(' ')[0]}.onnx"
                rows = {who: ([], []) for who in ("plain", "ours")}  # type: ignore[var-annotated]
                for _ in range(given.rounds):
                    for who, (times, peaks) in rows.items():
                        taken, peak = _measure(who, path)
                        times.append(taken)
                        peaks.append(peak)
                (t, m), (t2, m2) = (tuple(map(statistics.median, row)) for row in rows.values())
                print(
                    f"| {operator}, {form} | {t:.3f}, {m:.0f} | {t2:.3f}, {m2:.0f} | "
                    f"{t / t2:.2f}x | {m / max(m2, 1):.2f}x |"
                )


def make(folder: Path, operator: str, size: int, layers: int) -> None:
    """Write a model of square matrices, in one file and with external data."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    import tensorkeep as tk

    side = int((size / layers / 4) ** 0.5)
    rng = np.random.default_rng(0)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", side])]
    nodes, tensors = [], []
    if operator == "Gather":
        inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])]
    parts = []
    for layer in range(layers):
        weight = rng.standard_normal((side, side), np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{layer}"))
        feed = [f"w{layer}", "x"] if operator == "Gather" else ["x", f"w{layer}"]
        nodes.append(helper.make_node(operator, feed, [f"h{layer}"]))
        parts.append(f"h{layer}")
    nodes.append(helper.make_node("Sum", parts, ["y"]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", side])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "one.onnx")
    with tk.open(folder / "one.onnx") as state:
        tk.save(state, folder / "external.onnx", external=True)


def _measure(who: str, path: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.running", who, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, peak = done.stdout.split()
    return float(taken), float(peak)


def _child(who: str, path: str) -> None:
    """Load and run a model once; prints the seconds and the peak in MB."""
    import onnxruntime

    from tensorkeep.models.running import session

    def plain() -> object:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def ours() -> object:
        return session(path).runtime

    Path(path).read_bytes()  # into the page cache
    before = peak = _anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    loaded = (plain if who == "plain" else ours)()
    taken = time.perf_counter() - start
    entry = loaded.get_inputs()[0]  # type: ignore[attr-defined]
    whole = entry.type == "tensor(int64)"
    x = np.zeros(2, np.int64) if whole else np.ones((2, entry.shape[1]), np.float32)
    loaded.run(None, {"x": x})  # type: ignore[attr-defined]
    peak = max(peak, _anonymous())
    done.set()
    watcher.join()
    print(taken, (peak - before) / 1e6)


def _anonymous() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] in (["plain"], ["ours"]):
        _child(*sys.argv[1:3])
    else:
        main()
