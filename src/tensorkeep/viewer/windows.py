"""Parts of tensors as a page draws them: windows of 2-D slices, exact values, filters as tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Tiles, Values, Window

Floats = npt.NDArray[np.float32]
Range = tuple[int, int]


def window(
    tensor: Tensor,
    axes: Sequence[int] | None = None,
    at: Sequence[int] | None = None,
    rows: Range | None = None,
    cols: Range | None = None,
    most: int = 256,
) -> tuple[Window, Floats]:
    """Give a part of a 2-D slice, every how many-th row and column is needed for `most` of each."""
    raise NotImplementedError


def values(
    tensor: Tensor,
    axes: Sequence[int] | None = None,
    at: Sequence[int] | None = None,
    rows: Range | None = None,
    cols: Range | None = None,
) -> Values:
    """Give a small part of a 2-D slice in full precision."""
    raise NotImplementedError


def tiles(tensor: Tensor, layout: str = "", first: int = 0, count: int = 64) -> tuple[Tiles, Any]:
    """Give the filters of a convolution as images."""
    raise NotImplementedError
