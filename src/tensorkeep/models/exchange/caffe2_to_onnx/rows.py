"""The table with all its rows: importing this fills it."""

from __future__ import annotations

from tensorkeep.models.exchange.caffe2_to_onnx import (
    activations,
    arithmetic,
    convolutions,
    copies,
    detecting,
    fills,
    joining,
    multiplying,
    normalizing,
    pooling,
    proposing,
    pyramids,
    quantized,
    reducing,
    reshaping,
    resizing,
    selecting,
)
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE

TOPICS = (
    activations,
    arithmetic,
    convolutions,
    copies,
    detecting,
    fills,
    joining,
    multiplying,
    normalizing,
    pooling,
    proposing,
    pyramids,
    quantized,
    reducing,
    reshaping,
    resizing,
    selecting,
)

__all__ = ["TABLE", "TOPICS"]
