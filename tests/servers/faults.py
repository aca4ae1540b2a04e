"""What may go wrong between a client and a server, and for which requests it does."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reset:
    """The connection is reset: before the server sees the request, or after it did as asked."""

    after: bool = False


@dataclass(frozen=True)
class Answer:
    """An error is answered, and the server never sees the request."""

    status: int = 503
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cut:
    """The answer promises all its bytes, and ends after some of them."""

    after: int = 0
    reset: bool = False  # with a reset, rather than with an orderly end


@dataclass(frozen=True)
class CutUpload:
    """The server gets some bytes of a request's body, then both connections are reset."""

    after: int = 0


@dataclass(frozen=True)
class Slow:
    """The bodies of request and answer pass at so many bytes a second."""

    rate: int


@dataclass(frozen=True)
class Hang:
    """Nothing is answered for so long, then the connection is reset."""

    seconds: float


Fault = Reset | Answer | Cut | CutUpload | Slow | Hang


@dataclass
class Rule:
    """Says which requests a fault befalls; `only` counts from 0 among those that fit."""

    fault: Fault
    on: str = ""  # a method, or several: "GET HEAD"; every one if empty
    target: str = ""  # a regular expression to be found in the path and query
    only: Collection[int] | None = None
    chance: float = 1.0
    seed: int = 0
    most: int | None = None  # after so many it stops
    befell: int = 0
    _fitted: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def applies(self, method: str, target: str) -> bool:
        """Decide for one request, and count it."""
        if self.on and method not in self.on.split():
            return False
        if self.target and not re.search(self.target, target):
            return False
        with self._lock:
            number = self._fitted
            self._fitted += 1
            chosen = self.only is None or number in self.only
            if self.chance < 1:
                chosen = self._random.random() < self.chance and chosen
            if not chosen or (self.most is not None and self.befell >= self.most):
                return False
            self.befell += 1
            return True
