"""Server processes: started on a free port, awaited, and ended with the tests whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

_PATIENCE = 60.0

# Linux ends the server with the tests also where those are killed outright. The command is started
# by way of a small process, because hooks that run between fork and exec are not safe with threads.
_END_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def free_port() -> int:
    """Give a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it answers on `port` when the block starts.

    Raises:
        RuntimeError: it ended or did not answer; the message holds what it printed.
    """
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches the tests alone, which then end it in order.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            _await(process, port, command)
        except RuntimeError as error:
            _stop(process)
            log.seek(0)
            output = log.read().decode(errors="replace").strip() or "nothing"
            raise RuntimeError(f"{error}; it printed:\n{output}") from None
        except BaseException:
            _stop(process)
            raise
        try:
            yield process
        finally:
            _stop(process)


def _await(process: subprocess.Popen[bytes], port: int, command: Sequence[str]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.03)
        else:
            return
    raise RuntimeError(f"{command[0]} did not listen on port {port} within {_PATIENCE:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 1), (signal.SIGKILL, None)):
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        return
