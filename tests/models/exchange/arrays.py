"""Arrays of the element types that Caffe2 has, from lists."""

from __future__ import annotations

from typing import Any

import numpy as np


def floats(values: Any) -> Any:
    """Give an array of float32."""
    return np.array(values, np.float32)


def int32s(values: Any) -> Any:
    """Give an array of int32."""
    return np.array(values, np.int32)


def int64s(values: Any) -> Any:
    """Give an array of int64."""
    return np.array(values, np.int64)
