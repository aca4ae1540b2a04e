"""Results come in order, made a bounded number ahead, and no thread outlives its stream."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.data.workers.threads import ahead
from tensorkeep.errors import ArgumentError


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert helpers() == []


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tensorkeep data"]


@given(st.integers(0, 30), st.integers(0, 6), st.integers(1, 4))
def test_order_is_kept(count: int, prefetch: int, workers: int) -> None:
    def make(task: int) -> int:
        time.sleep(0.0005 * (task % 3 == 0))
        return task * task

    found = list(ahead(make, iter(range(count)), prefetch=prefetch, workers=workers))
    assert found == [task * task for task in range(count)]


@pytest.mark.parametrize(("prefetch", "workers"), [(1, 1), (1, 3), (2, 2), (5, 2)])
def test_no_more_is_made_than_asked_for(prefetch: int, workers: int) -> None:
    begun: list[int] = []
    at_once: list[int] = []
    running = 0
    lock = threading.Lock()

    def make(task: int) -> int:
        nonlocal running
        with lock:
            begun.append(task)
            running += 1
            at_once.append(running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return task

    for taken, task in enumerate(ahead(make, range(20), prefetch=prefetch, workers=workers)):
        time.sleep(0.002)
        assert task == taken
        assert max(begun) <= taken + prefetch
    assert max(at_once) <= min(workers, prefetch)


def test_as_many_work_at_once_as_asked_for() -> None:
    meeting = threading.Barrier(3, timeout=5)
    assert len(list(ahead(lambda _: meeting.wait(), range(9), prefetch=3, workers=3))) == 9


def test_nothing_is_made_before_it_is_asked_for() -> None:
    stream = ahead(str, iter([pytest.fail]), prefetch=2, workers=1)
    assert helpers() == []
    stream.close()


def test_without_prefetch_there_is_no_thread() -> None:
    makers = list(ahead(lambda _: threading.current_thread(), range(3), prefetch=0, workers=2))
    assert makers == [threading.current_thread()] * 3


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_error_comes_at_its_turn_and_ends_the_stream(prefetch: int) -> None:
    made: list[int] = []

    def make(task: int) -> int:
        if task == 2:
            raise KeyError("two")
        made.append(task)
        return task

    stream = ahead(make, range(1000), prefetch=prefetch, workers=2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(stream)
    assert list(stream) == []
    assert len(made) <= 2 + prefetch


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_error_of_the_tasks_comes_at_its_turn(prefetch: int) -> None:
    def tasks() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("no third")

    stream = ahead(abs, tasks(), prefetch=prefetch, workers=2)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(stream)


def test_closing_cancels_what_has_not_begun() -> None:
    made: list[int] = []

    def make(task: int) -> int:
        made.append(task)
        time.sleep(0.02)
        return task

    stream = ahead(make, range(100), prefetch=50, workers=2)
    next(stream)
    stream.close()
    count = len(made)
    assert count < 10
    assert helpers() == []
    assert list(stream) == []


def test_dropping_a_stream_ends_it() -> None:
    stream = ahead(abs, range(100), prefetch=5, workers=3)
    next(stream)
    assert helpers() != []
    del stream
    gc.collect()


def test_closing_does_not_wait_for_ever() -> None:
    begun, stuck = threading.Event(), threading.Event()

    def make(task: int) -> None:
        if task:
            begun.set()
            stuck.wait(30)

    stream = ahead(make, range(3), prefetch=2, workers=1)
    next(stream)
    begun.wait(5)
    begin = time.monotonic()
    stream.close()
    assert 0.5 < time.monotonic() - begin < 20
    stuck.set()  # whereupon the thread ends by itself
    for thread in helpers():
        thread.join(5)


def test_results_live_no_longer_than_with_their_owner() -> None:
    class Result:
        pass

    taken: list[weakref.ref[Result]] = []
    for result in ahead(lambda _: Result(), range(10), prefetch=2, workers=1):
        assert all(reference() is None for reference in taken[:-1])
        taken.append(weakref.ref(result))
    del result
    assert all(reference() is None for reference in taken)


def test_errors_hold_on_to_nothing() -> None:
    class Task:
        pass

    def fail(task: Task) -> None:
        raise ValueError

    task = Task()
    held = weakref.ref(task)
    gc.disable()  # the reference count alone has to do it
    try:
        with pytest.raises(ValueError, match=r"^$"):
            next(ahead(fail, iter([task]), prefetch=1, workers=1))
        del task
        assert held() is None
    finally:
        gc.enable()


def test_streams_do_not_mind_one_another() -> None:
    streams = [ahead(partial(divmod, k), range(1, 50), prefetch=3, workers=2) for k in range(5)]
    for number, together in enumerate(zip(*streams, strict=True), 1):
        assert together == tuple(divmod(k, number) for k in range(5))


@pytest.mark.parametrize(("prefetch", "workers"), [(-1, 1), (1, 0)])
def test_arguments_are_checked_at_once(prefetch: int, workers: int) -> None:
    with pytest.raises(ArgumentError, match=f"prefetch={prefetch} and workers={workers}"):
        ahead(abs, [1], prefetch=prefetch, workers=workers)


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    head = "import os, sys, threading, time\nfrom tensorkeep.data.workers.threads import ahead\n"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", head + script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 50) -> Any:
    with process:
        try:
            return process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


ENDS = """
hang = ahead(lambda t: t and time.sleep(60), range(3), prefetch=2, workers=2)
next(hang)
forked = ahead(abs, range(9), prefetch=2, workers=2)
next(forked)
if not (pid := os.fork()):
    try:
        print(list(forked))
    except ValueError as error:
        print(error, flush=True)
    sys.exit(0)
print(os.waitpid(pid, 0)[1], len(list(forked)), flush=True)
# which leaves a stream that hangs
"""


def test_a_fork_is_told_and_the_interpreter_ends() -> None:
    begin = time.monotonic()
    out, err = finish(python(ENDS))
    told, numbers = out.splitlines()
    assert told == (
        "a stream of batches was begun in another process, whose threads make them. "
        "Begin it anew after the fork."
    )
    assert (numbers, err) == ("0 8", "")
    assert time.monotonic() - begin < 40


WAITS = """
stream = ahead(lambda t: t and time.sleep(60), range(3), prefetch=2, workers=2)
next(stream)
print("waiting", flush=True)
try:
    next(stream)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_works_while_waiting() -> None:
    process = python(WAITS)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.05)
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == ("interrupted\n", "")
    assert time.monotonic() - begin < 30
