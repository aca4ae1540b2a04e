"""A progress bar on stderr for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE = 1.0
_REDRAW = 0.1


@contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give what draws the bytes done, the rate and the time left; None where nobody would see it.

    Args:
        doing: what is going on, such as "verifying".
    """
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(doing)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def progress_of_items(doing: str) -> Iterator[Callable[[int, int, int, int], None] | None]:
    """Give what draws the items and bytes that are done of many; None where nobody would see it.

    Args:
        doing: what is going on, such as "verifying".
    """
    with progress(doing) as report:
        if not isinstance(report, _Bar):
            yield None
            return
        bar = report

        def draw(items: int, of: int, done: int, total: int) -> None:
            bar.doing = f"{doing} {items:,} of {of:,}"
            if items < of or total:  # where all sizes are known as 0, the items alone are told
                bar(min(done, max(total - 1, 0)) if items < of else total, max(total, 1))

        yield draw


class _Bar:
    """Draws nothing until a second has passed, so that quick work stays quiet."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self._next = time.monotonic() + _PATIENCE
        self._draw: Callable[[int, int], None] | None = None
        self._stop: Callable[[], None] = lambda: None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and done < total:
            return
        if self._draw is None:
            if done >= total:
                return
            self._draw = self._open()
        self._next = now + _REDRAW
        self._draw(done, total)

    def _open(self) -> Callable[[int, int], None]:
        # Imported here: starting without it is a third faster.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        shown = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = shown.add_task(self.doing)
        shown.start()
        self._stop = shown.stop
        return lambda done, total: shown.update(
            task, description=self.doing, completed=done, total=total
        )

    def close(self) -> None:
        self._stop()
