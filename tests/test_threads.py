"""Threads that work ahead of a generator."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from tensorkeep.threads import working_ahead


def test_an_abandoned_generator_waits_for_no_thread() -> None:
    release = threading.Event()
    late = threading.Timer(10, release.set)  # what would end the wait, were there one
    late.start()

    def numbers() -> Generator[int, None, None]:
        with working_ahead(1) as pool:
            pool.submit(release.wait)
            yield 1
            yield 2

    generator = numbers()
    assert next(generator) == 1
    generator.close()
    assert not release.is_set()
    late.cancel()
    release.set()


def test_one_that_ends_waits_for_all_and_one_that_fails_begins_no_more() -> None:
    done: list[int] = []
    with working_ahead(1) as pool:
        for number in range(3):
            pool.submit(done.append, number)
    assert done == [0, 1, 2]
    begun, release = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        release.wait()

    def fail() -> None:
        with working_ahead(1) as pool:
            pool.submit(first)
            pool.submit(done.append, 9)
            begun.wait()
            threading.Timer(0.05, release.set).start()
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        fail()
    assert done == [0, 1, 2]
