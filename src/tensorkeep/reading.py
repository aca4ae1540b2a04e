"""Turn many tensors into writable arrays: by copy-on-write maps, or by few large parallel reads.

Over a network the pieces are the same, but what a request costs makes it worth to read more that is
not wanted between two tensors, and to have many under way at a time, whatever the processors are.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tensorkeep.checksum import THREADS, check_all, digest, mismatch
from tensorkeep.dtypes import STRING, DType
from tensorkeep.source import Source, innermost
from tensorkeep.store import Progress
from tensorkeep.tensor import Tensor
from tensorkeep.threads import REQUESTS, at_once

_ALIGN = 64
_ARENA = 64 << 20  # tensors that lie together are read into one allocation of about this size
_TASK = 8 << 20  # what one thread reads, and hashes while it is in cache, at a time
_GAP = 64 << 10  # bytes that are not wanted but cheaper to read than to skip
_REMOTE_GAP = 1 << 20  # the same over a network, where as many at least are wanted


_Task = tuple[int, Callable[[], None]]  # how many bytes it reads, and what reads them


class Filling(ABC):
    """The check of a tensor, all of which it reads: so it can fill an array with it meanwhile."""

    @abstractmethod
    def __call__(self) -> None:
        """Check the tensor alone."""

    @abstractmethod
    def fills(self, array: npt.NDArray[Any]) -> Iterator[_Task]:
        """Give tasks that fill an array of its type and shape, each checking what it reads."""


def read_arrays(
    tensors: Mapping[str, Tensor],
    *,
    copy: bool = False,
    digests: Mapping[str, str] | None = None,
    checks: Mapping[str, Callable[[], None]] | None = None,
    progress: Progress | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Read tensors as writable arrays that share nothing with the file.

    Mapped files give copy-on-write views, read when they are touched; `copy` reads them now, and
    everything else always is.

    Args:
        tensors: what to read, by name.
        copy: read mapped files too.
        digests: the XXH3-128 that tensors have to have, by name; the others are not checked.
        checks: the containers' own checks, by name, which have to hold too.
        progress: called with the number of bytes read since the last call.

    Raises:
        CorruptError: a tensor's bytes are not those that were saved.
    """
    expected = digests or {}
    arrays: dict[str, npt.NDArray[Any]] = {}
    mapped: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    maps: dict[Source, memoryview | None] = {}
    alignments: dict[DType, int] = {}
    filling: dict[str, Tensor] = {}
    if checks:
        filling = {n: t for n, t in tensors.items() if isinstance(checks.get(n), Filling)}
        check_all([checks[name] for name in tensors if name in checks and name not in filling])
        _fill(filling, checks, arrays, progress)
    for name, tensor in tensors.items():
        if name in filling:
            continue
        kind, source, offset = tensor.dtype, tensor.source, tensor.offset
        alignment = alignments.get(kind)
        if alignment is None:
            decoded = kind.packed or kind is STRING
            alignment = alignments[kind] = 0 if decoded else kind.numpy.alignment
        if not alignment or not tensor.nbytes:
            arrays[name] = _decoded(name, tensor, expected)
            continue
        if source not in maps:
            maps[source] = None if copy or not source.mapped else source.private(0, source.size)
        memory = maps[source]
        if memory is None or offset % alignment:
            plain[name] = _unwrapped(tensor) if source.remote else tensor
        else:
            mapped[name] = tensor
            arrays[name] = np.ndarray(tensor.shape, kind.numpy, memory, offset)
    if mapped and expected:
        _verify_mapped(mapped, arrays, expected, progress)
    if plain:
        _read(plain, arrays, expected, progress)
    return arrays


def _fill(
    tensors: Mapping[str, Tensor],
    checks: Mapping[str, Callable[[], None]],
    arrays: dict[str, npt.NDArray[Any]],
    progress: Progress | None,
) -> None:
    near: list[_Task] = []
    far: list[_Task] = []
    for name, tensor in tensors.items():
        check = checks[name]
        assert isinstance(check, Filling)
        arrays[name] = np.empty(tensor.shape, tensor.dtype.numpy)
        (far if tensor.source.remote else near).extend(check.fills(arrays[name]))
    _run_all(near, progress)
    if far:
        at_once([partial(_run, [task]) for task in far], progress)


