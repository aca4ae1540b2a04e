"""Batches of NumPy arrays, made tensors of a framework and placed on a device.

That takes two steps, in two threads. Whoever makes a batch ahead places it, and waits there until
it has arrived; whoever uses it takes it over, which takes no time. On the CPU a tensor shares the
memory of the array. To a GPU, PyTorch's tensors go through page-locked memory, which samples are
gathered into where nobody changes them, on a stream of their own, so that neither the training step
nor Python waits for the copy.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import frameworks
from tensorkeep.data.dataset import Batch
from tensorkeep.data.memory import MEMORY, Memory
from tensorkeep.errors import LossError, UnsupportedError
from tensorkeep.framework import Framework, library

_TEXT = "OUST"  # the kinds of arrays that no framework holds, and that stay NumPy's
_ALIGNMENT = 256  # bytes, as CUDA aligns what it copies fastest
_JAX_CURE = (
    'Set jax.config.update("jax_enable_x64", True), or make it a type of 32 bits with transform=.'
)


class Placer:
    """Leave batches what they are: arrays of NumPy. Threads may share a placer."""

    memory = MEMORY  # what batches are best made in

    def place(self, batch: Batch) -> dict[str, Any]:
        """Make tensors of a batch, and wait until they are on their device.

        Raises:
            UnsupportedError: the framework has no such element type; the message names the field.
            LossError: it would narrow the values.
        """
        return batch

    def hand_over(self, placed: dict[str, Any]) -> dict[str, Any]:
        """Give what was placed to the thread that calls, which is to use it."""
        return placed


def placer(framework: str | None, device: Any = None) -> Placer:
    """Find what places batches, and try it.

    Args:
        framework: "numpy", "torch" or "jax"; None for arrays of NumPy.
        device: as the framework names it; None for its default, or the CPU where it is torch.

    Raises:
        ArgumentError: there is no such framework or device, or a device without a framework.
        MissingDependencyError: the framework is not installed.

    >>> placer(None).place({"x": np.arange(3)})
    {'x': array([0, 1, 2])}
    """
    chosen = frameworks.by_name(framework or "numpy")
    chosen.from_numpy(np.zeros(1, np.uint8), device, "")
    if chosen.name == "numpy":
        return Placer()
    if chosen.name == "torch" and device is not None:
        torch = library("torch", "")
        place = torch.device(device)
        if place.type == "cuda":
            # The current device is one of each thread, so it has to be asked for in this one.
            index = torch.cuda.current_device() if place.index is None else place.index
            return _ToCuda(torch, torch.device("cuda", index))
    return _ToFramework(chosen, device)


class _ToFramework(Placer):
    """Wrap arrays as tensors that share their memory, or have the framework copy them."""

    def __init__(self, framework: Framework, device: Any) -> None:
        self._framework = framework
        self._device = device

    def place(self, batch: Batch) -> dict[str, Any]:
        placed: dict[str, Any] = {}
        for name, values in batch.items():
            array = _array(name, values, self._framework)
            text = array.dtype.kind in _TEXT
            placed[name] = array if text else self._tensor(name, array, self._device)
        return placed

    def _tensor(self, name: str, array: npt.NDArray[Any], device: Any) -> Any:
        where = f"the field {name!r} of a batch"
        try:
            return self._framework.from_numpy(array, device, where)
        except LossError as error:
            raise LossError(error.problem, where=where, cure=_JAX_CURE) from None
        except UnsupportedError as error:
            cure = "Leave it out with fields=, or make it another type with transform=."
            raise UnsupportedError(error.problem, where=where, cure=cure) from None


class _ToCuda(_ToFramework):
    """Copy batches to a GPU through page-locked memory, on a stream beside the consumer's."""

    def __init__(self, torch: Any, device: Any) -> None:
        super().__init__(frameworks.by_name("torch"), None)
        self._torch = torch
        self._to = device
        self._lanes: deque[_Lane] = deque()  # those that no thread is using
        self.memory = Memory(partial(_page_locked, torch))

    def place(self, batch: Batch) -> dict[str, Any]:
        arrays = {name: _array(name, v, self._framework) for name, v in batch.items()}
        numbers = {name: a for name, a in arrays.items() if a.dtype.kind not in _TEXT}
        try:
            lane = self._lanes.pop()
        except IndexError:
            lane = _Lane(self._torch, self._to)
        with self._torch.cuda.stream(lane.stream):
            try:
                tensors = {name: self._tensor(name, array, None) for name, array in numbers.items()}
                pageable = [name for name, tensor in tensors.items() if not tensor.is_pinned()]
                staged = lane.stage([numbers[name] for name in pageable])
                for name, array in zip(pageable, staged, strict=True):
                    tensors[name] = self._tensor(name, array, None)
                moved = {n: t.to(self._to, non_blocking=True) for n, t in tensors.items()}
            finally:
                lane.stream.synchronize()  # after which its memory may be written to again
                self._lanes.append(lane)
        return {name: moved.get(name, array) for name, array in arrays.items()}

    def hand_over(self, placed: dict[str, Any]) -> dict[str, Any]:
        # Their memory belongs to the other stream, which must not use it again before what this
        # one does with it is done.
        stream = self._torch.cuda.current_stream(self._to)
        for value in placed.values():
            if isinstance(value, self._torch.Tensor):
                value.record_stream(stream)
        return placed


class _Lane:
    """A stream to a GPU, and page-locked memory that grows with the batches."""

    def __init__(self, torch: Any, device: Any) -> None:
        self.stream = torch.cuda.Stream(device)
        self._torch = torch
        self._memory: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)

    def stage(self, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Copy arrays into page-locked memory. By NumPy: PyTorch would start threads for it."""
        ends = np.cumsum([0, *(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays)])
        if self._memory.nbytes < ends[-1]:
            self._memory = np.zeros(0, np.uint8)  # so that the old one is freed first
            self._memory = _page_locked(self._torch, int(ends[-1]))
        staged = []
        for array, start in zip(arrays, ends[:-1].tolist(), strict=True):
            copy: npt.NDArray[Any] = np.ndarray(array.shape, array.dtype, self._memory, start)
            np.copyto(copy, array)
            staged.append(copy)
        return staged


def _page_locked(torch: Any, size: int) -> npt.NDArray[np.uint8]:
    memory: npt.NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return memory


def _array(name: str, values: Any, framework: Framework) -> npt.NDArray[Any]:
    """Give values as an array that frameworks can share: writable, and walked forwards."""
    array = values
    if not isinstance(values, np.ndarray | np.generic):  # a tensor that a transform made
        found = frameworks.to_array(values, f"the field {name!r} of a batch")
        if found is None:
            raise UnsupportedError(
                f"the field {name!r} of a batch is a {type(values).__name__}, which makes no "
                f"tensor of {framework.name}",
                cure="Have transform= give arrays or tensors.",
            )
        array = found[1]
    array = np.asarray(array)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    plain = array.flags.writeable and all(
        step >= 0 and step % max(array.itemsize, 1) == 0 for step in array.strides
    )
    return array if plain else array.copy()
