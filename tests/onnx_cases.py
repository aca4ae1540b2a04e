"""ONNX's own cases of single operators: a model and inputs for each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx.backend.test.loader import load_model_tests
from onnx.reference.ops import op_pool_common


@cache
def node_cases() -> list[Any]:
    """Give the cases; the outputs that they expect of pooling are zeros.

    ONNX computes those window by window, which would take longer than all else.
    """
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # NumPy's, about the numbers of these cases
        patch.setattr(op_pool_common, "pool", _zeros)
        return list(load_model_tests(kind="node"))


def _zeros(
    padded: npt.NDArray[Any],
    shape: Sequence[int],
    _kernel: object,
    _strides: object,
    out_shape: Sequence[int],
    *_args: object,
    **_options: object,
) -> npt.NDArray[Any]:
    return np.zeros((*shape[:2], *out_shape), padded.dtype)
