"""XXH3-128 of tensors' canonical bytes. It catches damage, not an attacker who can choose bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import xxhash

from tensorkeep.errors import CorruptError
from tensorkeep.tensor import Tensor

_PIECE = 4 << 20  # stays in cache between being read and being hashed
_WORTH_THREADS = 64 << 20
_FEW = 4  # checks that are not worth a thread
THREADS = min(4, os.cpu_count() or 1)


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
    rows = list(tensors.items())
    if sum(tensor.nbytes for _, tensor in rows) < _WORTH_THREADS:
        return {name: digest(tensor) for name, tensor in rows}
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(tensors, pool.map(lambda row: digest(row[1]), rows), strict=True))


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
