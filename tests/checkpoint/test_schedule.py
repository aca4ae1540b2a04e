"""When `step` saves: by steps, by seconds, by signals, and at the end by an exception."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.checkpoint import Checkpointer
from tensorkeep.checkpoint.schedule import Schedule

TRAIN = """
import os, signal, sys, tensorkeep as tk
signals = {"SIGTERM": "stop", "SIGUSR1": "continue"}
with tk.Checkpointer(sys.argv[1], signals=signals, durable=False) as ck:
    for step in range(1, 10**9):
        ck.step(step, {"step": step})
        if ck.stopping:
            print("stopped", step, flush=True)
            break
        print("step", step, flush=True)
        sys.stdin.readline()
for line in sys.stdin:
    print("alive", flush=True)
"""


class Training:
    """A training in a process of its own, which goes on by one step when it is told to."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", TRAIN, str(folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.told()

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


def saved(folder: Path) -> list[tuple[int, str]]:
    return [(row.step, row.reason) for row in tk.checkpoints(folder)]


def test_sigusr1_saves_and_sigterm_saves_and_stops(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training.told() == "step 1"
    assert training.go_on() == "step 2"
    assert saved(tmp_path) == []
    training.process.send_signal(signal.SIGUSR1)
    assert training.go_on() == "step 3"
    assert training.go_on() == "step 4"
    assert saved(tmp_path) == [(3, "SIGUSR1")]
    training.process.send_signal(signal.SIGTERM)
    assert training.go_on() == "stopped 5"
    assert saved(tmp_path) == [(3, "SIGUSR1"), (5, "SIGTERM")]
    assert training.end() == 0


def test_a_second_sigterm_kills(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training.told() == "step 1"
    training.process.send_signal(signal.SIGTERM)
    assert training.go_on() == "stopped 2"
    training.process.send_signal(signal.SIGTERM)
    assert training.end() == -signal.SIGTERM
    assert saved(tmp_path) == [(2, "SIGTERM")]


def test_the_signals_go_back_to_whom_they_belonged(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    with Checkpointer(tmp_path, signals={"SIGTERM": "stop", "SIGUSR1": "continue"}) as ck:
        assert signal.getsignal(signal.SIGUSR1) != before[1]
        os.kill(os.getpid(), signal.SIGUSR1)
        assert ck.due(1)
        assert not ck.stopping
        ck.step(1, {})
        assert not ck.due(2)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_forked_worker_dies_of_its_own_signal(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, signals={"SIGTERM": "stop"}) as ck:
        read, write = os.pipe()
        worker = os.fork()
        if not worker:
            os.write(write, b"x")  # what comes earlier, Python drops
            while True:  # not pause, which a signal may come just before
                time.sleep(0.01)
        os.read(read, 1)
        os.kill(worker, signal.SIGTERM)
        status = os.waitpid(worker, 0)[1]
        os.close(read)
        os.close(write)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert not ck.stopping


def test_what_was_asked_is_done_once_it_can_be(tmp_path: Path) -> None:
    """A save that is skipped does not use up the signal that asked for it."""
    schedule = Schedule(signals={"SIGUSR1": "continue"})
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert schedule.due(1) == schedule.due(2) == "SIGUSR1"
        schedule.saved(2)
        assert schedule.due(3) == ""
    finally:
        schedule.close()


def test_two_names_of_one_signal() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    Schedule(signals={"SIGCHLD": "continue", "SIGCLD": "continue"}).close()
    assert signal.getsignal(signal.SIGCHLD) == before


def test_signals_outside_the_main_thread_are_refused(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            Checkpointer(tmp_path, signals={"SIGTERM": "stop"})
        except errors.ArgumentError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1
    Checkpointer(tmp_path).close()


def test_every_so_many_steps(tmp_path: Path) -> None:
    asked: list[int] = []

    def state() -> dict[str, Any]:
        asked.append(step)
        return {"step": step}

    with Checkpointer(tmp_path, every_steps=3, durable=False) as ck:
        for step in range(8):
            assert ck.due(step) == (step % 3 == 0)
            saving = ck.step(step, state)
            assert (saving is not None) == (step % 3 == 0)
            assert not ck.due(step)
    assert saved(tmp_path) == [(n, "interval") for n in (0, 3, 6)]
    assert asked == [0, 3, 6]


def test_every_so_many_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    plan = Schedule(every_seconds=60)
    due = []
    for step in range(10):
        now[0] += 25
        if plan.due(step):
            due.append(step)
            plan.saved(step)
    assert due == [2, 5, 8]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_step_was_given_last_is_saved_on_an_exception(
    kind: type[BaseException], tmp_path: Path
) -> None:
    def until_it_fails() -> None:
        with Checkpointer(tmp_path, every_steps=10, on_exception=True) as ck:
            for step in range(11, 99):
                ck.step(step, {"step": step}, metrics={"loss": 1}, metadata={"a": 1})
                if step == 14:
                    raise kind("out of memory")

    with pytest.raises(kind, match="out of memory"):
        until_it_fails()
    (row,) = tk.checkpoints(tmp_path)
    assert (row.step, row.reason, row.metrics) == (14, "exception", {"loss": 1})
    assert row.metadata == {"a": 1, "exception": f"{kind.__name__}: out of memory"}
    assert tk.load(tmp_path / "step-00000014") == {"step": 14}


def train(folder: Path, error: BaseException, state: Any = None, **options: Any) -> None:
    """Train for a step, which is not due to be saved, and fail."""
    with Checkpointer(folder, **options) as ck:
        if state is not None:
            ck.step(1, state)
        raise error


def test_nothing_is_saved_on_other_ends(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path, SystemExit(), {}, on_exception=True)
    with pytest.raises(ValueError, match="no step"):
        train(tmp_path, ValueError("no step yet"), on_exception=True)
    with pytest.raises(ValueError, match="not asked"):
        train(tmp_path, ValueError("not asked for"), {})
    assert saved(tmp_path) == []


def test_a_save_that_fails_on_an_exception_is_noted_with_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first") as caught:
        train(tmp_path, ValueError("first"), {"bad": object()}, on_exception=True)
    assert "is not kept" in str(caught.value.__notes__)
    assert saved(tmp_path) == []
    Checkpointer(tmp_path).close()


def test_a_save_that_was_interrupted_is_made_on_that_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes while it is saving, most likely: the step has to be saved all the same."""
    real = os.fsync
    calls: list[int] = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(fd)

    def state() -> dict[str, Any]:
        monkeypatch.setattr(os, "fsync", fsync)
        return {"step": 1}

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, ValueError("not reached"), state, every_steps=1, on_exception=True)
    assert saved(tmp_path) == [(1, "exception")]
