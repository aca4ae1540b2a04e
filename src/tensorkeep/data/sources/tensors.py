"""Fields that are tensors of a State: what digests cover of them, and verifying one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tensorkeep import checksum
from tensorkeep.data.dataset import Dataset, Progress
from tensorkeep.data.fingerprint import sampled
from tensorkeep.source import FileSource, Window
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

_LOOKS = 8  # places of a decoded field that its digest looks at
_LOOK = 4 << 10


def by_fields(
    dataset: Dataset,
    problems: Callable[[str], list[str]],
    tensors: Mapping[str, Tensor],
    progress: Progress | None,
) -> list[str]:
    """Verify field by field; progress is told as samples, by the bytes of the fields."""
    found: list[str] = []
    done, total = 0, sum(tensor.nbytes for tensor in tensors.values())
    for name, tensor in tensors.items():
        found += problems(name)
        done += tensor.nbytes
        if progress is not None and total:
            progress(len(dataset) * done // total, len(dataset))
    return found


def check(state: State, name: str, tensor: Tensor) -> bool:
    """Check a field by the digest or checksum that came with it; False where neither did.

    Raises:
        CorruptError: it is damaged.
    """
    if name in state.checks:
        state.checks[name]()
    kept = state.digests.get(name)
    if kept is not None and (found := checksum.digest(tensor)) != kept:
        raise checksum.mismatch(name, kept, found, state.where)
    return kept is not None or name in state.checks


def seen(state: State, tensors: Mapping[str, Tensor], path: str) -> list[str | bytes]:
    """Give what a dataset's digest covers of the bytes of its fields.

    The digests that came with all of them; or else a sample of the file, where they have to be
    decoded, or of each field.
    """
    if all(name in state.digests for name in tensors):
        return [state.digests[name] for name in tensors]
    if path and not all(tensor.source.mapped for tensor in tensors.values()):
        source = FileSource(path)
        try:
            return [sampled(source)]
        finally:
            source.close()
    return [_looked_at(tensor) for tensor in tensors.values()]


def _looked_at(tensor: Tensor) -> bytes:
    """Sample the bytes of a field: many places where they are there, few that are decoded."""
    window = Window(tensor.source, tensor.offset, tensor.nbytes)
    if window.mapped or tensor.nbytes <= _LOOK * _LOOKS:
        return sampled(window)
    starts = np.linspace(0, tensor.nbytes - _LOOK, _LOOKS, dtype=np.int64).tolist()
    return b"".join(bytes(window.read(start, start + _LOOK)) for start in starts)
