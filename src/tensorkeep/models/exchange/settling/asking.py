"""Has onnx's process work a model out; see `settling_process`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorkeep.errors import ArgumentError, MissingDependencyError, StoreError
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models import exchange
from tensorkeep.models.apart import INSTALL, is_installed
from tensorkeep.models.scratch import scratch_folder

_SECONDS = 310  # after which it is ended, a little more than it gives itself


class Worked(NamedTuple):
    """A model that was worked out, and what was done for that."""

    model: Message
    said: dict[str, Any]


def work_out(thin: Message, keeps: Sequence[str], where: str) -> Worked:
    """Give a model without functions and constant nodes, with a type for every value.

    Raises:
        ArgumentError: onnx refuses it.
        MissingDependencyError: onnx or onnxruntime is not installed.
        StoreError: no process can be started.
    """
    if not is_installed():
        raise MissingDependencyError("the onnx package is not installed", cure=INSTALL)
    if not is_installed("onnxruntime"):
        problem = "onnxruntime is not installed, which computes what is constant"
        raise MissingDependencyError(problem, cure='Run pip install "tensorkeep[run]".')
    with scratch_folder() as folder:
        with open(os.path.join(folder, "model.onnx"), "wb") as file:
            file.writelines(thin.chunks())
        with open(os.path.join(folder, "keeps.json"), "w", encoding="utf-8") as text:
            json.dump(list(keeps), text)
        ending = run_apart(folder)
        try:
            with open(os.path.join(folder, "settled.json"), "rb") as file:
                said = json.loads(file.read())
            if "problem" not in said:
                with open(os.path.join(folder, "settled.onnx"), "rb") as file:
                    return Worked(Message.parse(MODEL, file.read(), where=where), said)
            problem = f"it cannot be worked out: {said['problem'][:500]}"
        except (OSError, ValueError):
            problem = f"it cannot be worked out: onnx's process died of it: {ending}"
    raise ArgumentError(problem, where=where, cure="See what tensorkeep.models.check says of it.")


def run_apart(folder: str) -> str:
    """Run the process with what is in a folder; say how it ended.

    Raises:
        StoreError: no process can be started.
    """
    package = Path(exchange.__file__).parent
    command = [sys.executable, "-P", "-m", "settling_process", folder]
    paths = os.pathsep.join([*filter(None, sys.path), str(package)])
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": paths},
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {_SECONDS} seconds"
    except OSError as error:
        problem = f"onnx cannot be asked: no process can be started: {error.strerror}"
        raise StoreError(problem) from error
    last = ran.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][-300:]
    code = ran.returncode
    return f"{f'signal {-code}' if code < 0 else f'exit code {code}'} {last}".strip()
