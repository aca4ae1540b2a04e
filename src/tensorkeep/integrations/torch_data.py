"""PyTorch's DataLoader and torchdata's StatefulDataLoader over tensorkeep's data.

`dataset` gives single samples, for a DataLoader with a sampler of its own; `iterable` gives the
whole batches of a `Batches`, for `DataLoader(iterable(batches), batch_size=None)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tensorkeep import frameworks
from tensorkeep.data.batches import Batches
from tensorkeep.data.dataset import Sample
from tensorkeep.data.sources import open as open_dataset
from tensorkeep.errors import ArgumentError, CorruptError, MismatchError, UnsupportedError
from tensorkeep.optional import require

_WORKERS = 256  # at most, of one DataLoader
_EPOCHS = 2**32 - 1  # that workers can count


def dataset(source: Any, *, each: Callable[[Sample], Sample] | None = None) -> Any:
    """Make a map-style `torch.utils.data.Dataset` of samples, dicts of tensors.

    A DataLoader that asks for a whole batch has it gathered at once. With `collate_fn=collate` that
    is the batch it gets; otherwise PyTorch stacks the samples once more:

        DataLoader(dataset("train.lmdb"), batch_size=32, shuffle=True, collate_fn=collate)

    Args:
        source: what `tensorkeep.data.open` takes.
        each: called with every sample, a dict of arrays, before they become tensors.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        TensorKeepError: what opening the source raises.
    """
    return _classes()[0](open_dataset(source), each)


def iterable(batches: Batches) -> Any:
    """Make a `torch.utils.data.IterableDataset` of whole batches, dicts of tensors.

        DataLoader(iterable(tk.Batches("train.lmdb", 32)), batch_size=None, num_workers=4)

    Each loop over its DataLoader is an epoch, the first one from the place where `batches` is;
    leaving a loop early leaves out the rest of that epoch. Of n workers each makes every n-th
    batch, so that together they give all of them once and in order; threads, processes and device
    of `batches` are not used then.

    Without workers the place moves in `batches` itself, which a Checkpointer can save. With workers
    it moves in theirs, and `batches` refuses to have its own saved: save torchdata's
    StatefulDataLoader instead. After a `seek` of `batches` the next loop begins there.

    Args:
        batches: what to read. It already knows its rank, so that no sampler is needed.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    return _classes()[1](batches)


def collate(samples: Sequence[Sample]) -> Any:
    """Give the batch that samples of `dataset` were gathered in, or stack them.

    For a DataLoader's `collate_fn`.
    """
    if isinstance(samples, _Gathered):
        return samples.batch
    return _torch().utils.data.default_collate(list(samples))


class _Gathered(list[Any]):
    """Samples that are views of one batch."""

    def __init__(self, samples: Sequence[Any], batch: dict[str, Any]) -> None:
        super().__init__(samples)
        self.batch = batch


def _torch() -> Any:
    return require("torch", "DataLoader is of PyTorch", 'Run pip install "tensorkeep[torch]".')


def _tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Give arrays as tensors that share their memory; text, bytes and tensors as they are."""
    return {name: _tensor(value, name) for name, value in arrays.items()}


def _tensor(value: Any, name: str) -> Any:
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind in "OSU":
        return value
    array = np.asarray(value)
    if not array.flags.writeable:
        array = array.copy()
    return frameworks.by_name("torch").from_numpy(array, None, f"the field {name!r}")


class _Samples:
    """What `dataset` makes, beside what it inherits from PyTorch."""

    def __init__(self, source: Any, each: Callable[[Sample], Sample] | None) -> None:
        self.source = source
        self.each = each

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.source[index]
        return _tensors(sample if self.each is None else self.each(sample))

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        numbers = self.source.check(rows)
        if self.each is None and not self.source.flat:
            try:
                batch = _tensors(self.source.gather(numbers))
            except UnsupportedError:  # samples that differ; a collate_fn may know what to do
                pass
            else:
                views = [{k: v[i] for k, v in batch.items()} for i in range(len(numbers))]
                return _Gathered(views, batch)
        samples = self.source.samples(numbers)
        return [_tensors(one if self.each is None else self.each(one)) for one in samples]


class _Here:
    """The batches up to the end of an epoch, where there are no workers."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._walk = iter(batches)
        self._under_way: tuple[int, int] | None = None  # the place that this loop came to

    def __iter__(self) -> _Here:
        return self

    def __next__(self) -> dict[str, Any]:
        self._under_way = None
        batch = next(self._walk)
        self._under_way = self._batches.epoch, self._batches.sample
        return _tensors(batch)

    @property
    def left_early(self) -> bool:
        """Whether the epoch that it was in is still the one that `batches` is in."""
        return self._under_way == (self._batches.epoch, self._batches.sample)

    def state_dict(self) -> dict[str, Any]:
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._batches.load_state_dict(state)
        self._walk = iter(self._batches)