def _unwrapped(tensor: Tensor) -> Tensor:
    """Look through windows, so that tensors that lie together are seen to."""
    source, offset = innermost(tensor.source, tensor.offset)
    return Tensor(tensor.dtype, tensor.shape, source, offset, tensor.nbytes)


def _decoded(name: str, tensor: Tensor, expected: Mapping[str, str]) -> npt.NDArray[Any]:
    if name in expected and (found := digest(tensor)) != expected[name]:
        raise mismatch(name, expected[name], found, tensor.source.where)
    values = tensor.numpy()
    return values if values.flags.writeable else values.copy()


def _verify_mapped(
    tensors: Mapping[str, Tensor],
    arrays: Mapping[str, npt.NDArray[Any]],
    expected: Mapping[str, str],
    progress: Progress | None,
) -> None:
    def check(name: str, tensor: Tensor) -> None:
        # Through the map that is given out: its pages are then there when they are used.
        memory = arrays[name].reshape(-1).view(np.uint8).data
        hasher = xxhash.xxh3_128()
        for at in range(0, tensor.nbytes, _TASK):
            hasher.update(memory[at : at + _TASK])
        if (found := hasher.hexdigest()) != expected[name]:
            raise mismatch(name, expected[name], found, tensor.source.where)

    _run_all(
        ((t.nbytes, partial(check, name, t)) for name, t in tensors.items() if name in expected),
        progress,
    )


@dataclass(slots=True)
class _Arena:
    """Tensors that lie together in a source, read into one allocation."""

    source: Source
    start: int
    stop: int
    rows: list[tuple[str, Tensor]]

    def joins(self, start: int, stop: int) -> bool:
        """Say whether a tensor behind the others is better read with them than apart."""
        gap = start - self.stop
        allowed = _GAP
        if self.source.remote:
            allowed = max(_GAP, min(_REMOTE_GAP, self.stop - self.start, stop - start))
        return gap <= allowed and stop - self.start <= _ARENA

    def place(self, arrays: dict[str, npt.NDArray[Any]]) -> memoryview:
        """Allocate, and make the arrays; their bytes follow."""
        self.source.reach(self.start, self.stop)
        block = np.empty(self.stop - self.start + _ALIGN, np.uint8)
        # Keep the file's alignment where that aligns the tensors, as it nearly always does.
        aligned = all(t.offset % t.dtype.numpy.alignment == 0 for _, t in self.rows)
        shift = ((self.start if aligned else 0) - block.ctypes.data) % _ALIGN
        memory = block.data[shift : shift + self.stop - self.start]
        for name, tensor in self.rows:
            at = tensor.offset - self.start
            arrays[name] = np.ndarray(tensor.shape, tensor.dtype.numpy, memory, at)
        return memory


def _arenas(tensors: Mapping[str, Tensor]) -> Iterator[_Arena]:
    by_source: dict[Source, list[tuple[str, Tensor]]] = {}
    for row in tensors.items():
        by_source.setdefault(row[1].source, []).append(row)
    for source, rows in by_source.items():
        rows.sort(key=lambda row: row[1].offset)
        arena: _Arena | None = None
        for name, tensor in rows:
            start, stop = tensor.offset, tensor.offset + tensor.nbytes
            aligned = start % tensor.dtype.numpy.alignment == 0
            if arena is not None and aligned and arena.joins(start, stop):
                arena.stop = max(arena.stop, stop)
                arena.rows.append((name, tensor))
                continue
            if arena is not None:
                yield arena
            arena = _Arena(source, start, stop, [(name, tensor)])
            if not aligned:
                yield arena
                arena = None
        if arena is not None:
            yield arena


def _read(
    tensors: Mapping[str, Tensor],
    arrays: dict[str, npt.NDArray[Any]],
    expected: Mapping[str, str],
    progress: Progress | None,
) -> None:
    far = {name: tensor for name, tensor in tensors.items() if tensor.source.remote}
    near = {n: t for n, t in tensors.items() if n not in far} if far else tensors
    if far:
        _fetch(far, arrays, expected, progress)
    tasks = (
        task for arena in _arenas(near) for task in _tasks(arena, arena.place(arrays), expected)
    )
    _run_all(tasks, progress)


