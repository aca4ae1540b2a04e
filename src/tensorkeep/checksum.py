"""XXH3-128 of tensors' canonical bytes. It catches damage, not an attacker who can choose bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import xxhash

from tensorkeep.errors import CorruptError
from tensorkeep.source import innermost
from tensorkeep.tensor import Tensor
from tensorkeep.threads import working_ahead

_PIECE = 4 << 20  # stays in cache between being read and being hashed
_WORTH_THREADS = 64 << 20
_FEW = 4  # checks that are not worth a thread
THREADS = min(4, os.cpu_count() or 1)

_Found = TypeVar("_Found")


def digest(tensor: Tensor) -> str:
    """Hash a tensor's canonical bytes: 32 hex digits, the same for every format that holds it.

    >>> import numpy as np
    >>> digest(Tensor.of(np.arange(3, dtype="uint8")))
    'e3b55f57945a17cf5f4299fc161c9cbb'
    """
    if tensor.nbytes <= _PIECE:
        return xxhash.xxh3_128_hexdigest(tensor.read())
    hasher = xxhash.xxh3_128()
    for piece in tensor.pieces(_PIECE):
        hasher.update(piece)
    return hasher.hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Hash many tensors, on several threads where that pays."""
    threads = sum(tensor.nbytes for tensor in tensors.values()) >= _WORTH_THREADS
    found = dict(each(lambda name: digest(tensors[name]), tensors, threads=threads))
    return {name: found[name] for name in tensors}


def each(
    check: Callable[[str], _Found], tensors: Mapping[str, Tensor], *, threads: bool
) -> Iterator[tuple[str, _Found]]:
    """Call a function that reads a tensor with each name, on several threads if that pays.

    What comes over a network is read by one thread for each object, from its start to its end: the
    source then fetches ahead of it, as many pieces at a time as pay.

    Args:
        check: takes a name.
        tensors: by name.
        threads: whether they are worth it.
    """
    rows: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        source = tensor.source
        rows.setdefault(innermost(source, 0)[0] if source.remote else name, []).append(name)
    for names in rows.values():
        names.sort(key=lambda name: innermost(tensors[name].source, tensors[name].offset)[1])
    if not threads or len(rows) == 1:
        yield from ((name, check(name)) for names in rows.values() for name in names)
        return
    with working_ahead(THREADS) as pool:
        for found in pool.map(lambda names: [(n, check(n)) for n in names], rows.values()):
            yield from found


def check_all(checks: Sequence[Callable[[], None]]) -> None:
    """Run a container's own checks of many tensors, on several threads.

    Raises:
        CorruptError: one of them found damage; the first in their order.
    """
    if len(checks) < _FEW:
        for check in checks:
            check()
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda check: check(), checks):
            pass


def mismatch(name: str, expected: str, found: str, where: str) -> CorruptError:
    """Say that a tensor's bytes are not those that were saved."""
    return CorruptError(
        f"the tensor {name!r} is damaged: its XXH3-128 is {found}, {expected} was saved",
        where=where,
        cure="Use another copy of the file.",
    )
