"""Translate a model from the dialect it is in to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.models.exchange import (
    caffe2_to_onnx,
    nnef_to_onnx,
    onnx_to_caffe2,
    onnx_to_nnef,
)
from tensorkeep.models.exchange.caffe2_to_onnx.opening import is_caffe2, open_caffe2
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.opening import open_whole
from tensorkeep.similar import did_you_mean
from tensorkeep.state import State
from tensorkeep.stores import Target

DIALECTS = ("onnx", "nnef", "caffe2")
Shapes = Mapping[str, Sequence[int]]
Weights = Target | State | Mapping[str, Any]


class Translated(NamedTuple):
    """A model in another dialect, and what was done to it on the way."""

    state: State
    report: Report


def translate(
    model: Target | State,
    dialect: str,
    *,
    shapes: Shapes | None = None,
    constants: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
) -> Translated:
    """Translate a model to another dialect; nothing of it is run.

    Every operator is said in the other dialect exactly, or refused: then nothing is translated, and
    the error lists all that would have to change.

    Args:
        model: a path, or the State of a model; it is not changed.
        dialect: "onnx", "nnef" or "caffe2".
        shapes: of inputs, where a model leaves axes open and the other dialect, or an operator,
            needs them: {"x": (1, 3, 224, 224)}.
        constants: inputs of an ONNX model to fix, by name: what NNEF and Caffe2 take as an
            attribute, such as a shape, cannot be an input there.
        weights: what fills the blobs of a Caffe2 net, where its init net is not beside it: an init
            net, a checkpoint or any other file, a State or arrays by name.

    Returns:
        the model, and a report of what was fixed, folded, expanded, renamed and dropped.

    Raises:
        TranslationError: operators cannot be said in the other dialect; it lists all of them.
        ArgumentError: there is no such dialect, or an argument does not fit the model.
        MissingError: there is no such file, or weights are missing.

    >>> from tensorkeep.models.running.examples import doubling
    >>> state, report = translate(doubling(), "nnef", shapes={"x": (4,)})
    >>> state.document.summary(), [str(remark) for remark in report.ordered()]
    ('2 operations', ['fixed x: its shape is [4]'])
    """
    if dialect not in DIALECTS:
        raise ArgumentError(
            f"there is no dialect {dialect!r}",
            cure=did_you_mean(str(dialect), DIALECTS) or f"There are {', '.join(DIALECTS)}.",
        )
    state = model if isinstance(model, State) else open_whole(model)
    try:
        return _translate(state, dialect, shapes, constants, weights)
    except TensorKeepError:
        if state is not model:
            state.close()
        raise


def _translate(
    state: State,
    dialect: str,
    shapes: Shapes | None,
    constants: Mapping[str, Any] | None,
    weights: Weights | None,
) -> Translated:
    if is_caffe2(state):
        state, weights = open_caffe2(state, weights), None
    if not state.dialect:
        raise ArgumentError(
            "holds tensors, but no model",
            where=state.where,
            cure="Give a model: ONNX, NNEF, or a Caffe2 predict net.",
        )
    report = Report(state.dialect, dialect)
    if weights is not None:
        raise ArgumentError(
            f"weights fill the blobs of a Caffe2 net; this is {state.dialect.upper()}",
            where=state.where,
            cure="Put weights into an ONNX model by tensorkeep.models.merge.",
        )
    if state.dialect == dialect and not shapes and not constants:
        return Translated(state, report)
    if state.dialect != "onnx" and constants and dialect == "onnx":
        raise ArgumentError("constants are for models that come from ONNX", where=state.where)
    hub = _to_onnx(state, report, shapes)
    made = hub
    if dialect == "nnef":
        made = onnx_to_nnef.translate(hub, report, shapes=shapes, constants=constants)
    elif dialect == "caffe2":
        made = onnx_to_caffe2.translate(hub, report, shapes=shapes, constants=constants)
    return Translated(made.replace(close=state.close), report)


def _to_onnx(state: State, report: Report, shapes: Shapes | None) -> State:
    if state.dialect == "nnef":
        return nnef_to_onnx.translate(state, report)
    if state.dialect == "caffe2":
        return caffe2_to_onnx.translate(state, report, shapes=shapes)
    return state
