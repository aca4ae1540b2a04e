"""Several files at a time, the bytes that have passed, and the stop where one of them fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import numpy as np
import xxhash

from tensorkeep.api import ProgressReport
from tensorkeep.copying.content import Checker
from tensorkeep.errors import CorruptError
from tensorkeep.source import Source

PIECE = 8 << 20
_CACHED = 1 << 20  # bytes that are still in cache when they are written after they were hashed
_AHEAD = 4  # pieces of a remote file that are asked for at the same time


class Stopped(Exception):  # noqa: N818
    """Another file failed, so that this one ends too."""


class Work:
    """What the threads of a copy share.

    Args:
        jobs: how many files at a time.
        total: the bytes of all.
        progress: called with the bytes done and the total.
    """

    def __init__(self, jobs: int, total: int, progress: ProgressReport | None) -> None:
        self._jobs = jobs
        self._total = total
        self._done = 0
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._readers = ThreadPoolExecutor(2 * jobs, "tensorkeep-copy-read")

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        self._readers.shutdown(cancel_futures=True)

    def moved(self, count: int) -> None:
        """Count bytes that are there; no more than the total, where some had to go twice."""
        with self._lock:
            self._done = min(self._done + count, self._total)
            if self._progress is not None:
                self._progress(self._done, self._total)

    def run(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Run tasks, several at a time; where one fails or Ctrl-C comes, the others are stopped."""
        with ThreadPoolExecutor(self._jobs, "tensorkeep-copy") as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                failed = [error for future in done if (error := future.exception())]
            except BaseException:
                self._halt(futures)
                raise
            if failed:
                self._halt(futures)
                errors = [e for f in futures if not f.cancelled() and (e := f.exception())]
                raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])

    def _halt(self, futures: list[Future[None]]) -> None:
        self._stop.set()
        for future in futures:
            future.cancel()
        wait(futures)
        self._stop.clear()

    def pieces(self, source: Source, start: int = 0) -> Iterator[memoryview]:
        """Read a file from `start` on; each piece is good until the next is asked for.

        Of a remote file several pieces come at the same time.
        """
        step = PIECE if source.remote else min(PIECE, _CACHED)
        ranges = [(at, min(at + step, source.size)) for at in range(start, source.size, step)]
        if not source.remote:
            buffer = np.empty(min(step, source.size), np.uint8).data
            for first, last in ranges:
                self.check()
                piece = buffer[: last - first]
                source.readinto(first, piece)
                yield piece
            return
        ahead: list[Future[memoryview]] = []
        try:
            for following, _ in enumerate(ranges):
                while len(ahead) < _AHEAD and following + len(ahead) < len(ranges):
                    wanted = ranges[following + len(ahead)]
                    ahead.append(self._readers.submit(_fetch, source, *wanted))
                self.check()
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()
            wait(ahead)

    def checked(self, source: Source, checker: Checker | None, start: int) -> Iterator[memoryview]:
        """Read a file from `start` on, through a checker that has taken what is before.

        Raises:
            CorruptError: it is damaged; the piece with the damage is not given any more.
        """
        for piece in self.pieces(source, start):
            if checker is not None:
                checker.take(piece)
            yield piece
        if checker is not None and (found := checker.doubted):
            again = xxhash.xxh3_128()
            for piece in self.pieces(source):
                again.update(piece)
            if again.hexdigest() != found:
                raise CorruptError(
                    "two readings of it differ, and its store gives a third digest",
                    where=source.where,
                    cure="Copy it again; if that does not help, the store damages it.",
                )

    def check(self) -> None:
        """End this thread where another file failed.

        Raises:
            Stopped: one did.
        """
        if self._stop.is_set():
            raise Stopped


def _fetch(source: Source, start: int, stop: int) -> memoryview:
    buffer = np.empty(stop - start, np.uint8).data
    source.readinto(start, buffer)
    return buffer.toreadonly()
