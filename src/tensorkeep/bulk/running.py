"""Run a task for many items: here, in processes, or on a cluster."""

from __future__ import annotations

import heapq
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from tensorkeep.bulk.attempts import Answer, Task
from tensorkeep.bulk.engine import Engine, cores
from tensorkeep.bulk.here import Here
from tensorkeep.bulk.items import Item, as_item, listed, modified
from tensorkeep.bulk.journal import Journal
from tensorkeep.bulk.outcomes import Outcome, Summary, judge
from tensorkeep.errors import ArgumentError

Progress = Callable[[int, int, int, int], None]

ENGINES = ("ray", "dask")
_MOST = 10_000  # jobs
_LONGEST = 60.0  # seconds between two tries


def run(
    task: Task,
    items: Iterable[Item | str | os.PathLike[str]],
    *,
    jobs: int | None = None,
    on: str | None = None,
    retries: int = 2,
    backoff: float = 0.5,
    journal: str | os.PathLike[str] | None = None,
    finished: Callable[[Outcome], None] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Do a task for each item, and say what became of all.

    What fails because of the network, the disk or a process that dies is tried again; damage is
    not: it is an answer. One item's failure keeps no other from being done. The answer is the same
    whatever does the work.

    Args:
        task: an importable function (or a partial of one) of an Item; gives a small dict of JSON.
            Of its keys, "bytes" is what it worked on, "problem" says that the item is damaged, and
            "skipped" why there was nothing to do.
        items: paths, URLs or Items; see `find`.
        jobs: how many at once: in this process if 1, else in that many others; 0 for as many as
            there are cores. On a cluster None means all of its cores.
        on: "ray" or "dask", for the cluster that RAY_ADDRESS or DASK_SCHEDULER_ADDRESS names, or a
            small one that is started on this machine.
        retries: how often to try again what may pass.
        backoff: seconds to wait before that; twice as long each time.
        journal: a file that keeps what was done, for a later run to go on from.
        finished: called with the outcome of each item, in the order in which they end.
        progress: called with items done, items, bytes done, bytes.

    Raises:
        ArgumentError: an argument makes no sense.
        MissingDependencyError: the cluster's library is not installed.
        StoreError: there is no cluster, or no journal can be written.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> from tensorkeep.bulk.verifying import verify
    >>> folder = tempfile.mkdtemp()
    >>> for name in "ab":
    ...     tk.save({"w": np.ones(3)}, f"{folder}/{name}.safetensors")
    >>> run(verify, [f"{folder}/a.safetensors", f"{folder}/b.safetensors"]).counts
    {'done': 2, 'damaged': 0, 'failed': 0, 'skipped': 0}
    """
    begun = time.monotonic()
    given = [as_item(item) for item in listed(items)]
    _check(task, jobs, on, retries, backoff, given, finished, progress)
    outcomes: dict[int, Outcome] = {}
    tally = _Tally(given, progress)

    def settle(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome
        tally.add(outcome.item)
        if finished is not None:
            finished(outcome)

    with ExitStack() as stack:
        log = None
        if journal is not None:
            log = Journal(journal, task)
            stack.callback(log.close)
        waiting: list[int] = []
        for number, item in enumerate(given):
            line = None if log is None else log.done(item)
            if line is not None and item.target and modified(item.target) is None:
                line = None  # what was written is gone
            if line is None:
                waiting.append(number)
            else:
                known = line.get("result") or {}
                told = "done before, and not changed since"
                settle(number, Outcome(item, "skipped", told, known, {}, 0))
        if waiting:
            engine = _engine(task, jobs, on, len(waiting))
            stack.callback(engine.close)
            for number, outcome in _Work(engine, given, retries, backoff).outcomes(waiting):
                if log is not None:
                    log.note(outcome)
                settle(number, outcome)
    return Summary([outcomes[number] for number in range(len(given))], time.monotonic() - begun)


class _Work:
    """Keeps an engine busy, and tries again later what may pass."""

    def __init__(self, engine: Engine, items: list[Item], retries: int, backoff: float) -> None:
        self._engine = engine
        self._items = [item.absolute() for item in items] if engine.far else items
        self._given = items
        self._retries = retries
        self._backoff = backoff
        self._tries: Counter[int] = Counter()
        self._later: list[tuple[float, int]] = []

    def outcomes(self, numbers: Iterable[int]) -> Iterable[tuple[int, Outcome]]:
        """Give the outcomes of items as they are there."""
        waiting, working = deque(numbers), 0
        while waiting or self._later or working:
            while self._later and self._later[0][0] <= time.monotonic():
                waiting.append(heapq.heappop(self._later)[1])
            while waiting and working < self._engine.room:
                number = waiting.popleft()
                self._engine.start(number, self._items[number])
                working += 1
            patience = None
            if self._later and working < self._engine.room:
                patience = max(0.0, self._later[0][0] - time.monotonic())
            if not working:
                time.sleep(patience or 0.0)
                continue
            for number, answer in self._engine.finished(patience):
                working -= 1
                if not self._again(number, answer):
                    item, sent = self._given[number], self._items[number]
                    yield number, judge(item, answer, self._tries[number], sent)

    def _again(self, number: int, answer: Answer) -> bool:
        self._tries[number] += 1
        tries = self._tries[number]
        if tries > self._retries or not answer.get("error", {}).get("passing"):
            return False
        pause = min(_LONGEST, self._backoff * 2 ** (tries - 1))
        heapq.heappush(self._later, (time.monotonic() + pause, number))
        return True


class _Tally:
    """Counts items and bytes for whoever watches."""

    def __init__(self, items: list[Item], progress: Progress | None) -> None:
        self._progress = progress
        self._items, self._bytes = len(items), sum(item.size for item in items)
        self._done = self._done_bytes = 0

    def add(self, item: Item) -> None:
        self._done += 1
        self._done_bytes += item.size
        if self._progress is not None:
            self._progress(self._done, self._items, self._done_bytes, self._bytes)


def _engine(task: Task, jobs: int | None, on: str | None, items: int) -> Engine:
    if on == "ray":
        from tensorkeep.bulk.ray import Ray

        return Ray(task, jobs or 0)
    if on == "dask":
        from tensorkeep.bulk.dask import Dask

        return Dask(task, jobs or 0)
    many = cores() if jobs == 0 else jobs or 1
    if many == 1:
        return Here(task)
    from tensorkeep.bulk.processes import Processes

    return Processes(task, min(many, items))


def _check(
    task: Task,
    jobs: int | None,
    on: str | None,
    retries: int,
    backoff: float,
    items: list[Item],
    finished: object,
    progress: object,
) -> None:
    if not callable(task):
        raise ArgumentError(f"a task is a function of an item, not {type(task).__name__}")
    for name, report in (("finished", finished), ("progress", progress)):
        if report is not None and not callable(report):
            raise ArgumentError(f"{name} has to be a function, not {type(report).__name__}")
    if on is not None and on not in ENGINES:
        raise ArgumentError(f"on={on!r} is no cluster", cure=f"There are {' and '.join(ENGINES)}.")
    if jobs is not None and (type(jobs) is not int or jobs < 0):
        raise ArgumentError(f"jobs={jobs!r} was given", cure="0 or more can work.")
    if type(retries) is not int or retries < 0 or not _is_pause(backoff):
        raise ArgumentError(f"retries={retries!r}, backoff={backoff!r}: 0 or more can be tried")
    if jobs is not None and jobs > _MOST:
        raise ArgumentError(f"jobs={jobs!r} was given", cure=f"{_MOST:,} at most can work.")
    twice = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if twice:
        raise ArgumentError("is given twice", where=twice[0], cure="Give each item once.")


def _is_pause(seconds: object) -> bool:
    return (
        isinstance(seconds, int | float)
        and not isinstance(seconds, bool)
        and 0 <= seconds < math.inf
    )
