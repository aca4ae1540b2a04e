"""Threads that work ahead of a generator, which its caller may never finish."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


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
