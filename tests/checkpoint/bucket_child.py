"""What children of the tests do in a bucket: see `tests.crash.zygote`."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from tests.checkpoint.bucket_runs import state
from tests.crash.zygote import Tell

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError


def run(job: dict[str, Any], tell: Tell) -> None:
    """Save steps until killed, or try each of some steps once."""
    os.environ.update(job["environment"])
    if "race" in job:
        race(job, tell)
        return
    checkpointer = tk.Checkpointer(job["url"], keep="last=2", rng=False, **job["options"])
    restored = checkpointer.restore()
    step = 1 if restored is None else restored.step + (not job["again"])
    while True:
        tell("begun", step)
        saving = checkpointer.save(step, state(step), overwrite=True)
        saving.wait()
        tell("saved", step)
        step += 1


def race(job: dict[str, Any], tell: Tell) -> None:
    """Save steps that others try to save too, all beginning at the same time."""
    draw = random.Random(job["race"])
    time.sleep(max(0.0, job["at"] - time.time()))
    won = []
    for step in job["steps"]:
        try:
            with tk.Checkpointer(job["url"], rng=False) as checkpointer:
                time.sleep(draw.uniform(0, 0.02))
                checkpointer.save(step, state(1000 * job["race"] + step))
            won.append(step)
        except TensorKeepError as error:
            if "another" not in str(error) and "already" not in str(error):
                raise
    tell("won", won)
