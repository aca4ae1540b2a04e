"""Small networks as texts and arrays, and what `nnef` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nnef
import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

TEXT = """version 1.0;

# made by hand
graph net( image ) -> ( probabilities )
{
    image = external<scalar>(shape = [1, 2, 4, 4]);
    filter = variable<scalar>(shape = [3, 2, 3, 3], label = 'conv1/filter');
    bias = variable<scalar>(shape = [1, 3], label = 'conv1/bias:0');
    again = variable<scalar>(shape = [1, 3], label = 'conv1/bias:0');
    steps = variable<integer>(shape = [2], label = 'steps');
    conv = conv(image, filter, bias, padding = [(0, 0), (0, 0)]);
    relu = relu(conv);
    moved = add(relu, unsqueeze(again, axes = [2]));
    probabilities = softmax(moved);
}
"""


def arrays() -> Arrays:
    pick = np.random.default_rng(7)
    return {
        "conv1/filter": pick.standard_normal((3, 2, 3, 3)).astype(np.float32),
        "conv1/bias:0": pick.standard_normal((1, 3)).astype(np.float32),
        "steps": np.array([-3, 2**40], np.int64),
    }


def write_model(folder: Path, text: str = TEXT, tensors: Arrays | None = None) -> Path:
    """Write a model as its text and, by nnef, a file for each label."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.nnef").write_text(text, encoding="utf-8")
    for label, array in (arrays() if tensors is None else tensors).items():
        path = folder / f"{label}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            nnef.write_tensor(file, array)
    return folder


def read_by_nnef(folder: Path) -> dict[str, Any]:
    """Give the variables of a model by their labels, as nnef reads them."""
    graph = nnef.load_graph(str(folder))
    return {
        operation.attribs["label"]: graph.tensors[operation.outputs["output"]].data
        for operation in graph.operations
        if operation.name == "variable"
    }


def same_graph(a: Path, b: Path) -> bool:
    """Whether nnef sees the same operations in two folders."""
    one, other = nnef.load_graph(str(a)), nnef.load_graph(str(b))
    same = (one.name, one.inputs, one.outputs) == (other.name, other.inputs, other.outputs)
    return same and one.operations == other.operations
