"""What is saved and loaded. Add a workload by one function and one row of WORKLOADS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    tensors: Callable[[bool], Iterator[tuple[str, tuple[int, ...], Any]]]
    one: str  # the tensor that is loaded alone

    def build(self, quick: bool) -> Arrays:
        """Fill the tensors with random bits, which no layer below can compress or share."""
        bits = np.random.default_rng(0)
        return {
            name: np.frombuffer(bytearray(bits.bytes(_bytes(shape, dtype))), dtype).reshape(shape)
            for name, shape, dtype in self.tensors(quick)
        }


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * int(np.dtype(dtype).itemsize)


def few_large(quick: bool) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    width = 128 if quick else 4096
    for i in range(16):
        yield f"layers.{i}.weight", (width, width), np.float32


def mixed(quick: bool) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """A transformer's weights in bfloat16, its norms and biases and one matrix in float32."""
    width = 64 if quick else 1024
    for i in range(50):
        yield f"layers.{i}.attention.weight", (3 * width, width), ml_dtypes.bfloat16
        yield f"layers.{i}.attention.bias", (3 * width,), np.float32
        yield f"layers.{i}.mlp.up.weight", (width, width), ml_dtypes.bfloat16
        yield f"layers.{i}.mlp.down.weight", (width, width * 85 // 64), np.float32
        yield f"layers.{i}.mlp.down.bias", (width,), np.float32
        yield f"layers.{i}.norm.weight", (width,), np.float32


def many_small(quick: bool) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    for i in range(500 if quick else 20_000):
        yield f"blocks.{i // 10}.{i % 10}.scale", (256,), np.float32


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("large", "1 GiB in 16 float32 tensors", few_large, "layers.7.weight"),
        Workload(
            "mixed",
            "700 MB in 300 tensors, bfloat16 and float32",
            mixed,
            "layers.25.mlp.up.weight",
        ),
        Workload("small", "20,000 tensors of 1 KiB", many_small, "blocks.30.5.scale"),
    )
}


def form(arrays: Arrays, kind: str) -> dict[str, Any]:
    """Give the state in the form that a peer takes, sharing the memory."""
    return {name: _FORMS[kind](array) for name, array in arrays.items()}


def _torch(array: np.ndarray[Any, Any]) -> Any:
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _plain(array: np.ndarray[Any, Any]) -> Any:
    """npz has no bfloat16: its bits are kept."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


_FORMS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "numpy": lambda array: array,
    "plain": _plain,
    "torch": _torch,
    "bytes": lambda array: array.reshape(-1).view(np.uint8).data,
}
