"""Global arrays of JAX: saved by their shards from one process and from two, loaded to any mesh."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep.testing import assert_equal_states

pytestmark = pytest.mark.frameworks


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.frameworks.jax_mesh", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )


def ended(child: subprocess.Popen[str]) -> str:
    try:
        out, err = child.communicate(timeout=180)
    finally:
        child.kill()
    assert child.returncode == 0, err[-3000:]
    return out


def test_one_process_of_eight_devices(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    assert "fine" in ended(start("one", tmp_path))


def test_two_processes_and_one_of_them_killed(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = [start("two", tmp_path, str(rank), port) for rank in (0, 1)]
    out = ended(children[0])
    children[1].communicate(timeout=60)
    assert children[1].returncode == -9, children[1].returncode
    assert "rank 1 of 2 did not finish" in out
    assert [(row.step, row.ok) for row in tk.checkpoints(tmp_path)] == [(1, True)]
    assert {path.name for path in tmp_path.iterdir()} == {".tensorkeep", "step-00000001"}

    found: Any = tk.load(tmp_path / "step-1", framework="numpy", verify=True)
    from tests.frameworks import jax_mesh

    assert_equal_states(found["model"], jax_mesh.expected(pytest.importorskip("jax")))
    assert found["host"].tolist() == list(range(5))
    files = {path.name for path in (tmp_path / "step-00000001").glob("model-*")}
    assert files == {f"model-rank0000{rank}-00001.safetensors" for rank in (0, 1)}
