"""The training as a process of its own, which can be killed for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tensorkeep.errors import TensorKeepError

Process = subprocess.Popen[str]

_WATCH = 0.0002  # seconds between two looks; a save of this state takes several milliseconds
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the process tells at the end of an epoch."""

    epoch: int
    step: int
    loss: float
    accuracy: float


@contextmanager
def training(folder: Path, data: Path, epochs: int) -> Iterator[Process]:
    """Run the training on some data up to an epoch; it never outlives this context."""
    places = [str(folder.absolute()), str(data.absolute())]
    command = [sys.executable, "-P", "-m", "tensorkeep.demo", *places, str(epochs)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        process_group=0,  # Ctrl-C reaches the demo, which ends it
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _environment() -> dict[str, str]:
    """Import what we import, whatever the folder; one thread, so that sums always round alike."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, **dict.fromkeys(_THREADS, "1")}


def epochs_of(process: Process) -> Iterator[Epoch]:
    """Give the epochs as they end, until the process does.

    Raises:
        TensorKeepError: it failed; the message is its own last line.
    """
    for line in process.stdout or ():
        yield Epoch(**json.loads(line))
    if status := process.wait():
        said = process.stderr.read() if process.stderr else ""
        words = said.strip().rpartition("\n")[2]
        raise TensorKeepError(f"the training process ended with status {status}: {words}")


def kill_in_save(process: Process, folder: Path) -> Path | None:
    """Send SIGKILL once a save in a folder has begun.

    Returns:
        The unfinished checkpoint that it left, which proves that the save was under way; None
        where the save, or the process, was over before the signal arrived.
    """
    while process.poll() is None and not unfinished(folder):
        time.sleep(_WATCH)
    process.kill()
    process.wait()
    return next(iter(unfinished(folder)), None)


def unfinished(folder: Path) -> list[Path]:
    """List the hidden checkpoints that a save is writing, or was when it was killed."""
    return list(folder.glob(".step-????????.????????.*.tmp"))
