"""When to save: every so many steps or seconds, and when a signal asks for it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from tensorkeep.errors import ArgumentError

Then = Literal["continue", "stop"]


class Schedule:
    """Says at each step whether it is time to save, and why.

    Args:
        every_steps: save when the step is a multiple of this; 0 for never.
        every_seconds: save when this long has passed since the last save; 0 for never.
        signals: what to do on signals such as "SIGTERM": save and "continue", or save and "stop".
            A second one that says "stop" does what it did before.

    Raises:
        ArgumentError: an unknown signal, or signals outside the main thread.

    >>> schedule = Schedule(every_steps=10)
    >>> [step for step in range(1, 31) if schedule.due(step)]
    [10, 20, 30]
    """

    def __init__(
        self,
        every_steps: int = 0,
        every_seconds: float = 0.0,
        signals: Mapping[str, Then] | None = None,
    ) -> None:
        for name, value in (("every_steps", every_steps), ("every_seconds", every_seconds)):
            whole = name == "every_steps" and type(value) is not int
            if whole or type(value) not in (int, float) or not value >= 0:
                cure = "Give a number, 0 for never."
                raise ArgumentError(f"{name} cannot be {value!r}", cure=cure)
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.stopping = False
        self._last = time.monotonic()
        self._saved: int | None = None
        self._asked = ""
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()
        for name, then in (signals or {}).items():
            self._listen(name, then)

    def _listen(self, name: str, then: Then) -> None:
        number = getattr(signal, str(name), None)
        if not isinstance(number, signal.Signals) or then not in ("continue", "stop"):
            self.close()
            raise ArgumentError(
                f"signals cannot have {name!r}: {then!r}",
                cure='Give such as {"SIGTERM": "stop", "SIGUSR1": "continue"}.',
            )
        if threading.current_thread() is not threading.main_thread():
            raise ArgumentError(
                "signals reach the main thread only", cure="Make the Checkpointer there."
            )

        def handle(number: int, frame: Any) -> None:
            if os.getpid() != self._owner:  # a forked worker: the signal means it, not the training
                signal.signal(number, self._before.get(number, signal.SIG_DFL))
                os.kill(os.getpid(), number)
                return
            self._asked = name
            if then == "stop":
                self.stopping = True
                signal.signal(number, self._before[number])

        self._before.setdefault(number, signal.getsignal(number) or signal.SIG_DFL)
        try:
            signal.signal(number, handle)
        except OSError as error:
            del self._before[number]
            self.close()
            raise ArgumentError(f"{name} cannot be listened to: {error.strerror}") from None

    def due(self, step: int) -> str:
        """Say why to save at this step; empty where it is not time."""
        if self._asked:
            return self._asked
        if step == self._saved:
            return ""
        if self.every_steps and step % self.every_steps == 0:
            return "interval"
        if self.every_seconds and time.monotonic() - self._last >= self.every_seconds:
            return "interval"
        return ""

    def saved(self, step: int) -> None:
        """Note that a step is being saved."""
        self._last = time.monotonic()
        self._saved = step
        self._asked = ""

    def close(self) -> None:
        """Give the signals back to whom they belonged."""
        if os.getpid() != self._owner:
            return
        for number, before in self._before.items():
            with contextlib.suppress(ValueError, TypeError):  # no longer in the main thread
                signal.signal(number, before)
        self._before.clear()
