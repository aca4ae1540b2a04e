"""Children that start at once: a process that has imported what they need forks them.

    python -m tests.crash.zygote MODULE ARGUMENT...

The module has a function `run(job, tell)`. For each job, a line of JSON, it is called in a new
child, and tells what it does in lines that its parent's parent reads. A function `prepare` is
called before with the arguments, where there are any.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeAlias

Tell: TypeAlias = Callable[..., None]
_PATIENCE = 120.0  # seconds


class Zygote:
    """Runs jobs of a module, one at a time, each in a child of its own.

    Args:
        module: its name.
        arguments: what to prepare.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"},
        )
        self._read = b""
        self.pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, **job: Any) -> None:
        """Have a child begin a job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        kind, self.pid = self._next()
        assert kind == "pid", kind

    def told(self) -> Iterator[list[Any]]:
        """Give what the child tells, until it has ended."""
        while (line := self._next())[0] != "dead":
            if line[0] == "failed":
                raise RuntimeError(line[1])
            yield line

    def result(self, **job: Any) -> Any:
        """Do a job, and give the last that its child tells."""
        self.start(**job)
        return list(self.told())[-1][-1]

    def kill(self, delay: float) -> list[list[Any]]:
        """Kill the child after a while; give what it has told since it was last asked."""
        time.sleep(delay)
        os.kill(self.pid, signal.SIGKILL)
        return list(self.told())

    def _next(self) -> list[Any]:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._read:
            if not select.select([fd], [], [], _PATIENCE)[0]:
                raise TimeoutError("the child is silent")
            piece = os.read(fd, 1 << 16)
            if not piece:
                raise RuntimeError("the children's parent has ended")
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        found: list[Any] = json.loads(line)
        return found


def _tell(*words: object) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def main() -> None:
    """Fork a child for each job, and wait for it."""
    module = importlib.import_module(sys.argv[1])
    if sys.argv[2:]:
        module.prepare(*sys.argv[2:])
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _tell("pid", os.getpid())
            try:
                module.run(json.loads(line), _tell)
            except BaseException as error:
                _tell("failed", repr(error)[:500])
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        _tell("dead")


if __name__ == "__main__":
    main()
