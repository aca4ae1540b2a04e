"""`save` over one path: a child saves one state after another and announces each.

It is killed after a random time. What lies at the path then has to be the whole state of the last
step that it said was saved, or of the next.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk

CHILD = """
import sys
import tensorkeep as tk
from tests.crash.saves import state
path, options = sys.argv[1], eval(sys.argv[2])
for step in range(10**9):
    tk.save(state(step), path, **options)
    print(step, flush=True)
"""


def state(step: int) -> dict[str, Any]:
    """Make the state of a step: its size and every value follow from the number."""
    draw = random.Random(step)
    sizes = [draw.choice([0, 1, 1000, 30_000, 400_000]) for _ in range(4)]
    return {
        "step": step,
        "layers": [np.full(size, step % 251, np.int32) for size in sizes],
        "note": "x" * draw.randrange(50),
    }


def is_whole(found: Any) -> bool:
    """Say whether a loaded state is exactly that of its own step."""
    expected = state(found["step"])
    return (
        found.keys() == expected.keys()
        and found["note"] == expected["note"]
        and all(map(np.array_equal, found["layers"], expected["layers"]))
    )


def trial(folder: Path, delay: float, **options: Any) -> str:
    """Kill one child `delay` seconds after its first save; give what is wrong, or "".

    Raises:
        tensorkeep.TensorKeepError: what the child left cannot be loaded.
    """
    path = folder / "state.safetensors"
    command = [sys.executable, "-c", CHILD, str(path), repr(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        announced = [child.stdout.readline()]
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        announced += child.stdout.read().splitlines()
    last = max(int(line) for line in announced if line.strip())
    found = tk.load(path if path.exists() else folder, verify=True)
    if not is_whole(found):
        return f"step {found['step']} is not whole"
    if found["step"] not in (last, last + 1):
        return f"step {found['step']} is there after {last} was announced"
    tk.save(state(last + 2), path, **options)
    left = sorted(f.name for f in folder.iterdir() if f.name.startswith("."))
    return f"the next save leaves {left}" if left else ""


def run(trials: int, seed: int) -> int:
    """Run trials and report; gives how many went wrong."""
    draw = random.Random(seed)
    bad = 0
    for number in range(trials):
        options: dict[str, Any] = {"durable": draw.random() < 0.5}
        if draw.random() < 0.5:
            options["max_shard_size"] = 500_000
        with tempfile.TemporaryDirectory() as folder:
            try:
                problem = trial(Path(folder), draw.uniform(0, 0.05), **options)
            except tk.TensorKeepError as error:
                problem = f"{type(error).__name__}: {error}"
        if problem:
            bad += 1
            sys.stdout.write(f"trial {number} {options}: {problem}\n")
    sys.stdout.write(f"{trials - bad} of {trials} kills left a whole state\n")
    return bad
