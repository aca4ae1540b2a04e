"""Saves in the background, on a disk that writes nothing until it is let."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk

N = 300_000  # float32 elements: more than is worth a shard of its own
BACKGROUND: dict[str, Any] = {"background": True, "durable": True, "rng": False}
FENCED: dict[str, Any] = {**BACKGROUND, "fenced": True}
BOTH = pytest.mark.parametrize("options", [BACKGROUND, FENCED], ids=["background", "fenced"])


class Disk:
    """A disk that writes nothing until it is let, and fails where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = threading.Event()
        self.waiting = threading.Event()  # a write has come
        self.fails = False
        self._real = os.pwritev
        monkeypatch.setattr(os, "pwritev", self._write)

    def _write(self, fd: int, views: list[memoryview], offset: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            self.waiting.set()
            assert self.free.wait(60)
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._real(fd, views, offset)


def state(number: int) -> dict[str, Any]:
    model = {"still": np.arange(N, dtype=np.float32), "w": np.full(N, number, np.float32)}
    small = {"still": np.ones(7), "m": np.full(7, number), "n": number}
    odd = {"f": np.asfortranarray(np.full((3, 4), number)), "text": np.array(["a", str(number)])}
    packed = {"i4": np.full(9, number % 8).astype(tk.dtype("int4").numpy), "b": np.zeros(3) == 0}
    return {"model": model, "optimizer": small, "odd": odd, "packed": packed}
