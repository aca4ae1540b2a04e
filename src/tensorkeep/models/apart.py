"""The onnx package in a process of its own: its C++ ends the process on some faulty models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tensorkeep.errors import MissingDependencyError, StoreError
from tensorkeep.models.checks import onnx_process

INSTALL = "Install it with `pip install 'tensorkeep[onnx]'`."
SECONDS = onnx_process.SECONDS + 10


class Said(NamedTuple):
    """What onnx says of a task: nothing where it is content; `crashed` where it did not live."""

    problem: str
    crashed: bool = False


def ask(folder: str, tasks: Iterable[str]) -> dict[str, Said]:
    """Have onnx do tasks with the models in a folder; see `onnx_process` for the tasks.

    Raises:
        MissingDependencyError: the onnx package is not installed.
        StoreError: no process can be started.
    """
    if not is_installed():
        problem = "the onnx package is not installed"
        raise MissingDependencyError(problem, cure=INSTALL)
    left = list(tasks)
    found: dict[str, Said] = {}
    while left:
        answers, ending = _run(folder, left)
        found |= {task: Said(problem or "") for task, problem in answers}
        left = [task for task in left if task not in found]
        if left:  # it ended within the first of these
            found[left.pop(0)] = Said(ending, crashed=True)
    return found


def is_installed(package: str = "onnx") -> bool:
    """Whether there is a package; it is not imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # it was taken out of the modules
        return False


def _run(folder: str, tasks: list[str]) -> tuple[list[tuple[str, str | None]], str]:
    command = [sys.executable, "-P", str(Path(onnx_process.__file__)), folder, *tasks]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=SECONDS
        )
        out, code = ran.stdout, ran.returncode
        last = ran.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][-300:]
    except subprocess.TimeoutExpired as error:
        out, code, last = error.stdout or b"", 0, f"it did not end within {SECONDS} seconds"
    except OSError as error:
        problem = f"onnx cannot be asked: no process can be started: {error.strerror}"
        raise StoreError(problem) from error
    answers = []
    for line in out.splitlines():
        task, problem = json.loads(line)
        answers.append((task, problem))
    ending = f"signal {-code}" if code < 0 else f"exit code {code}"
    return answers, f"{ending}: {last}" if last else ending
