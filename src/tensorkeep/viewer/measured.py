"""Statistics of tensors: sampled at once, exact in the background, kept by digest."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace

from tensorkeep.api import ProgressReport
from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.sampling import glance, pieces
from tensorkeep.state import State
from tensorkeep.statistics import Running
from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Statistics

_KEPT = 10_000  # tensors, of a few KiB each


class Measured:
    """What was measured so far; one for all that is open, used by several threads.

    Tensors with the same digest, element type and shape are measured once, wherever they are; the
    others once for each state they are in. What failed is tried again.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._lock = threading.Lock()
        self._kept = kept
        self._found: OrderedDict[Hashable, Statistics] = OrderedDict()
        self._names: weakref.WeakKeyDictionary[State, list[str]] = weakref.WeakKeyDictionary()

    def sampled(self, state: State, index: int, until: float = math.inf) -> Statistics:
        """Give what is known of a tensor: the exact figures where they are there, else a sample's.

        One that cannot be read gives its problem. From the time `until` on samples are smaller.

        Raises:
            ArgumentError: there is no such tensor.
        """
        name = self._name(state, index)
        tensor, key = state[name], _key(state, name)
        if (known := self._known(key)) is not None:
            return replace(known, index=index)
        running = Running(tensor.dtype)
        try:
            running.add(glance(tensor, until=until))
        except (TensorKeepError, MemoryError) as error:
            return _failed(tensor, index, error)
        found = _told(running, tensor, index)
        self._keep(key, found)
        return found

    def exact(self, state: State, index: int, report: ProgressReport) -> Statistics:
        """Read all of a tensor, in pieces, unless that was done before.

        One that cannot be read gives its problem. `report` may raise to stop.

        Raises:
            ArgumentError: there is no such tensor.
        """
        name = self._name(state, index)
        tensor, key = state[name], _key(state, name)
        known = self._known(key)
        if known is None or not known.exact:
            running = Running(tensor.dtype)
            done = 0
            parts = pieces(tensor)
            while True:
                try:
                    part, nbytes = next(parts)
                    running.add(part)
                except StopIteration:
                    break
                except (TensorKeepError, MemoryError) as error:
                    return _failed(tensor, index, error)
                done += nbytes
                report(min(done, tensor.nbytes), tensor.nbytes)
            known = _told(running, tensor, index)
            self._keep(key, known)
        report(tensor.nbytes, tensor.nbytes)
        return replace(known, index=index)

    def _name(self, state: State, index: int) -> str:
        with self._lock:
            names = self._names.get(state)
            if names is None:
                names = self._names[state] = list(state)
        if not 0 <= index < len(names):
            raise ArgumentError(f"there is no tensor {index}; there are {len(names):,}")
        return names[index]

    def _known(self, key: Hashable) -> Statistics | None:
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def _keep(self, key: Hashable, found: Statistics) -> None:
        with self._lock:
            before = self._found.get(key)
            if before is None or found.exact or not before.exact:
                self._found[key] = found
            self._found.move_to_end(key)
            while len(self._found) > self._kept:
                self._found.popitem(last=False)


def _key(state: State, name: str) -> Hashable:
    tensor = state[name]
    if digest := state.digests.get(name):
        return digest, tensor.dtype.name, tensor.shape
    return weakref.ref(state), name


def _told(running: Running, tensor: Tensor, index: int) -> Statistics:
    found = running.summary()
    return Statistics(
        index=index,
        size=tensor.size,
        measured=found.count,
        exact=found.count == tensor.size,
        zeros=found.zeros,
        nan=found.nan,
        inf=found.inf,
        min=found.low,
        max=found.high,
        mean=found.mean,
        std=found.std,
        edges=found.histogram.edges,
        counts=found.histogram.counts,
    )


def _failed(tensor: Tensor, index: int, error: Exception) -> Statistics:
    problem = str(error) if isinstance(error, TensorKeepError) else "it does not fit the memory"
    return Statistics(index, tensor.size, 0, False, problem=problem)