def _fetch(
    tensors: Mapping[str, Tensor],
    arrays: dict[str, npt.NDArray[Any]],
    expected: Mapping[str, str],
    progress: Progress | None,
) -> None:
    """Read over a network: many requests at a time, and each goes straight into the arrays."""
    # Few requests for much, since each is paid for; enough of them that all threads end together.
    total = sum(tensor.nbytes for tensor in tensors.values())
    size = min(max(_TASK, total // (2 * REQUESTS)), _ARENA)
    tasks = [
        task
        for arena in _arenas(tensors)
        for task in _requests(arena, arena.place(arrays), expected, size)
    ]
    at_once(tasks, progress)


def _requests(
    arena: _Arena, memory: memoryview, expected: Mapping[str, str], size: int
) -> list[Callable[[], int]]:
    """Split the reading of an arena; what ends last looks at the digests of its tensors.

    Each part gives how many bytes of tensors it stands for, with those of no tensor left out.
    """
    checked = [row for row in arena.rows if row[0] in expected]
    starts = range(arena.start, arena.stop, size)
    lock = threading.Lock()
    wanted, missing = sum(tensor.nbytes for _, tensor in arena.rows), len(starts)

    def fetch(start: int) -> int:
        nonlocal missing
        stop = min(start + size, arena.stop)
        arena.source.readinto(start, memory[start - arena.start : stop - arena.start])
        with lock:
            missing -= 1
            last = missing == 0
            before = wanted * (len(starts) - missing - 1) // len(starts)
            now = wanted * (len(starts) - missing) // len(starts)
        for name, tensor in checked if last else ():
            at = tensor.offset - arena.start
            found = xxhash.xxh3_128_hexdigest(memory[at : at + tensor.nbytes])
            if found != expected[name]:
                raise mismatch(name, expected[name], found, tensor.source.where)
        return now - before

    return [partial(fetch, start) for start in starts]


def _run_all(tasks: Iterable[_Task], progress: Progress | None) -> None:
    bundles = list(_bundled(tasks))
    if THREADS == 1 or len(bundles) <= 1:
        _report(map(_run, bundles), progress)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        _report(pool.map(_run, bundles), progress)


def _bundled(tasks: Iterable[_Task]) -> Iterator[list[_Task]]:
    """Put small tasks together, so that each bundle is worth handing to a thread."""
    bundle: list[_Task] = []
    size = 0
    for task in tasks:
        bundle.append(task)
        size += task[0]
        if size >= _TASK:
            yield bundle
            bundle, size = [], 0
    if bundle:
        yield bundle


def _run(bundle: list[_Task]) -> int:
    for _, task in bundle:
        task()
    return sum(size for size, _ in bundle)


def _report(counts: Iterable[int], progress: Progress | None) -> None:
    for count in counts:
        if progress is not None:
            progress(count)


def _tasks(arena: _Arena, memory: memoryview, expected: Mapping[str, str]) -> Iterator[_Task]:
    """Split the reading of an arena into parts of a few megabytes, at tensors where they fit."""

    def fill(start: int, stop: int, rows: list[tuple[str, Tensor]]) -> None:
        # A tensor of many pieces is hashed as they come, while each is in cache.
        alone = len(rows) == 1 and rows[0][1].offset == start and rows[0][1].nbytes == stop - start
        hasher = xxhash.xxh3_128()
        for at in range(start, stop, _TASK):
            end = min(at + _TASK, stop)
            piece = memory[at - arena.start : end - arena.start]
            arena.source.readinto(at, piece)
            if alone:
                hasher.update(piece)
        for name, tensor in rows:
            begin = tensor.offset - arena.start
            held = memory[begin : begin + tensor.nbytes]
            found = hasher.hexdigest() if alone else xxhash.xxh3_128_hexdigest(held)
            if found != expected[name]:
                raise mismatch(name, expected[name], found, tensor.source.where)

    group: list[tuple[str, Tensor]] = []
    start = stop = arena.start

    def tasks() -> Iterator[_Task]:
        checked = [row for row in group if row[0] in expected]
        step = stop - start if checked else _TASK
        for at in range(start, stop, step):
            end = min(at + step, stop)
            yield end - at, partial(fill, at, end, checked)

    for name, tensor in arena.rows:
        if group and tensor.offset + tensor.nbytes - start > _TASK:
            yield from tasks()
            group, start = [], tensor.offset
        group.append((name, tensor))
        stop = max(stop, tensor.offset + tensor.nbytes)
    yield from tasks()
