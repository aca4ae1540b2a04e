"""A training that is killed after every step, before the next: nothing comes twice or never."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk

# Each child goes on from the last checkpoint, commits one step, begins the next and is killed.
CHAIN = """
import os, signal, sys
import numpy as np
import tensorkeep as tk
import tensorkeep.data

folder, data, prefetch, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def train():
    ranks = [
        tk.Batches(data, 2, shuffle=True, seed=3, prefetch=prefetch, rank=rank, world=2)
        for rank in range(2)
    ]
    seen = []
    with tk.Checkpointer(folder, keep="last=1", rng=False) as ck:
        restored = ck.restore()
        first = 0
        if restored:
            seen, first = list(restored.state["seen"]), restored.step
            for batches in ranks:
                batches.load_state_dict(restored.state["data"])
        loops, step = [iter(batches) for batches in ranks], first
        while True:
            read = []
            for rank, batches in enumerate(ranks):
                batch = next(loops[rank], None)
                if batch is None:
                    loops[rank] = iter(batches)
                    batch = next(loops[rank])
                read += batch["x"].tolist()
            if step == first + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(read)
            step += 1
            ck.save(step, {"seen": seen, "data": ranks[0]})

for _ in range(steps):
    child = os.fork()
    if not child:
        train()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), status
"""


@pytest.mark.parametrize("prefetch", [2])
def test_killed_at_every_step_of_two_epochs(prefetch: int, tmp_path: Path) -> None:
    count = 26  # 7 steps of 4 samples, the last one short
    data = tmp_path / "train.npz"
    tk.save({"x": np.arange(count)}, data)
    folder = tmp_path / "run"
    subprocess.run(
        [sys.executable, "-c", CHAIN, folder, data, str(prefetch), "14"], check=True, timeout=120
    )
    with tk.Checkpointer(folder, rng=False) as ck:
        restored = ck.restore()
    assert restored is not None
    whole = tk.Batches(data, 4, shuffle=True, seed=3)
    expected = [batch["x"].tolist() for _ in whole.epochs(2) for batch in whole]
    assert json.loads(json.dumps(restored.state["seen"])) == expected
    assert restored.state["data"]["epoch"] == 1
    assert restored.state["data"]["sample"] == count
