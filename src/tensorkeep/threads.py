"""Threads: several that wait for a network at a time, and some that work ahead of a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
REQUESTS = 16  # over a network at a time


def at_once(tasks: Sequence[Callable[[], T]], done: Callable[[T], None] | None = None) -> None:
    """Do what waits for a network, several at a time.

    Args:
        tasks: what to do; one at least.
        done: called with what each gives, in their order.

    >>> at_once([lambda: 1, lambda: 2], print)
    1
    2
    """
    with ThreadPoolExecutor(min(REQUESTS, len(tasks))) as pool:
        for found in pool.map(lambda task: task(), tasks):
            if done is not None:
                done(found)


@contextmanager
def working_ahead(count: int, name: str = "") -> Iterator[ThreadPoolExecutor]:
    """Give threads to a generator; they are not waited for where it is abandoned.

    The garbage collector closes such a generator at any instant, also while another thread is being
    started, and to wait for a thread then is to wait for ever.

    >>> with working_ahead(2) as pool:
    ...     list(pool.map(len, ["one", "three"]))
    [3, 5]
    """
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    except GeneratorExit:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:  # Ctrl-C does not wait for what has not begun
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
