"""`Checkpointer`: a child saves one step after another, and announces each that is committed.

It is killed after a random time. A new Checkpointer then has to find the last step that was
announced, or a newer one, to the last byte; then the next child goes on in the same folder. Some
children leave a child of their own behind, which holds all that they had open for a while.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests.crash.zygote import Tell, Zygote

import tensorkeep as tk
from tensorkeep import syscalls
from tensorkeep.checkpoint.disk import DiskFolder as Folder

KILLS = 5  # in each folder
_KEEP = "last=2"
_MODES: dict[str, dict[str, bool]] = {
    "waiting": {},
    "background": {"background": True},
    "fenced": {"background": True, "fenced": True},
}


def state(step: int) -> dict[str, Any]:
    """Make the state of a step; a part of it changes once in nine steps only."""
    draw = random.Random(step)
    sizes = [draw.choice([0, 1, 1000, 30_000, 300_000]) for _ in range(5)]
    return {
        "frozen": [np.full(150_000 + i, step // 9, np.int32) for i in range(3)],
        "layers": [np.full(size, step, np.int32) for size in sizes],
        "note": "x" * draw.randrange(50),
        "step": step,
    }


def is_state(found: Any, step: int) -> bool:
    """Say whether what was loaded is exactly the state of a step."""
    expected = state(step)
    return found.keys() == expected.keys() and all(
        all(map(np.array_equal, found[name], value)) and len(found[name]) == len(value)
        if isinstance(value, list)
        else found[name] == value
        for name, value in expected.items()
    )


def run(job: dict[str, Any], tell: Tell) -> None:
    """Save for ever, in the child."""
    if not job["swaps"]:
        syscalls.exchange = _no_exchange
    checkpointer = tk.Checkpointer(job["folder"], keep=_KEEP, **job["options"])
    restored = checkpointer.restore()
    # Now and then the newest is saved again, in the place of itself.
    step = 0 if restored is None else restored.step + (not job["again"])
    if job["orphan"] and os.fork() == 0:
        os.close(1)
        time.sleep(1)
        os._exit(0)
    while True:
        given = state(step)
        tell("begun", step)
        saving = checkpointer.save(step, given, overwrite=True)
        checkpointer.fence()
        for array in given["frozen"] + given["layers"]:
            array += 1  # as training on does
        saving.wait()
        tell("saved", step)
        step += 1


def _no_exchange(one: str, other: str) -> None:
    raise OSError(errno.ENOSYS, "not implemented")


def kill(children: Zygote, folder: Path, last: int, draw: random.Random, mode: str) -> Any:
    """Have a child save in a folder, and kill it.

    Returns:
        The last step that is announced, now or before; the last one begun; how far it got.
    """
    children.start(
        folder=str(folder),
        swaps=draw.random() < 0.7,
        again=draw.random() < 0.4,
        orphan=draw.random() < 0.2,
        options={
            **_MODES[mode],
            "durable": draw.random() < 0.7,
            "max_shard_size": draw.choice([None, 500_000]),
        },
    )
    told = children.kill(draw.uniform(0, 0.25))
    saved = [step for word, step in told if word == "saved"]
    begun = [step for word, step in told if word == "begun"]
    how = "before a save" if not told else "between saves" if told[-1][0] == "saved" else "in it"
    return max([last, *saved]), max([last, *begun]), how


def look(folder: Path, last: int, begun: int, go_on: bool) -> Iterator[str]:
    """Look at what a killed child has left, and say what is wrong with it.

    Args:
        folder: of the checkpoints.
        last: the last step that was announced; -1 for none.
        begun: the last one that may be there.
        go_on: whether to save the next step there.
    """
    with tk.Checkpointer(folder, keep=_KEEP, durable=False) as checkpointer:
        if left := Folder(folder).leftovers():
            yield f"{left} are left"
        restored = checkpointer.restore()
        found = -1 if restored is None else restored.step
        if not last <= found <= begun:
            yield f"step {found} is there after {last} was announced and {begun} begun"
        for row in checkpointer.checkpoints():
            if not (row.ok and tk.verify(row.path).ok):
                yield f"step {row.step} is not whole: {row.problem}"
            elif not is_state(tk.load(row.path), row.step):
                yield f"step {row.step} is not what was saved"
        if restored is not None and not is_state(restored.state, found):
            yield f"what is restored is not step {found}"
        if go_on:
            checkpointer.save(found + 1, state(found + 1))
    steps = [row.step for row in tk.checkpoints(folder)]
    if go_on and steps != [step for step in (found, found + 1) if step >= 0]:
        yield f"{steps} are there after {found + 1} was saved"


def trials(count: int, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Kill children.

    Returns:
        For each way to save, how many children died where; and what went wrong.
    """
    draw = random.Random(seed)
    died: dict[str, Counter[str]] = {mode: Counter() for mode in _MODES}
    wrong: list[str] = []
    with Zygote(__name__) as children, warnings.catch_warnings(action="error"):
        for first in range(0, count, KILLS):
            with tempfile.TemporaryDirectory() as name:
                last = begun = -1
                for number in range(first, min(first + KILLS, count)):
                    mode = draw.choice(list(_MODES))
                    last, begun, how = kill(children, Path(name), last, draw, mode)
                    died[mode][how] += 1
                    try:
                        go_on = draw.random() < 0.5
                        found = list(look(Path(name), last, begun, go_on))
                    except (tk.TensorKeepError, Warning) as error:
                        found = [f"{type(error).__name__}: {error}"]
                    wrong += [f"kill {number}, {mode}, {how}: {text}" for text in found]
                    died[mode]["wrong"] += bool(found)
                    if found:
                        break
                    last = tk.checkpoints(name)[-1].step if tk.checkpoints(name) else -1
    return died, wrong


def report(count: int, seed: int) -> int:
    """Run trials and print a table; gives how many went wrong."""
    died, wrong = trials(count, seed)
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    places = ("before a save", "in it", "between saves")
    lines = ["| saving | kills | before a save | in it | between saves | wrong afterwards |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for mode, counts in died.items():
        cells = [sum(counts[p] for p in places), *(counts[p] for p in places), counts["wrong"]]
        lines.append(f"| {mode} | {' | '.join(map(str, cells))} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return sum(counts["wrong"] for counts in died.values())
