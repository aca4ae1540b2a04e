"""Worker processes, each a new interpreter: how one is started, how it ended, when it has to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

from tensorkeep.errors import ArgumentError

_SIGNALS = {number.value: number.name for number in signal.Signals}


def start(process: SpawnProcess, cure: str) -> None:
    """Start a process in which Ctrl-C waits until it is ignored, so that no worker reports it.

    Args:
        process: which.
        cure: what to do where none can be started.

    Raises:
        ArgumentError: a daemon of multiprocessing's own may start none.
    """
    resource_tracker.ensure_running()  # or the start below would, and let the signal through
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    except AssertionError as error:
        raise ArgumentError(
            f"worker processes cannot be started here: {error}", cure=cure
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def how_ended(code: int | None) -> str:
    """Say what an exit code means, to go on a message about a process with.

    >>> how_ended(-9), how_ended(3), how_ended(None)
    ('was ended by SIGKILL', 'ended with exit code 3', 'stopped answering')
    """
    if code is None:
        return "stopped answering"
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {_SIGNALS.get(-code, f'signal {-code}')}"


def end_with_parent() -> None:
    """Have this process end at once when its parent does, however that ends, whatever is done."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
