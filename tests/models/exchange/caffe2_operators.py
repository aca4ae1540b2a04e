"""The operators of Caffe2's that tests can run, by their types.

What they compute is in `caffe2_elements`, `caffe2_layers` and `caffe2_moves`; they know nothing of
ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
FLOAT = ("float32",)
NUMBERS = ("float32", "int32", "int64")
COMPARED = (*NUMBERS, "bool")
ANY = (*COMPARED, "uint8", "int8", "float16", "float64", "object")
CASTS = {1: "float32", 2: "int32", 5: "bool", 6: "uint8", 10: "int64"}

Given = dict[str, Any]
Run = Callable[..., Any]
OPERATORS: dict[str, tuple[Run, tuple[str, ...], int, int, int]] = {}


def operator(
    *names: str, types: tuple[str, ...] = FLOAT, inputs: int = 1, most: int = 0, outputs: int = 1
) -> Callable[[Run], Run]:
    """Register what operators compute: the types of the first input, how many they take."""

    def register(run: Run) -> Run:
        for name in names:
            OPERATORS[name] = (run, types, inputs, most or inputs, outputs)
        return run

    return register
