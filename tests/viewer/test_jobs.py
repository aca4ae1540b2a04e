from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tensorkeep.api import ProgressReport
from tensorkeep.errors import CorruptError, StoreError
from tensorkeep.viewer.answers import Job
from tensorkeep.viewer.jobs import Jobs
from tensorkeep.viewer.workers import Workers


def finished(jobs: Jobs, key: str, work: Callable[[ProgressReport], Any]) -> Job:
    for _ in range(5000):
        if (job := jobs.ask(key, work)).finished:
            return job
        time.sleep(0.001)
    raise AssertionError("it does not finish")


def test_the_same_job_runs_once_and_tells_how_far_it_is() -> None:
    jobs, go, runs = Jobs(), threading.Event(), []

    def work(report: ProgressReport) -> str:
        runs.append(1)
        report(30, 100)
        go.wait(10)
        return "found"

    first = jobs.ask("a", work)
    assert not first.finished
    for _ in range(1000):
        if jobs.ask("a", work) == Job(False, 30, 100):
            break
        time.sleep(0.001)
    else:
        raise AssertionError("it tells no progress")
    go.set()
    assert finished(jobs, "a", work) == Job(True, 100, 100, "", "found")
    assert finished(jobs, "a", work).result == "found"
    assert runs == [1]
    jobs.close()


def test_a_failure_is_told_and_tried_again_later() -> None:
    now = 0.0
    jobs, runs = Jobs(clock=lambda: now), []

    def work(report: ProgressReport) -> None:
        runs.append(1)
        raise CorruptError("its header ends early", where="a.npy", cure="Copy it again.")

    assert finished(jobs, "a", work).problem == "a.npy: its header ends early"
    assert jobs.ask("a", work).problem
    assert runs == [1]
    now = 10.0
    finished(jobs, "a", work)
    assert runs == [1, 1]
    jobs.close()


def test_a_mistake_of_ours_tells_no_more_than_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs()

    def work(report: ProgressReport) -> None:
        raise KeyError("secret")

    assert finished(jobs, "a", work).problem == "internal error: KeyError"
    assert "secret" in caplog.text
    jobs.close()


def test_few_results_are_kept() -> None:
    jobs = Jobs()
    for n in range(100):
        assert finished(jobs, str(n), lambda report, n=n: n).result == n  # type: ignore[misc]
    assert len(jobs._running) <= 33
    jobs.close()


def test_too_many_jobs_are_refused() -> None:
    jobs, go = Jobs(), threading.Event()
    for n in range(256):
        jobs.ask(n, lambda report: go.wait(10))
    with pytest.raises(StoreError, match="256 jobs wait already"):
        jobs.ask("more", lambda report: None)
    assert not jobs.ask(7, lambda report: None).finished  # those that wait can be asked about
    go.set()
    assert jobs.close()


def test_closing_stops_what_runs_and_what_waits() -> None:
    jobs, started, ended = Jobs(), threading.Event(), []

    def work(report: ProgressReport) -> None:
        try:
            while True:
                started.set()
                report(1, 2)
                try:
                    time.sleep(0.001)
                except Exception:
                    raise AssertionError from None
        finally:
            ended.append(1)

    for key in "abcd":
        jobs.ask(key, work)
    assert started.wait(10)
    assert jobs.close()
    assert ended == [1] * len(ended)
    assert 1 <= len(ended) <= 2
    names = [thread.name for thread in threading.enumerate()]
    assert "tensorkeep-job" not in names


def test_what_nobody_asks_about_any_more_stops() -> None:
    now = 0.0
    jobs, stopped = Jobs(clock=lambda: now), threading.Event()

    def work(report: ProgressReport) -> None:
        try:
            while True:
                report(1, 2)
                time.sleep(0.001)
        finally:
            stopped.set()

    jobs.ask("a", work)
    assert not stopped.wait(0.02)
    now = 299.0
    jobs.ask("a", work)
    now = 500.0
    assert not stopped.wait(0.02)
    now = 600.0
    assert stopped.wait(10)
    assert jobs.close()


def test_closing_does_not_wait_for_ever() -> None:
    jobs, started, go = Jobs(), threading.Event(), threading.Event()

    def hang(report: ProgressReport) -> None:
        started.set()
        go.wait(30)

    jobs.ask("a", hang)
    assert started.wait(10)
    assert not jobs.close(patience=0.01)
    go.set()


def test_workers_give_what_fails_and_take_nothing_at_the_end() -> None:
    workers = Workers(2, "test-workers")
    with pytest.raises(ZeroDivisionError):
        workers.start(lambda: 1 // 0).result(10)
    assert workers.close()
    assert workers.start(lambda: 1).cancelled()


def test_a_result_is_told_until_it_is_old_and_found_anew_then() -> None:
    now = 0.0
    jobs, runs = Jobs(clock=lambda: now), []

    def work(report: ProgressReport) -> int:
        runs.append(1)
        return len(runs)

    def asked() -> int:
        for _ in range(5000):
            if (job := jobs.ask("a", work, kept=2.0)).finished:
                assert isinstance(job.result, int)
                return job.result
            time.sleep(0.001)
        raise AssertionError("it does not finish")

    assert [asked(), asked()] == [1, 1]
    now = 3.0
    assert asked() == 2
    jobs.close()


def test_a_result_waits_for_who_asks_late() -> None:
    now = 0.0
    jobs, go, ended, runs = Jobs(clock=lambda: now), threading.Event(), threading.Event(), []

    def work(report: ProgressReport) -> None:
        go.wait(10)
        runs.append(1)
        ended.set()

    assert not jobs.ask("a", work, kept=2.0).finished
    go.set()
    assert ended.wait(10)
    now = 60.0
    while not jobs.ask("a", work, kept=2.0).finished:
        time.sleep(0.001)
    assert runs == [1]
    jobs.close()
