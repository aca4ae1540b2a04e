"""Who may save in a folder, and what a folder that is taken away or closed does."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.checkpoint import Checkpointer

FORK = multiprocessing.get_context("fork")

HOLD = """
import sys, time, tensorkeep as tk
ck = tk.Checkpointer(sys.argv[1], durable=False)
ck.save(1, {"n": 1})
print("ready", flush=True)
sys.stdin.read()
"""


def saver(folder: Path, **options: Any) -> Checkpointer:
    return Checkpointer(folder, durable=False, **options)


def hold(folder: Path) -> subprocess.Popen[str]:
    """Start a process that saves in a folder, and goes on holding it."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_closed_one_does_not_save(tmp_path: Path) -> None:
    ck = saver(tmp_path)
    ck.save(1, {"n": 1})
    ck.close()
    ck.close()
    with pytest.raises(errors.ClosedError):
        ck.save(2, {"n": 2})
    assert [row.step for row in ck.checkpoints()] == [1]


def test_one_that_only_reads_makes_and_changes_nothing(tmp_path: Path) -> None:
    ck = Checkpointer(tmp_path / "none", read_only=True)
    assert ck.checkpoints() == []
    assert ck.restore() is None
    assert not (tmp_path / "none").exists()
    with saver(tmp_path / "run") as other:
        other.save(1, {"n": 1})
        with Checkpointer(tmp_path / "run", read_only=True) as reader:
            with pytest.raises(errors.ArgumentError, match="read_only"):
                reader.save(2, {})
            found = reader.restore()
            assert found is not None
            assert found.state == {"n": 1}
        other.save(2, {"n": 2})


def test_one_at_a_time_in_a_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with saver(tmp_path / "run") as ck:
        for name in ("run", "link"):
            with pytest.raises(errors.StoreError, match="another Checkpointer of this process"):
                saver(tmp_path / name)
        ck.save(1, {})
        with pytest.raises(errors.StoreError, match="another Checkpointer"):
            hold_here(tmp_path / "run")
    saver(tmp_path / "run").close()


def hold_here(folder: Path) -> None:
    """Try in another process."""
    code = "import sys, tensorkeep as tk; tk.Checkpointer(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    if done.returncode:
        raise errors.StoreError(done.stderr)


def test_one_at_a_time_over_all_processes(tmp_path: Path) -> None:
    child = hold(tmp_path)
    try:
        with pytest.raises(errors.StoreError, match=f"process {child.pid} on"):
            saver(tmp_path)
        assert len(Checkpointer(tmp_path, read_only=True).checkpoints()) == 1
    finally:
        child.kill()
        child.communicate()
    left = tmp_path / ".step-00000002.0123abcd.tensorkeep.tmp"
    left.mkdir()
    with saver(tmp_path) as ck:  # the killed one keeps nobody out, and is cleared away
        assert not left.exists()
        ck.save(2, {})


def test_a_child_that_outlives_its_parent_keeps_nobody_out(tmp_path: Path) -> None:
    read, write = os.pipe()
    stay, release = os.pipe()
    parent = os.fork()
    if not parent:
        ck = saver(tmp_path)
        ck.save(1, {})
        if not os.fork():
            os.close(release)
            os.read(stay, 1)  # until the test ends
            os._exit(0)
        os.write(write, b"x")
        signal.pause()
    try:
        os.read(read, 1)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        saver(tmp_path).close()
    finally:
        for fd in (read, write, stay, release):
            os.close(fd)


def test_a_forked_child_neither_saves_nor_unlocks(tmp_path: Path) -> None:
    def child() -> None:
        with pytest.raises(errors.ArgumentError, match="forked"):
            ck.save(2, {})
        with pytest.raises(errors.StoreError):
            saver(tmp_path)
        found = ck.restore()
        assert found is not None
        assert found.step == 1
        ck.close()

    with saver(tmp_path) as ck:
        ck.save(1, {"n": 1})
        process = FORK.Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        with pytest.raises(errors.StoreError, match="another Checkpointer"):
            hold_here(tmp_path)
        ck.save(2, {})


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_taken_away(replaced: bool, tmp_path: Path) -> None:
    with saver(tmp_path / "run") as ck:
        ck.save(1, {"n": 1})
        os.rename(tmp_path / "run", tmp_path / "moved")
        if replaced:
            shutil.copytree(tmp_path / "moved", tmp_path / "run")
        with pytest.raises(errors.TensorKeepError, match=r"removed or replaced|is gone"):
            ck.save(2, {"n": 2})
        os.rename(tmp_path / "run", tmp_path / "other") if replaced else None
        os.rename(tmp_path / "moved", tmp_path / "run")
        ck.save(2, {"n": 2})
    assert [row.step for row in tk.checkpoints(tmp_path / "run")] == [1, 2]


def test_a_folder_that_may_not_be_written(unprivileged: Path) -> None:
    with saver(unprivileged / "run") as ck:
        ck.save(1, {"n": 1})
        os.chmod(unprivileged / "run", 0o555)
        with pytest.raises(errors.StoreError, match="Permission denied"):
            ck.save(2, {"n": 2})
        os.chmod(unprivileged / "run", 0o755)
        ck.save(2, {"n": 2})
    os.chmod(unprivileged, 0o555)
    with pytest.raises(errors.StoreError, match="Permission denied"):
        saver(unprivileged / "new")
    os.chmod(unprivileged, 0o755)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StoreError):
        saver(tmp_path / "file")
    with pytest.raises(errors.ArgumentError):
        Checkpointer(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"fenced": True},
        {"busy": "later"},
        {"keep": 3},
        {"keep": "last"},
        {"every_steps": 1.5},
        {"every_seconds": float("nan")},
        {"max_shard_size": "many"},
        {"signals": {"SIGNOTHING": "stop"}},
        {"signals": {"SIGKILL": "stop"}},
        {"signals": {"SIGTERM": "later"}},
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    signals = {"SIGUSR2": "continue", **options.pop("signals", {})}
    with pytest.raises(errors.ArgumentError):
        saver(tmp_path, **options, signals=signals)
    assert signal.getsignal(signal.SIGUSR2) == before
    saver(tmp_path).close()
