"""SIGKILL at random instants of a save."""

from __future__ import annotations

import fcntl
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.crash import checkpoints
from tests.crash import saves as crash

import tensorkeep as tk


@pytest.mark.parametrize("number", range(10))
def test_a_kill_leaves_a_whole_state(number: int, tmp_path: Path) -> None:
    draw = random.Random(number)
    options: dict[str, Any] = {"durable": number % 3 == 0}
    if number % 2:
        options["max_shard_size"] = 500_000
    assert crash.trial(tmp_path, draw.uniform(0, 0.05), **options) == ""


def test_a_torn_state_is_told() -> None:
    torn = crash.state(40)
    assert crash.is_whole(torn)
    torn["step"] = 41
    assert not crash.is_whole(torn)


def test_a_kill_leaves_whole_checkpoints() -> None:
    died, wrong = checkpoints.trials(12, seed=0)
    assert wrong == []
    assert sum(sum(counts.values()) for counts in died.values()) == 12


def test_a_wrong_checkpoint_is_told(tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, checkpoints.state(1))
        checkpointer.save(2, checkpoints.state(1))
    assert list(checkpoints.look(tmp_path, 3, 4, go_on=True)) == [
        "step 2 is there after 3 was announced and 4 begun",
        "step 2 is not what was saved",
        "what is restored is not step 2",
    ]


def _temporary(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.name.startswith("."))


def test_a_living_writer_is_not_swept(tmp_path: Path) -> None:
    """The temporary file of another save in progress stays, and that save succeeds."""
    path = tmp_path / "w.safetensors"
    seen: list[list[str]] = []

    def meanwhile(done: int, total: int) -> None:
        if not seen:
            seen.append(_temporary(tmp_path))
            tk.save({"w": np.zeros(1)}, path)
            seen.append(_temporary(tmp_path))

    tk.save({"w": np.ones(1)}, path, progress=meanwhile)
    assert len(seen[0]) == 1
    assert seen[0] == seen[1]
    assert tk.load(path)["w"] == 1
    assert _temporary(tmp_path) == []


def test_only_leftovers_of_the_same_file_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tk.save({"w": np.zeros(1)}, path, progress=lambda done, total: _copy_temporary(tmp_path))
    assert len(_temporary(tmp_path)) == 1
    other = tmp_path / ".mine.tmp"
    other.write_bytes(b"")
    tk.save({"w": np.zeros(1)}, path)
    assert _temporary(tmp_path) == [".mine.tmp"]


def _copy_temporary(folder: Path) -> None:
    """Leave behind what a kill at this instant would: the same name, and nobody holding it."""
    (name,) = _temporary(folder)
    leftover = folder / re.sub(r"[0-9a-f]{8}", "0" * 8, name)
    leftover.write_bytes((folder / name).read_bytes())
    fd = os.open(leftover, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_two_writers_and_a_reader_share_a_path(tmp_path: Path) -> None:
    """Whoever is last wins; what is read meanwhile is always the whole state of some step."""
    path = tmp_path / "state.safetensors"
    tk.save(crash.state(0), path)
    command = [sys.executable, "-c", crash.CHILD, str(path), "{'durable': False}"]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
        for copy in (False, True) * 20:
            assert crash.is_whole(tk.load(path, verify=True, copy=copy))
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert crash.is_whole(tk.load(path, verify=True))
    tk.save(crash.state(1), path)
    assert _temporary(tmp_path) == []
