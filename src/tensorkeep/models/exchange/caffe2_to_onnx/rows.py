"""The table with all its rows: importing this fills it."""

from __future__ import annotations

from tensorkeep.models.exchange.caffe2_to_onnx import (
    activations,
    arithmetic,
    controlling,
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
    recurring,
    reducing,
    reshaping,
    resizing,
    selecting,
    sparse,
)
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE

TOPICS = (
    activations,
    arithmetic,
    controlling,
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
    recurring,
    reducing,
    reshaping,
    resizing,
    selecting,
    sparse,
)

__all__ = ["TABLE", "TOPICS"]
