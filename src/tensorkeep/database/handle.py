"""Handle: what a library has open for an engine, apart from the engine itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from weakref import finalize, ref

_PATIENCE = 30.0  # seconds; to close a database takes far less


class Handle:
    """What is to be closed with an engine, the last thing first.

    Threads find engines by weak references. So an engine has no `__del__`, which another thread
    could come across half done: it leaves its handle behind, to be closed once nothing finds it.

    Args:
        path: of the database.
        owner: the engine. It may be closed before it dies, which its attribute `closed` says.
    """

    def __init__(self, path: str, owner: object) -> None:
        self._path = path
        self._process = os.getpid()
        self._stack = ExitStack()
        self._owner = ref(owner)
        _OPEN.add(self)
        finalize(owner, self.abandon)

    def push(self, close: Callable[..., object], *arguments: object) -> None:
        """Have this called when the handle is closed, before all that was pushed earlier."""
        self._stack.callback(close, *arguments)

    def close(self) -> None:
        """Close everything; a second time does nothing.

        A process that was forked leaves alone what its parent has open.
        """
        stack = self._stack.pop_all()
        if os.getpid() != self._process:
            _INHERITED.append(stack)  # to free it would close it
            stack = ExitStack()
        try:
            stack.close()
        finally:
            _OPEN.discard(self)

    def abandon(self) -> None:
        """Close everything, whatever happens."""
        with suppress(Exception):  # what was committed is safe, and there is no one to tell
            self.close()

    def is_closing(self, path: str) -> bool:
        """Say whether it is of this path, and its engine has come to its end."""
        if self._path != path or self._process != os.getpid():
            return False
        owner = self._owner()
        return owner is None or bool(getattr(owner, "closed", False))


_OPEN: set[Handle] = set()
_INHERITED: list[ExitStack] = []


def await_closing(path: str) -> None:
    """Wait until other threads have closed what they are just closing on a path."""
    until = time.monotonic() + _PATIENCE
    while any(handle.is_closing(path) for handle in list(_OPEN)) and time.monotonic() < until:
        time.sleep(0.002)
