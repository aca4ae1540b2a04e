"""NNEF documents run by the nnef package's own executor, which knows nothing of ONNX.

It computes in float32 and 32-bit integers, and not all of NNEF.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nnef
import numpy as np
import numpy.typing as npt
from tests.models.exchange import nnef_executor

from tensorkeep.state import State
from tensorkeep.wire.nnef.document import Document

Array = npt.NDArray[Any]
_PLAIN = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}


def write(state: State, folder: Path) -> None:
    """Write a model as a folder, its tensors as the nnef package writes them."""
    document = document_of(state)
    (folder / "graph.nnef").write_text(document.to_text())
    for operation in document.operations():
        if operation.name == "variable":
            (identifier,) = operation.outputs()
            label = str(operation.arguments["label"])
            path = folder / f"{label}.dat"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                nnef.write_tensor(
                    file, _plain(state[document.names.get(identifier, label)].numpy())
                )


def run(state: State, inputs: Mapping[str, Array], folder: Path) -> dict[str, Array]:
    """Run a model; its inputs and outputs by the names that they have in ONNX."""
    document = document_of(state)
    write(state, folder)
    given = [_plain(inputs[document.name_of(name)]) for name in document.inputs]
    np.savez(folder / "inputs.npz", *given)
    command = [sys.executable, nnef_executor.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-1000:]
    with np.load(folder / "outputs.npz") as held:
        outputs = [held[name] for name in held.files]
    return dict(zip(map(document.name_of, document.outputs), outputs, strict=True))


def inferred_shapes(state: State) -> dict[str, tuple[int, ...]]:
    """Give the shapes of the outputs that the nnef package infers from the text alone."""
    document = document_of(state)
    graph = nnef.parse_string(document.to_text())
    nnef.infer_shapes(graph)
    return {document.name_of(name): tuple(graph.tensors[name].shape) for name in graph.outputs}


def document_of(state: State) -> Document:
    """Give the state's NNEF document."""
    assert isinstance(state.document, Document)
    return state.document


def _plain(array: Array) -> Array:
    return np.array(array, _PLAIN[array.dtype.kind], order="C")
