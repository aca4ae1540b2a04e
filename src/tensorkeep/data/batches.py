"""Batches: a place in an endless sequence of epochs, and what comes next from there.

Which samples a batch holds is a pure function of the seed, the epoch, the step, the rank and the
number of ranks, so a place is two integers, the epoch and the sample in it. Nothing else is saved,
and going on costs nothing, wherever it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from tensorkeep.data.dataset import Batch, Dataset, Sample
from tensorkeep.data.making import Maker, Task, makes_what
from tensorkeep.data.memory import MEMORY, using
from tensorkeep.data.order import Order
from tensorkeep.data.placing import placer
from tensorkeep.data.ranks import ranks
from tensorkeep.data.sources import open as open_dataset
from tensorkeep.data.workers.processes import Processes
from tensorkeep.data.workers.threads import ahead
from tensorkeep.errors import ArgumentError, ClosedError, CorruptError, MismatchError
from tensorkeep.state import Json

_VERSION = 1
_TOGETHER = 4096  # positions whose samples are worked out at once
# What a state has to agree in with who goes on from it, and what messages call it.
_SETTINGS = {
    "digest": "the digest of the data",
    "samples": "the number of samples",
    "seed": "seed",
    "block": "the blocks that are shuffled",
    "drop_last": "drop_last",
}


class Followers(Protocol):
    """Who else reads batches from the place on, in other processes, and has to know it."""

    def moved(self, epoch: int, sample: int) -> None:
        """Take note of another place."""

    def check(self, where: str) -> None:
        """Refuse to have the place saved when others have read on from it."""


class Batches:
    """Read samples in batches, shuffled, sharded and prefetched; go on exactly where it was.

    A `for` loop goes from the place where it is to the end of the epoch, and the next one through
    the next epoch. In the last step of an epoch the ranks share what is left; one for which
    nothing is left gets a batch of no samples, so that all take as many steps.

    Args:
        source: what `tensorkeep.data.open` takes: a path, several, a dict of arrays, a Dataset.
        batch_size: samples of a batch of this rank; all ranks together take `world` times as many.
        shuffle: True draws a new order for each epoch; "blocks" draws one that keeps neighbours
            near one another, for data that is compressed in chunks.
        seed: what the order is drawn by.
        rank: which of the ranks this is; by default as torch.distributed or torchrun says.
        world: how many ranks share the data; likewise.
        drop_last: leave out the last step of an epoch where it is short.
        fields: read only these.
        each: called with every sample, a dict, before they are stacked; it gives another.
        transform: called with every batch, a dict of arrays; it gives another. Where one of the
            two has a parameter `rng`, it is given a NumPy generator that is drawn by the seed, the
            epoch and the sample (each) or the step and rank (transform).
        prefetch: batches that are made ahead of the one that is used, and all that wait in memory;
            0 makes each when it is asked for, in the thread that asks. Processes have one each at
            least.
        workers: how many threads, or processes, make batches. By default two threads, but one
            where functions of yours or a dataset of your own are called, which then need not be
            fit for threads.
        processes: make them in processes, for functions that hold Python's lock.
        framework: "numpy", "torch" or "jax".
        device: where to place them, as the framework names it; to a GPU they go through pinned
            memory, beside what it computes.

    Raises:
        ArgumentError: an argument makes no sense.
        MissingError: there is no such file or field.
        TensorKeepError: what opening the source raises.

    >>> batches = Batches({"x": np.arange(10), "y": np.arange(10) % 2}, 4)
    >>> [batch["x"].tolist() for batch in batches]
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    >>> batches.seek(epoch=5, sample=8)
    >>> next(iter(batches))["x"].tolist(), batches.state_dict()["epoch"]
    ([8, 9], 5)
    """

    def __init__(
        self,
        source: Any,
        batch_size: int = 1,
        *,
        shuffle: bool | str = False,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        drop_last: bool = False,
        fields: Sequence[str] | None = None,
        each: Callable[..., Sample] | None = None,
        transform: Callable[..., Batch] | None = None,
        prefetch: int = 2,
        workers: int | None = None,
        processes: bool = False,
        framework: str | None = None,
        device: Any = None,
    ) -> None:
        self.batch_size = _whole("batch_size", batch_size, 1)
        self.seed = _whole("seed", seed, 0)
        self.rank, self.world = ranks(rank, world)
        self.drop_last = bool(drop_last)
        self._prefetch = _whole("prefetch", prefetch, 0)
        given_workers = None if workers is None else _whole("workers", workers, 1)
        if shuffle not in (False, True, "blocks"):
            raise ArgumentError(f"shuffle is True, False or 'blocks', not {shuffle!r}")
        self._placer = placer(framework, device)
        self._given = isinstance(source, Dataset)
        self.dataset: Dataset = open_dataset(source, fields=fields)
        self._block = max(self.dataset.block, 1) if shuffle == "blocks" else int(bool(shuffle))
        self.maker = Maker(
            self.dataset, makes_what("each", each), makes_what("transform", transform), self.seed
        )
        own = bool(each or transform or self.dataset.foreign)
        self._workers = given_workers or (1 if own else 2)
        self._pool: Processes[Task] | None = None
        self._wants_pool = bool(processes)
        self._epoch = 0
        self._sample = 0
        self._followers: Followers | None = None
        self._loop = 0  # the number of the loop that moves the place; others have to stop
        self._closed = False

    # --- the place -----------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that it is in, the first being 0."""
        return self._epoch

    @property
    def sample(self) -> int:
        """How many samples of this epoch all ranks together have been given."""
        return self._sample

    @property
    def step(self) -> int:
        """How many batches of this epoch this rank has been given, were all of this size."""
        return -(-self._sample // self._stride)

    def seek(self, epoch: int = 0, sample: int = 0) -> None:
        """Go to a place: what comes next is that sample of that epoch's order.

        Raises:
            ArgumentError: an epoch has no such sample.
        """
        epoch = _whole("epoch", epoch, 0)
        sample = _whole("sample", sample, 0)
        if sample > len(self.dataset):
            raise ArgumentError(
                f"there is no sample {sample:,} in an epoch of {len(self.dataset):,}",
                where=self.dataset.where,
            )
        self._loop += 1
        self._move(epoch, sample)

    def state_dict(self) -> dict[str, Json]:
        """Give the place, and what has to be the same for it to mean the same: plain JSON.

        It is the place of what was given out, however much was prefetched, and the same on every
        rank. A Checkpointer saves it by itself: `ck.save(step, {"model": ..., "data": batches})`.

        Raises:
            ArgumentError: the workers of a DataLoader have read on, and only they know how far.
        """
        if self._followers is not None:
            self._followers.check(self.dataset.where)
        return self._state(self._epoch, self._sample)

    def _state(self, epoch: int, sample: int) -> dict[str, Json]:
        return {
            "version": _VERSION,
            "epoch": epoch,
            "sample": sample,
            **self._settings(),
            "batch_size": self.batch_size,
            "world": self.world,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that was saved, in any process and with any number of workers or ranks.

        Raises:
            MismatchError: the data or a setting is another one; the message shows both.
            CorruptError: it is no such state.
        """
        self.seek(*self._place_in(state))

    def _place_in(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Give the epoch and the sample of a state that is one of these batches."""
        given = _checked(state)
        now = self._settings()
        wrong = [
            f"{called} was {given[name]!r} and is {now[name]!r}"
            for name, called in _SETTINGS.items()
            if given[name] != now[name]
        ]
        if given["batch_size"] != self.batch_size and given["world"] == self.world:
            wrong.append(f"batch_size was {given['batch_size']} and is {self.batch_size}")
        if wrong:
            raise MismatchError(
                f"the place that was saved is one of other batches: {'; '.join(wrong)}",
                where=self.dataset.where,
                cure="Give what it was saved with, or go to a place of your own choice with "
                f"seek(epoch={given['epoch']}, sample={given['sample']}).",
            )
        return given["epoch"], given["sample"]

    def _settings(self) -> dict[str, Json]:
        return {
            "digest": self.dataset.digest,
            "samples": len(self.dataset),
            "seed": self.seed,
            "block": self._block,
            "drop_last": self.drop_last,
        }

    # --- the batches ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        count = len(self.dataset)
        return count // self._stride if self.drop_last else -(-count // self._stride)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go on to the end of the epoch.

        Raises:
            SampleError: `each` or `transform` failed, or the process that ran it; the message
                names the samples.
            CorruptError: a sample is damaged.
        """
        self._check_open()
        self._loop += 1
        return self._walk(self._loop)

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Make any batch of this epoch, without moving from the place.

        Raises:
            ArgumentError: an epoch has no such step.
        """
        self._check_open()
        try:
            number = operator.index(step)
        except TypeError:
            raise ArgumentError(f"a step is a number, not {step!r}") from None
        count = len(self)
        number += count if number < 0 else 0
        if not 0 <= number < count:
            raise ArgumentError(
                f"there is no step {step} in an epoch of {count:,}", where=self.dataset.where
            )
        task = next(self.tasks(self._epoch, number * self._stride))
        return self._placer.hand_over(self._placer.place(self.maker(task)))

    def epochs(self, until: int) -> Iterator[int]:
        """Count epochs from the one that it is in up to below `until`, for a loop around a loop.

        Whoever leaves the inner loop early leaves the rest of that epoch out.

        >>> batches = Batches({"x": np.arange(4)}, 2)
        >>> for epoch in batches.epochs(2):
        ...     print(epoch, [batch["x"].tolist() for batch in batches])
        0 [[0, 1], [2, 3]]
        1 [[0, 1], [2, 3]]
        """
        while self._epoch < until:
            now = self._epoch
            yield now
            if self._epoch == now:
                self.seek(now + 1)

    def close(self) -> None:
        """End the workers; close the source, unless it was given as a Dataset."""
        if self._closed:
            return
        self._closed = True
        self._loop += 1
        if self._pool is not None:
            self._pool.close()
        if not self._given:
            self.dataset.close()
        MEMORY.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        count = len(self.dataset)
        ranks = f", rank {self.rank} of {self.world}" if self.world > 1 else ""
        return (
            f"Batches({self.dataset.where!r}, {self.batch_size} of {count:,}{ranks}, "
            f"epoch {self._epoch}, sample {self._sample:,})"
        )

    @property
    def _stride(self) -> int:
        """How many samples all ranks take in a step."""
        return self.batch_size * self.world

    def _walk(self, loop: int) -> Iterator[dict[str, Any]]:
        epoch, start = self._epoch, self._sample
        tasks = self.tasks(epoch, start)
        made: Generator[dict[str, Any], None, None]
        if self._wants_pool:
            if self._pool is None:
                self._pool = Processes(self.maker, self._workers, describe=self.maker.describe)
            made = self._pool.ahead(
                tasks, prefetch=max(self._prefetch, self._workers), then=self._placer.place
            )
        else:

            def make(task: Task) -> Any:
                with using(self._placer.memory):
                    return self._placer.place(self.maker(task))

            made = ahead(make, tasks, prefetch=self._prefetch, workers=self._workers)
        try:
            for batch in made:
                if loop != self._loop:
                    break
                start = min(start + self._stride, len(self.dataset))
                self._move(epoch, start)
                yield self._placer.hand_over(batch)
                if loop != self._loop:
                    break
        finally:
            made.close()
        if loop != self._loop:
            self._check_open()
            raise ArgumentError(
                "the place was moved while this loop was under way",
                where=self.dataset.where,
                cure="Begin a new loop after seek, load_state_dict or another loop.",
            )
        self._move(epoch + 1, 0)

    def _move(self, epoch: int, sample: int) -> None:
        self._epoch, self._sample = epoch, sample
        if self._followers is not None:
            self._followers.moved(epoch, sample)

    def tasks(self, epoch: int, start: int) -> Iterator[Task]:
        """Say what this rank reads in each step from a place on."""
        count, stride = len(self.dataset), self._stride
        order = Order(count, self.seed, epoch, self._block)
        steps = max(1, _TOGETHER // self.batch_size)
        while start + stride <= count:  # whole steps, many at a time
            starts = start + stride * np.arange(min(steps, (count - start) // stride))
            mine = starts[:, None] + (self.rank * self.batch_size + np.arange(self.batch_size))
            rows = order.at(mine.reshape(-1)).reshape(mine.shape)
            for at, own in zip(starts.tolist(), rows, strict=True):
                yield Task(epoch, at, self.rank, own)
            start += stride * len(starts)
        if start < count and not self.drop_last:
            each, more = divmod(count - start, self.world)
            first = start + self.rank * each + min(self.rank, more)
            mine = np.arange(first, first + each + (self.rank < more))
            # One for which nothing is left reads a sample all the same, to know the fields.
            rows = order.at(mine if mine.size else np.array([start]))
            yield Task(epoch, start, self.rank, rows, empty=not mine.size)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the batches were closed", where=self.dataset.where)


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is a whole number, not {value!r}") from None
    if isinstance(value, bool) or number < least:
        raise ArgumentError(f"{name} is {least} or more, not {value!r}")
    return number


def _checked(state: Any) -> dict[str, Any]:
    kinds: dict[str, type] = {
        "version": int,
        "epoch": int,
        "sample": int,
        "batch_size": int,
        "world": int,
        "digest": str,
        "samples": int,
        "seed": int,
        "block": int,
        "drop_last": bool,
    }
    if not isinstance(state, Mapping):
        raise CorruptError(f"the state of batches is a dict, not a {type(state).__name__}")
    given: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = state.get(name)
        if isinstance(value, np.generic):
            value = value.item()
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise CorruptError(
                f"the state of batches has {value!r} for {name!r}, where "
                f"{'text' if kind is str else kind.__name__} is needed",
                cure="Give what state_dict() gave.",
            )
        given[name] = value
    if given["version"] != _VERSION:
        raise MismatchError(
            f"the place was saved by another version of tensorkeep ({given['version']})",
            cure="Update tensorkeep.",
        )
    return given
