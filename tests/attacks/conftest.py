"""Every attack runs under a watchdog and with little memory: a hang or a huge allocation fails."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType

import pytest

_SECONDS = 60.0
_EXTRA = 1 << 30  # address space above what the process already has


# A hook and not a fixture: the limits end before pytest reports a failure, which takes memory.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _watchdog(), _little_memory():
        return (yield)


@contextlib.contextmanager
def _watchdog() -> Iterator[None]:
    def too_long(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"still running after {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    """Limit the address space, so that allocating what a file lies about raises MemoryError."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _EXTRA, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
