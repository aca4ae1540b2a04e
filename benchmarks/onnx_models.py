"""Compare opening, loading and saving a large ONNX model: ours against onnx and onnx-ir.

    python -m benchmarks.onnx_models --size 1536MiB --tensors 24 --rounds 3

Each case runs in a process of its own, whose peak memory (resident, mapped files included) stands
beside the time. Files are in the page cache; each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_EXTERNAL = "weights.data"


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="1536MiB")
    parser.add_argument("--tensors", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    size = int(given.size[:-3]) * _UNITS[given.size[-3:]]
    peers = [name for name in ("onnx", "onnx_ir") if importlib.util.find_spec(name)]
    print("| what | " + " | ".join(f"{peer} (s, MB)" for peer in peers) + " | ours (s, MB) | |")
    print("|---|" + "---:|" * (len(peers) + 1) + "---|")
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder), size, given.tensors)
        for what in _CASES:
            found = {
                who: _measured(f"{what} {who}", folder, given.rounds)
                for who in (*peers, "tensorkeep")
                if f"{what} {who}" in _RUNS
            }
            ours = found["tensorkeep"]
            cells = [f"{found[p][0]:.3f}, {found[p][1]:.0f}" if p in found else "-" for p in peers]
            ratios = ", ".join(
                f"{found[peer][0] / ours[0]:.1f}x {peer}" for peer in peers if peer in found
            )
            print(f"| {what} | {' | '.join(cells)} | {ours[0]:.4f}, {ours[1]:.0f} | {ratios} |")


def _make(folder: Path, size: int, tensors: int) -> None:
    """Write a model of square matrices, in one file and with external data."""
    import tensorkeep as tk
    from tensorkeep import models

    side = int((size / tensors / 4) ** 0.5)
    value = models.input("x", "float32", ["N", side])
    for place in range(tensors):
        weight = np.random.default_rng(place).random((side, side), np.float32)
        value = models.node("MatMul", value, weight)
    model = models.model([value], name="large")
    tk.save(model, folder / "one.onnx", external=False)
    tk.save(model, folder / "external.onnx", external=_EXTERNAL)
    (folder / "small").mkdir()
    small = models.model([models.node("Relu", models.input("x", "float32", ["N", side]))])
    tk.save(small, folder / "small" / "one.onnx")


def _measured(case: str, folder: str, rounds: int) -> tuple[float, float]:
    """Give the median of the seconds, and the most megabytes."""
    context = multiprocessing.get_context("spawn")
    found = []
    for _ in range(rounds):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(case, folder, sender))
        process.start()
        found.append(receiver.recv())
        process.join()
        for made in Path(folder).glob("made*"):
            made.unlink()
    return statistics.median(row[0] for row in found), max(row[1] for row in found)


def _run(case: str, folder: str, sender: Any) -> None:
    prepare, run = _RUNS[case]
    given = prepare(Path(folder))
    start = time.perf_counter()
    kept = run(given, Path(folder))
    seconds = time.perf_counter() - start
    sender.send((seconds, _peak()))
    del kept


def _peak() -> float:
    """Give the most resident memory of this process in megabytes.

    Not by getrusage, which also counts what the process was forked from.
    """
    with open("/proc/self/status", encoding="ascii") as lines:
        rows = dict(line.split(":", 1) for line in lines)
    return int(rows["VmHWM"].split()[0]) * 1024 / 1e6


Prepare = Callable[[Path], Any]
Run = Callable[[Any, Path], Any]


def _sum_onnx(model: Any) -> float:
    from onnx import numpy_helper

    return sum(float(numpy_helper.to_array(row).sum()) for row in model.graph.initializer)


def _onnx_load(name: str) -> Run:
    def run(_: Any, folder: Path) -> Any:
        import onnx

        return onnx.load(str(folder / name))

    return run


def _onnx_sum(_: Any, folder: Path) -> float:
    return _sum_onnx(_onnx_load("one.onnx")(None, folder))


def _onnx_save(model: Any, folder: Path) -> None:
    import onnx

    onnx.save_model(model, str(folder / "made.onnx"))


def _onnx_save_external(model: Any, folder: Path) -> None:
    import onnx

    onnx.save_model(
        model,
        str(folder / "made.onnx"),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="made.data",
    )


def _ir_load(name: str) -> Run:
    def run(_: Any, folder: Path) -> Any:
        import onnx_ir

        return onnx_ir.load(folder / name)

    return run


def _ir_sum(_: Any, folder: Path) -> float:
    model = _ir_load("one.onnx")(None, folder)
    values = model.graph.initializers.values()
    return sum(float(value.const_value.numpy().sum()) for value in values)


def _ir_save(model: Any, folder: Path) -> None:
    import onnx_ir

    onnx_ir.save(model, folder / "made.onnx")


def _ir_save_external(model: Any, folder: Path) -> None:
    import onnx_ir

    onnx_ir.save(model, folder / "made.onnx", external_data="made.data")


def _open(name: str) -> Run:
    def run(_: Any, folder: Path) -> Any:
        import tensorkeep as tk

        return tk.open(folder / name)

    return run


def _sum(_: Any, folder: Path) -> float:
    import tensorkeep as tk

    return sum(float(array.sum()) for array in tk.load(folder / "one.onnx").values())


def _save(model: Any, folder: Path) -> None:
    import tensorkeep as tk

    tk.save(model, folder / "made.onnx", external=False, durable=False)


def _save_external(model: Any, folder: Path) -> None:
    import tensorkeep as tk

    tk.save(model, folder / "made.onnx", external="made.data", durable=False)


def _warm(load: Run) -> Prepare:
    """Open a small model before the clock starts, so that it runs for the work, not for imports."""
    return lambda folder: load(None, folder / "small")


def _loaded(load: Run) -> Prepare:
    return lambda folder: load(None, folder)


_CASES = (
    "open",
    "open, external data",
    "load all, and sum",
    "save to one file",
    "save to external data",
    "save external data again",
)
_RUNS: dict[str, tuple[Prepare, Run]] = {
    "open onnx": (_warm(_onnx_load("one.onnx")), _onnx_load("one.onnx")),
    "open onnx_ir": (_warm(_ir_load("one.onnx")), _ir_load("one.onnx")),
    "open tensorkeep": (_warm(_open("one.onnx")), _open("one.onnx")),
    "open, external data onnx": (_warm(_onnx_load("one.onnx")), _onnx_load("external.onnx")),
    "open, external data onnx_ir": (_warm(_ir_load("one.onnx")), _ir_load("external.onnx")),
    "open, external data tensorkeep": (_warm(_open("one.onnx")), _open("external.onnx")),
    "load all, and sum onnx": (_warm(_onnx_load("one.onnx")), _onnx_sum),
    "load all, and sum onnx_ir": (_warm(_ir_load("one.onnx")), _ir_sum),
    "load all, and sum tensorkeep": (_warm(_open("one.onnx")), _sum),
    "save to one file onnx": (_loaded(_onnx_load("one.onnx")), _onnx_save),
    "save to one file onnx_ir": (_loaded(_ir_load("one.onnx")), _ir_save),
    "save to one file tensorkeep": (_loaded(_open("one.onnx")), _save),
    "save to external data onnx": (_loaded(_onnx_load("one.onnx")), _onnx_save_external),
    "save to external data onnx_ir": (_loaded(_ir_load("one.onnx")), _ir_save_external),
    "save to external data tensorkeep": (_loaded(_open("one.onnx")), _save_external),
    "save external data again onnx": (_loaded(_onnx_load("external.onnx")), _onnx_save_external),
    "save external data again onnx_ir": (_loaded(_ir_load("external.onnx")), _ir_save_external),
    "save external data again tensorkeep": (_loaded(_open("external.onnx")), _save_external),
}


if __name__ == "__main__":
    main()
