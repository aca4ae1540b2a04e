"""A model without its large tensors, for onnx's process; and these tensors, by marks in it."""

from __future__ import annotations

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.graph import Graph, fill_tensor, read_tensor, set_external
from tensorkeep.graph.codec import Absent, external_entries
from tensorkeep.graph.schema import EXTERNAL
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor

FEW = 4096  # bytes of a tensor that inference may look into
FEW_INTEGERS = 1 << 16  # bytes of one that may be shapes, axes or places
_MOST_DENSE = 64 << 20


class Thin:
    """A model whose large tensors are said to lie in files, each named by a number.

    Attributes:
        model: the ModelProto.
    """

    def __init__(self, graph: Graph) -> None:
        self.model = graph.model
        self._where = graph.where
        self._tensors: list[Tensor] = []
        for place in graph.places().values():
            tensor = graph.read(place)
            most = FEW if tensor.dtype.kind == "float" else FEW_INTEGERS
            if tensor.nbytes > most or isinstance(tensor.source, Absent):
                set_external(place.message, str(len(self._tensors)), 0, tensor.nbytes)
                self._tensors.append(tensor)
            elif place.message.data_location == EXTERNAL:
                fill_tensor(place.message, tensor)

    def tensor(self, message: Message) -> Tensor:
        """Give the tensor that a TensorProto stands for."""
        if message.data_location != EXTERNAL:
            return read_tensor(message, f"{self._where}: {message.name}")
        place = external_entries(message).get("location", "")
        return self._tensors[int(place)]


def make_dense(graph: Graph, main: Message) -> list[str]:
    """Write sparse initializers of a GraphProto as others; gives their names.

    Raises:
        CorruptError: a place is not in the tensor.
        UnsupportedError: it would be large.
    """
    names = []
    for sparse in main.sparse_initializer:
        name = str(sparse["values"].name)
        where = f"{graph.where}: {name}"
        values = read_tensor(sparse["values"], where, graph.opener)
        places = read_tensor(sparse.indices, where, graph.opener).numpy()
        shape = tuple(sparse.dims.tolist())
        if any(axis < 0 for axis in shape) or len(shape) > 32 or values.ndim != 1:
            raise CorruptError(f"no sparse tensor has shape {shape[:8]}", where=where)
        if values.dtype.nbytes(dtypes.count_of(shape)) > _MOST_DENSE:
            raise UnsupportedError("is sparse, and too large to be written out", where=where)
        array = np.zeros(shape, values.numpy().dtype)
        if places.ndim == 2 and places.shape[1:] == (len(shape),):
            rows = places
        elif places.ndim == 1:
            rows = places.reshape(-1, 1)
            array = array.reshape(-1)
        else:
            raise CorruptError(f"has indices of shape {places.shape}", where=where)
        inside = rows.size == 0 or bool(((rows >= 0) & (rows < array.shape)).all())
        if len(rows) != values.size or not inside:
            raise CorruptError("has a value at a place that is not in it", where=where)
        array[tuple(rows.T)] = values.numpy()
        fill_tensor(main.add("initializer", name=name), Tensor.of(array.reshape(shape), where))
        names.append(name)
    main.drop("sparse_initializer")
    return names
