"""ONNX to NNEF: a settled model, node by node, as NNEF's flat operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy.typing as npt

from tensorkeep.models.exchange.onnx_to_nnef import (
    activations,
    contracting,
    convolution,
    counting,
    elementwise,
    gathering,
    multiplying,
    normalizing,
    padding,
    pooling,
    quantizing,
    recurring,
    reducing,
    resizing,
    shaping,
)
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.whole import write
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settling import settle
from tensorkeep.state import State


def translate(
    state: State,
    report: Report,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, npt.ArrayLike] | None = None,
) -> State:
    """Translate an ONNX model to an NNEF document.

    Args:
        state: of the model.
        report: where what was done beside replacing operators is noted.
        shapes: of inputs whose axes vary.
        constants: the values of inputs that are to be fixed.

    Raises:
        TranslationError: it has nodes that NNEF cannot say; all of them are listed.
    """
    settled = settle(state, report, shapes=shapes, constants=constants, keeps=TABLE)
    made = write(settled, report)
    return made.replace(close=state.close)


# The files whose rows TABLE is made of.
TOPICS = (
    activations,
    contracting,
    convolution,
    counting,
    elementwise,
    gathering,
    multiplying,
    normalizing,
    padding,
    pooling,
    quantizing,
    recurring,
    reducing,
    resizing,
    shaping,
)

__all__ = ["TABLE", "translate", "write"]
