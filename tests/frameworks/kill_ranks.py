"""Kill ranks that save: whatever the instant, the newest checkpoint is whole, and the next goes on.

    python -m tests.frameworks.kill_ranks 50

Two ranks save one step after another through PyTorch's distributed checkpoint. One of them is
killed at a random instant; the other has to end with an error that names it, soon. Then the newest
checkpoint has to be the last one that was announced, or the one after it, to the last bit, and two
new ranks go on from there in the same folder.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.frameworks import ranks, sharded

import tensorkeep as tk

_STEPS = 10_000


def run(kills: int, folder: Path, seed: int = 0) -> list[str]:
    """Kill so often, and say what was wrong."""
    draw = random.Random(seed)
    faults: list[str] = []
    last = 0
    for kill in range(kills):
        killed = draw.randrange(2)
        group = ranks.Ranks(sharded.train, 2, folder / "ranks", str(folder), last + 1, _STEPS)
        _wait_for(folder, last + 1)
        time.sleep(draw.uniform(0, 0.25))
        group.kill(killed)
        found = group.results(30)[1 - killed]
        told = found["value"] if isinstance(found, dict) else str(found)
        if f"rank {killed} of 2 has not" not in told and "lost one another" not in told:
            faults.append(f"kill {kill}: the other rank says {told}")
        announced = _saved(folder)
        names = sorted(path.name for path in folder.glob("step-*"))
        newest = int(names[-1].removeprefix("step-"))
        if newest not in (announced, announced + 1):
            faults.append(f"kill {kill}: {announced} was announced, {newest} is the newest")
        for step in {newest, announced}:
            state = tk.load(folder / f"step-{step}", verify=True, framework="numpy")
            if state["step"] != step or not np.all(state["w"] == step):
                faults.append(f"kill {kill}: step {step} is not what was saved")
        last = newest
    left = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
    if len(left) > 1:  # the last coordinator had nobody after it
        faults.append(f"left behind: {left}")
    return faults


def _saved(folder: Path) -> int:
    note = folder / ".saved"
    return int(note.read_text() or 0) if note.exists() else 0


def _wait_for(folder: Path, step: int) -> None:
    until = time.monotonic() + 60
    while _saved(folder) < step and time.monotonic() < until:
        time.sleep(0.005)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as work:
        wrong = run(count, Path(work))
    sys.stdout.write("\n".join([*wrong, f"{count} kills, {len(wrong)} lost\n"]))
    sys.exit(bool(wrong))
