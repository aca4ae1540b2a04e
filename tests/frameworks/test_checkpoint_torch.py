"""A training of PyTorch's that is interrupted anywhere ends as one that never was, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk

pytestmark = pytest.mark.frameworks

STEPS = 13
ROOT = Path(__file__).parents[2]
OPTIONS = [(), ("background",), ("background", "fenced")]


@pytest.fixture(scope="module")
def training(torch: Any) -> Any:
    from tests.frameworks import torch_training

    torch.set_num_threads(1)
    return torch_training


@pytest.fixture(scope="module")
def uninterrupted(training: Any) -> str:
    run = training.Training(stateful=False)
    run.run(0, STEPS)
    return str(run.digest())


def in_a_process(folder: Path, steps: int, *options: str) -> str:
    script = "tests.frameworks.torch_training"
    command = [sys.executable, "-m", script, str(folder), str(steps)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout).strip()


@pytest.mark.parametrize("options", OPTIONS, ids=["foreground", "background", "fenced"])
@pytest.mark.parametrize("stops", [(1,), (5,), (4, 5, 9), (12,)], ids=str)
def test_it_ends_as_if_never_stopped(
    training: Any, uninterrupted: str, tmp_path: Path, stops: Any, options: Any
) -> None:
    for stop in stops:
        training.go_on(str(tmp_path), stop, **dict.fromkeys(options, True))
    found = training.go_on(str(tmp_path), STEPS, **dict.fromkeys(options, True))
    assert found == uninterrupted


def test_it_goes_on_in_another_process(uninterrupted: str, tmp_path: Path) -> None:
    in_a_process(tmp_path, 7, "background", "fenced")
    assert in_a_process(tmp_path, STEPS) == uninterrupted


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("stop", [3, 7])
def test_a_stateful_loader_goes_on_with_the_next_batch(
    training: Any, tmp_path: Path, stop: int
) -> None:
    pytest.importorskip("torchdata", reason="torchdata is not installed")
    wanted = training.go_on(str(tmp_path / "whole"), STEPS, stateful=True)
    training.go_on(str(tmp_path / "parts"), stop, stateful=True)
    assert training.go_on(str(tmp_path / "parts"), STEPS, stateful=True) == wanted


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_nothing_keeps_the_files_that_were_restored(torch: Any, tmp_path: Path) -> None:
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 300)).sum().backward()
    optimizer.step()
    state = {"model": model, "optimizer": optimizer}
    with tk.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
        checkpointer.restore(like=state)
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
