"""A model without the bytes of its large tensors, for libraries that take small messages alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tensorkeep import dtypes
from tensorkeep.errors import TensorKeepError
from tensorkeep.graph import Graph, fill_tensor, set_external
from tensorkeep.graph.codec import Absent
from tensorkeep.graph.schema import EXTERNAL
from tensorkeep.message import Message
from tensorkeep.models.scratch import scratch_folder

LARGE = 4096  # bytes: shapes and axes, which inference looks into, take less
WEIGHTS = "weights"


def lean(graph: Graph, large: int = LARGE) -> Message:
    """Give a model whose large tensors are said to lie in a file called `weights`, at its start.

    Small tensors that lie in other files are brought into it; what is damaged is left as it is.
    """
    thin = graph.copy()
    for place in thin.places().values():
        try:
            tensor = thin.read(place)
            if tensor.nbytes > large and tensor.dtype is not dtypes.STRING:
                set_external(place.message, WEIGHTS, 0, tensor.nbytes)
            elif place.message.data_location == EXTERNAL and not isinstance(tensor.source, Absent):
                fill_tensor(place.message, tensor)
        except TensorKeepError:
            continue
    return thin.model


@contextmanager
def lean_file(graph: Graph, large: int = LARGE) -> Iterator[str]:
    """Give the path of such a model, beside weights that are a hole of the right size.

    The files are in a folder of their own, which is removed in the end.
    """
    most = max((tensor.nbytes for tensor in graph.tensors.values()), default=0)
    with scratch_folder() as folder:
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as file:
            file.writelines(lean(graph, large).chunks())
        with open(os.path.join(folder, WEIGHTS), "wb") as file:
            file.truncate(most)  # takes no room on the disk
        yield path
