"""Bulk work on Ray and Dask: the same answer as in this process, also where workers die."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.bulk import find, run
from tensorkeep.bulk.verifying import verify

pytestmark = pytest.mark.frameworks

ROOT = Path(__file__).parents[2]
NAMES = (
    *("a-fine", "once-killed", "b-fine", "z-segfault", "c-corrupt", "once-network", "d-nothing"),
)
# In a process of its own: what a cluster starts, and warns of, stays out of this one.
SCRIPT = """
import json, pathlib, sys
from tensorkeep.bulk import find, run
from tests.bulk.tasks import act_or_verify

if __name__ == "__main__":
    folder, on, *names = sys.argv[1:]
    seen = []
    options = dict(on=on, jobs=2, retries=1, backoff=0.01, progress=lambda *c: seen.append(c))
    given = [f"{folder}/{name}" for name in names]
    done = run(act_or_verify, [*given, *find(["models"])], **options).outcomes
    acted, verified = done[:len(given)], done[len(given):]
    print(json.dumps({
        "acted": [[o.item.name, o.status, o.problem, o.tries] for o in acted],
        "verified": [[o.item.where, o.status, o.problem, o.result] for o in verified],
        "seen": [c[0] for c in seen],
    }))
"""


def run_on(
    on: str, folder: Path, names: tuple[str, ...] = NAMES, **environment: str
) -> dict[str, Any]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), on, *names],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).touch()
    models = tmp_path / "models"
    models.mkdir()
    for number in range(6):
        tk.save({"w": np.full(3, number)}, models / f"{number}.npz", durable=False)
    data = bytearray((models / "3.npz").read_bytes())
    data[data.index(b"NUMPY") + 130] ^= 1
    (models / "3.npz").write_bytes(data)
    (models / "4.npz").write_bytes(b"PK")
    return tmp_path


def needs(on: str) -> None:
    library = {"ray": "ray", "dask": "distributed"}[on]
    if find_spec(library) is None:
        pytest.skip(f"{on} ({library}) is not installed")


@pytest.mark.parametrize("on", ["ray", "dask"])
def test_the_same_answer_on_a_cluster(
    on: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(on)
    found = run_on(on, folder)
    lost = "a worker process was lost while it was at this"
    acted = [
        (name, status, problem.partition(" (")[0]) for name, status, problem, _ in found["acted"]
    ]
    assert acted == [
        ("a-fine", "done", ""),
        ("once-killed", "done", ""),
        ("b-fine", "done", ""),
        ("z-segfault", "failed", lost),
        ("c-corrupt", "damaged", "its header is cut short"),
        ("once-network", "done", ""),
        ("d-nothing", "skipped", "there was nothing to do"),
    ]
    tries = [row[3] for row in found["acted"]]
    least = [1, 2, 1, 2, 1, 2, 1]
    if on == "ray":
        assert tries == least
    else:  # what waits at a worker that dies is lost with it
        assert all(fewest <= each <= 2 for each, fewest in zip(tries, least, strict=True))
    assert found["seen"] == list(range(1, 14))
    monkeypatch.chdir(folder)
    here = run(verify, find(["models"])).outcomes
    assert found["verified"] == [[o.item.where, o.status, o.problem, o.result] for o in here]
    assert [o.status for o in here] == ["done"] * 3 + ["damaged"] * 2 + ["done"]


def test_a_dask_cluster_that_is_running(folder: Path) -> None:
    needs("dask")
    tools = [sys.executable, "-m"]
    quiet = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}
    scheduler = subprocess.Popen(
        [*tools, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    worker = None
    try:
        assert scheduler.stderr is not None
        line = next(line for line in scheduler.stderr if "Scheduler at:" in line)
        address = line.rpartition(" ")[2].strip()
        worker = subprocess.Popen(
            [*tools, "distributed.cli.dask_worker", address, "--nthreads", "1", "--nworkers", "2"],
            env={**os.environ, **quiet, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        found = run_on("dask", folder, ("a-fine", "c-corrupt"), DASK_SCHEDULER_ADDRESS=address)
    finally:
        for process in (worker, scheduler):
            if process is not None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()
        assert scheduler.stderr is not None
        scheduler.stderr.close()
    assert [row[1] for row in found["verified"]] == ["done"] * 3 + ["damaged"] * 2 + ["done"]
    assert found["acted"][0][1] == "done"
    assert found["acted"][1][1] == "damaged"


@pytest.mark.parametrize(
    ("on", "variable", "address"),
    [
        ("ray", "RAY_ADDRESS", "127.0.0.1:1"),
        ("dask", "DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1"),
    ],
)
def test_a_cluster_that_does_not_answer(on: str, variable: str, address: str, folder: Path) -> None:
    needs(on)
    done = subprocess.run(
        [sys.executable, "-m", "tensorkeep", "verify", "models", "--on", on],
        env={**os.environ, variable: address},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert f"the {on.title()} cluster does not answer" in done.stderr
    assert address in done.stderr
    assert variable in done.stderr
