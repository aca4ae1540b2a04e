"""Apply a model to new data, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorkeep.api import ProgressReport
from tensorkeep.models.opening import Model
from tensorkeep.models.running.sessions import Configure, Inputs, Session, session


def run(
    model: Model,
    inputs: Inputs,
    outputs: str | Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    cast: bool = False,
    check: bool = True,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    configure: Configure | None = None,
    progress: ProgressReport | None = None,
) -> dict[str, Any]:
    """Apply a model to new data; `session` is for more than one call, since loading is the cost.

    Args:
        model: a path, or a State that is a model, edited or built ones included.
        inputs: by their names: NumPy, PyTorch or JAX arrays, Tensors, numbers or lists of them; a
            State or the path of any file of tensors; where the model has one input, that alone.
        outputs: the names of those to compute; all of them otherwise.
        batch_size: run in pieces of so many rows along the first axis, and read no more at a time.
        cast: cast inputs of another element type where no value is lost.
        check: compare element types and shapes with the model's before it runs.
        providers: where it runs, first choice first: "cpu", "cuda" or another of ONNX Runtime's.
        threads: how many an operator may use; as many as there are cores otherwise.
        configure: called with ONNX Runtime's SessionOptions before the model is loaded.
        progress: called with the rows done and the total.

    Returns:
        The outputs by name: arrays; lists, dicts or None where the model gives sequences, maps or
        optional values.

    Raises:
        ArgumentError: the inputs are not what the model takes.
        MismatchError: an operator does not work on what it is given.
        UnsupportedError: ONNX Runtime cannot run the model.
        MissingError: no such file, or weights that it needs are missing.
        MissingDependencyError: onnxruntime is not installed.

    >>> import numpy as np
    >>> from tensorkeep.models.running.examples import doubling
    >>> run(doubling(), {"x": np.arange(3, dtype="float32")})["y"].tolist()
    [0.0, 2.0, 4.0]
    """
    with session(model, providers=providers, threads=threads, configure=configure) as loaded:
        return loaded.run(
            inputs, outputs, batch_size=batch_size, cast=cast, check=check, progress=progress
        )


__all__ = ["Session", "run", "session"]
