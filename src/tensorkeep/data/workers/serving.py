"""What a worker process does: make batches of the tasks that come, until nobody sends any more."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from tensorkeep.data.workers import transfer
from tensorkeep.data.workers.transfer import Field
from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.spawning import end_with_parent


class Order(NamedTuple):
    """What a worker is sent: the task, pickled, and the slot that its batch is to lie in."""

    slot: int
    task: bytes


class Made(NamedTuple):
    """What it answers: what lies in the slot, and how large that is where it is a new one."""

    fields: list[Field]
    size: int
    capacity: int


class Failed(NamedTuple):
    """What it answers where an error was raised."""

    error: bytes
    trace: str


def serve(link: socket.socket) -> None:
    """Take `make`, pickled, and then orders; answer each in turn. End when the link does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends the link
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    end_with_parent()
    slots: dict[int, mmap.mmap] = {}
    try:
        pickled, _ = transfer.receive(link)
        maker = _Maker(pickled)
        while True:
            order, _ = transfer.receive(link)
            answer, descriptor = _answer(maker, order, slots)
            try:
                transfer.send(link, answer, descriptor)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
    except (EOFError, OSError):
        return


class _Maker:
    """`make`, unpickled by the first order, where an error finds somebody to tell it to."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._make: Callable[[Any], Any] | None = None

    def __call__(self, task: bytes) -> Any:
        if self._make is None:
            try:
                self._make = pickle.loads(self._pickled)
            except Exception as error:
                raise ArgumentError(
                    f"a worker process cannot load what makes the batches: {error}",
                    cure="Functions that it uses have to stand in a module or a script, not at a "
                    "prompt; or have threads make them, with processes=False.",
                ) from error
            self._pickled = b""
        return self._make(pickle.loads(task))


def _answer(
    maker: _Maker, order: Order, slots: dict[int, mmap.mmap]
) -> tuple[Made | Failed, int | None]:
    descriptor = None
    try:
        fields, arrays, size = transfer.lay_out(maker(order.task))
        slot = slots.get(order.slot)
        if size and (slot is None or len(slot) < size):
            slot, descriptor = transfer.new_slot(size)
            slots[order.slot] = slot
        transfer.put(fields, arrays, slot)
    except BaseException as error:
        if descriptor is not None:
            os.close(descriptor)
            del slots[order.slot]
        return _failure(error), None
    return Made(fields, size, 0 if descriptor is None or slot is None else len(slot)), descriptor


def _failure(error: BaseException) -> Failed:
    trace = "".join(traceback.format_exception(error))
    try:
        if not isinstance(error, Exception):  # such as SystemExit, which is not to end the parent
            raise TypeError
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        pickled = pickle.dumps(
            TensorKeepError(f"a worker process raised {kind}: {error}".rstrip(": "))
        )
    return Failed(pickled, f"In the worker process {os.getpid()}:\n{trace}")