class _Workers:
    """What the workers that share batches know of one another, in memory that all of them see.

    Attributes:
        home: the epoch and the sample where `batches` is, for the first loop after it was moved.
        begun: the last loop that each worker has begun since then: the seed that PyTorch gave that
            loop and, in the lower 32 bits, the number of its epoch, counted from 1; 0 before. Both
            are written at once, so that the others of a loop see its epoch or begin it themselves.
    """

    def __init__(self, batches: Batches) -> None:
        torch = _torch()
        self.home = torch.tensor([batches.epoch, batches.sample]).share_memory_()
        self.begun = torch.zeros(_WORKERS, dtype=torch.int64).share_memory_()

    def moved(self, epoch: int, sample: int) -> None:
        """Have the next loop begin at another place."""
        self.home[0], self.home[1] = epoch, sample
        self.begun.zero_()

    def check(self, where: str) -> None:
        """Refuse to have the place of `batches` saved once workers have read on from it."""
        if self.begun.any():
            raise ArgumentError(
                "the workers of a DataLoader have read on from the place of these batches, "
                "and only they know how far",
                where=where,
                cure="Save torchdata's StatefulDataLoader in place of the batches, or use "
                "num_workers=0; seek() tells the batches where they are.",
            )

    def following(self) -> int | None:
        """Give the epoch behind that of the last loop; None where workers have begun none."""
        last = max(begun & _EPOCHS for begun in self.begun.tolist())
        return last or None

    def join(self, worker: int, seed: int) -> tuple[int, int]:
        """Give the place where a loop begins that a worker is called for."""
        loops = self.begun.tolist()
        own, mark = loops[worker], _mark(seed)
        if own and own >> 32 == mark:  # the worker stayed, or all seeds are the same
            return own & _EPOCHS, 0
        if others := [loop for loop in loops if loop and loop >> 32 == mark]:
            epoch = (others[0] & _EPOCHS) - 1
            return epoch, int(self.home[1]) if epoch == int(self.home[0]) else 0
        epoch = max(loop & _EPOCHS for loop in loops)
        return (epoch, 0) if epoch else (int(self.home[0]), int(self.home[1]))

    def begin(self, worker: int, seed: int, epoch: int) -> None:
        """Let the others know which epoch a worker is in."""
        if epoch >= _EPOCHS:
            raise UnsupportedError(f"workers count epochs up to {_EPOCHS:,}, not {epoch:,}")
        self.begun[worker] = _mark(seed) << 32 | epoch + 1

    def forget(self, seed: int) -> None:
        """Forget all loops but one, which was moved to another place."""
        for worker, loop in enumerate(self.begun.tolist()):
            if loop and loop >> 32 != _mark(seed):
                self.begun[worker] = 0


def _mark(seed: int) -> int:
    return seed & 0x7FFFFFFF


class _Share:
    """Every n-th batch up to the end of an epoch: what one of several workers gives."""

    def __init__(self, batches: Batches, shared: _Workers, info: Any) -> None:
        self._batches = batches
        self._shared = shared
        self._worker = info.id
        self._workers = info.num_workers
        self._seed = info.seed - info.id  # the same for all workers of a loop
        epoch, start = shared.join(self._worker, self._seed)
        self._begin(epoch, start, 0)

    def _begin(self, epoch: int, start: int, given: int) -> None:
        self._epoch, self._start, self._given = epoch, start, given
        self._shared.begin(self._worker, self._seed, epoch)
        first = self._worker + given * self._workers
        tasks = self._batches.tasks(epoch, start)
        self._tasks = itertools.islice(tasks, first, None, self._workers)

    def __iter__(self) -> _Share:
        return self

    def __next__(self) -> dict[str, Any]:
        batch = self._batches.maker(next(self._tasks))
        self._given += 1
        return _tensors(batch)

    def state_dict(self) -> dict[str, Any]:
        return {
            **self._batches._state(self._epoch, self._start),
            "given": self._given,
            "workers": self._workers,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        names = ("given", "workers", "batch_size", "world")
        if not all(isinstance(state.get(name), int) and state[name] >= 0 for name in names):
            raise CorruptError(
                "it is no state of a DataLoader's worker", cure="Give what state_dict() gave."
            )
        if state["workers"] != self._workers:
            raise MismatchError(
                f"the DataLoader had {state['workers']} workers and has {self._workers}",
                cure="Give num_workers as it was.",
            )
        batches = self._batches
        given, before = state["given"], state["batch_size"] * state["world"]
        if given and before != batches.batch_size * batches.world:
            raise MismatchError(
                f"a step was {before} samples of all ranks, and is "
                f"{batches.batch_size * batches.world}, so that workers cannot share it as before",
                cure="Keep batch_size times the number of ranks as it was.",
            )
        epoch, start = batches._place_in(state)  # refuses that of other data
        self._begin(epoch, start, given)
        self._shared.forget(self._seed)


class _Whole:
    """What `iterable` makes, beside what it inherits from PyTorch."""

    def __init__(self, batches: Batches) -> None:
        if not isinstance(batches, Batches):
            raise ArgumentError(
                f"iterable takes a tk.Batches, not a {type(batches).__name__}",
                cure="Use dataset() for other sources.",
            )
        self.batches = batches
        self._last: _Here | None = None
        # Workers may be new processes in each epoch, and know by this which one it is.
        if not isinstance(batches._followers, _Workers):
            batches._followers = _Workers(batches)
        self._shared = batches._followers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = _torch().utils.data.get_worker_info()
        if info is None:
            if (following := self._shared.following()) is not None:
                self.batches.seek(following)
            elif self._last is not None and self._last.left_early:
                self.batches.seek(self.batches.epoch + 1)
            self._last = _Here(self.batches)
            return self._last
        if info.num_workers > _WORKERS:
            raise ArgumentError(f"{info.num_workers} workers are more than {_WORKERS}")
        return _Share(self.batches, self._shared, info)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def _classes() -> tuple[Any, Any]:
    """Make the two classes PyTorch's own, which workers find again by their names here."""
    if "Samples" not in globals():
        data = _torch().utils.data
        for ours, base in ((_Samples, data.Dataset), (_Whole, data.IterableDataset)):
            name = ours.__name__.lstrip("_")
            globals()[name] = type(
                name, (ours, base), {"__module__": __name__, "__doc__": ours.__doc__}
            )
    return globals()["Samples"], globals()["Whole"]


def __getattr__(name: str) -> Any:
    """Make the classes where a worker that was spawned unpickles an object of theirs."""
    if name in ("Samples", "Whole"):
        return dict(zip(("Samples", "Whole"), _classes(), strict=True))[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
