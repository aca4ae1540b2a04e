"""Fields that are tensors of a State: a sample of their bytes, and verifying one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tensorkeep.data.dataset import Dataset, Progress
from tensorkeep.data.fingerprint import sampled
from tensorkeep.source import Window
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


def looked_at(tensor: Tensor) -> bytes:
    """Sample the bytes of a field: many places where they are there, few that are decoded."""
    window = Window(tensor.source, tensor.offset, tensor.nbytes)
    if window.mapped or tensor.nbytes <= _LOOK * _LOOKS:
        return sampled(window)
    starts = np.linspace(0, tensor.nbytes - _LOOK, _LOOKS, dtype=np.int64).tolist()
    return b"".join(bytes(window.read(start, start + _LOOK)) for start in starts)
