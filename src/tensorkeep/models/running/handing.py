"""Hand a model to ONNX Runtime: a small message, and its large tensors apart from it.

A large tensor that lies in a file, at a multiple of its element's width, is named as a range of
that file, be it the model's own, and ONNX Runtime maps it as it maps external data. The file is the
one that was opened and checked here: where its name means another one by now, it is not named. What
else is large is shown as an array in memory, which ONNX Runtime copies. So no message ever holds
the weights; protobuf reads none of 2 GiB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.errors import UnsupportedError
from tensorkeep.formats.onnx.building import build
from tensorkeep.graph import NUMBERS, Graph, Place, fill_tensor, set_external
from tensorkeep.graph.schema import EXTERNAL
from tensorkeep.models.scratch import scratch_folder
from tensorkeep.source import file_place
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

LARGE = 64 << 10  # bytes: shapes and axes, which are looked into while a model is loaded, take less
MOST = (2 << 30) - 1  # bytes: no reader of protobuf takes a message of more
ROOT = "/"  # the folder that files are named from
_MEMORY = "memory"  # stands for a file where a tensor is handed over as an array


class Handed(NamedTuple):
    """A model for ONNX Runtime: a message, and by name the initializers that are not in it."""

    message: bytes
    arrays: dict[str, tuple[npt.NDArray[Any], int]]  # with the number of the element type


@contextmanager
def hand_over(
    state: State, *, large: int = LARGE, most: int = MOST, ranges: bool = True
) -> Iterator[Handed]:
    """Give a model as ONNX Runtime takes it, for as long as it needs to be loaded.

    Args:
        state: the model.
        large: the least bytes of a tensor to leave the message.
        most: the most bytes of a message.
        ranges: name ranges of files; otherwise all is handed over from memory.

    Raises:
        MissingError: the data of a tensor is missing.
        UnsupportedError: the message would be larger, for what cannot leave it.
    """
    graph = build(state, checksums=False)
    own = {id(tensor) for tensor in graph.model.graph.initializer}
    arrays: dict[str, tuple[npt.NDArray[Any], int]] = {}
    within: list[tuple[Place, Tensor]] = []
    for place in graph.places().values():
        tensor = graph.read(place)
        tensor.source.reach(tensor.offset, tensor.offset + tensor.nbytes)
        if tensor.nbytes < large or tensor.dtype is dtypes.STRING:
            if place.message.data_location == EXTERNAL:
                fill_tensor(place.message, tensor)
        elif ranges and (found := _range_of(tensor)):
            set_external(place.message, *found, tensor.nbytes)
        elif id(place.message) in own:
            arrays[place.message.name] = bits(tensor), NUMBERS[tensor.dtype]
            set_external(place.message, _MEMORY, 0, tensor.nbytes)
        else:
            within.append((place, tensor))
            if place.message.data_location == EXTERNAL:
                fill_tensor(place.message, tensor)
    with scratch_folder() if _over(graph, most) else nullcontext() as folder:
        if folder is not None:
            _spill(within, os.path.join(folder, "weights"), graph, most)
        yield Handed(b"".join(graph.model.chunks()), arrays)


def _over(graph: Graph, most: int) -> int:
    return max(0, graph.model.size() - most)


def _spill(within: list[tuple[Place, Tensor]], path: str, graph: Graph, most: int) -> None:
    """Write the largest tensors that are in the message to a file, as far as that is needed."""
    within.sort(key=lambda pair: -pair[1].nbytes)
    over = _over(graph, most)
    at = 0
    with open(path, "wb") as file:
        for place, tensor in within:
            if over <= 0:
                break
            for piece in tensor.pieces():
                file.write(piece)
            set_external(place.message, os.path.realpath(path).lstrip("/"), at, tensor.nbytes)
            over -= tensor.nbytes - 1024
            at += tensor.nbytes
            at += file.write(bytes(-at % 64))
    if _over(graph, most):
        raise UnsupportedError(
            f"would be a message of {graph.model.size():,} bytes without its large tensors, of "
            f"which protobuf reads {most:,}",
            where=graph.where,
        )


def _range_of(tensor: Tensor) -> tuple[str, int] | None:
    """Name the file, from the root on, that the bytes of a tensor lie in, and where they start."""
    found = file_place(tensor.source, tensor.offset)
    if found is None:
        return None
    source, offset = found
    if not source.mapped or (not tensor.dtype.packed and offset % (tensor.dtype.bits // 8)):
        return None
    path = os.path.realpath(source.where)
    try:
        path.encode()
        there = os.stat(path)
    except (OSError, UnicodeError):
        return None
    opened = source.info()
    if not os.path.samestat(there, opened) or there.st_size != source.size:
        return None
    return path.lstrip("/"), offset


def bits(tensor: Tensor) -> npt.NDArray[Any]:
    """Give a tensor's canonical bytes as an array of its shape and an unsigned type of its width.

    Where elements share a byte, the array has a byte for each, of which only the first are used.
    """
    data = tensor.read()
    if not tensor.dtype.packed:
        kind = tensor.dtype.numpy if tensor.dtype.bits > 64 else f"<u{tensor.dtype.bits // 8}"
        return np.ndarray(tensor.shape, kind, data)
    room = np.zeros(tensor.size, np.uint8)
    room[: data.nbytes] = np.frombuffer(data, np.uint8)
    return room.reshape(tensor.shape)
