"""Messages between processes, and batches laid out in memory that two of them share.

A message is its length (8 bytes, little endian) and a pickle, over a socket; a file descriptor may
come with the length. Either end is a process of this program, started by it, and nobody else can
reach the socket, so that plain pickle is safe.

A batch lies in a slot: anonymous memory without a name anywhere, so that nothing is left behind
however a process ends. Its arrays begin at multiples of 64 bytes; the message says what is where.
Text, bytes and JSON have no place there, and travel in the message.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import tempfile
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import frameworks
from tensorkeep.data.dataset import Batch
from tensorkeep.errors import UnsupportedError

ALIGNMENT = 64
_LENGTH = struct.Struct("<Q")
_SMALLEST = 1 << 16  # bytes of a slot
_JSON = frozenset((str, int, float, bool, type(None)))
_DEEPEST = 100  # levels of JSON
_PLAIN = (bool, int, float, complex, np.generic)


def send(link: socket.socket, message: object, descriptor: int | None = None) -> None:
    """Send a message.

    Raises:
        OSError: the other end is gone.
    """
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    length = _LENGTH.pack(len(data))
    if descriptor is None:
        link.sendall(length + data)
    else:
        socket.send_fds(link, [length], [descriptor])
        link.sendall(data)


def receive(link: socket.socket) -> tuple[Any, int | None]:
    """Wait for a message, and the descriptor that comes with it, which is the caller's to close.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    head, descriptors, _, _ = socket.recv_fds(link, _LENGTH.size, 1)
    if len(head) < _LENGTH.size:
        head += _exactly(link, _LENGTH.size - len(head))
    data = _exactly(link, _LENGTH.unpack(head)[0])
    return pickle.loads(data), descriptors[0] if descriptors else None


def _exactly(link: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = link.recv_into(view[done:])
        if not count:
            raise EOFError
        done += count
    return data


class Field(NamedTuple):
    """Where an array of a batch lies: at an offset of the slot, or here as a list."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    place: int | list[Any]


def lay_out(batch: Any) -> tuple[list[Field], list[npt.NDArray[Any]], int]:
    """Give each array of a batch its place; also give the arrays, and the bytes they need.

    Raises:
        UnsupportedError: it is no dict of arrays.
    """
    if not isinstance(batch, dict):
        raise UnsupportedError(
            f"a batch is a {type(batch).__name__}, where a dict of arrays is needed",
            cure='Give {"image": ..., "label": ...}.',
        )
    fields, arrays, end = [], [], 0
    for name, value in batch.items():
        array = _array(name, value)
        place: int | list[Any] = end
        if array.dtype == object:
            place = _objects(name, array)
        else:
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        fields.append(Field(name, array.shape, array.dtype, place))
        arrays.append(array)
    return fields, arrays, end


def _array(name: str, value: Any) -> npt.NDArray[Any]:
    found = frameworks.to_array(value, f"the field {name!r} of a batch")
    if found is None and not isinstance(value, _PLAIN):
        raise UnsupportedError(
            f"the field {name!r} of a batch is a {type(value).__name__}, which no worker process "
            "can hand over",
            cure="Arrays and numbers can be.",
        )
    array = np.asarray(value) if found is None else found[1]
    if array.dtype.hasobject and array.dtype != object:
        raise UnsupportedError(
            f"the field {name!r} of a batch has elements of {array.dtype}, which no worker process "
            "can hand over",
            cure="Numbers, text and bytes can be, the last two in arrays of dtype object.",
        )
    return array


def _objects(name: str, array: npt.NDArray[Any]) -> list[Any]:
    """Give text, bytes and JSON, whose nesting a pickle may follow."""
    values: list[Any] = array.ravel().tolist()
    waiting, level = list(values), 0
    seen: set[int] = set()  # what stands in several places is looked into once
    while waiting:
        inner: list[Any] = []
        for value in waiting:
            if type(value) in (dict, list):
                if id(value) not in seen:
                    seen.add(id(value))
                    inner += [*value, *value.values()] if type(value) is dict else value
            elif type(value) not in _JSON and type(value) is not bytes:
                raise UnsupportedError(
                    f"the field {name!r} of a batch has a {type(value).__name__} in it, which no "
                    "worker process can hand over",
                    cure="Numbers, text, bytes and JSON can be.",
                )
        level += 1
        if level > _DEEPEST:
            raise UnsupportedError(
                f"the field {name!r} of a batch nests over {_DEEPEST} levels deep, which no "
                "worker process can hand over",
            )
        waiting = inner
    return values


def put(fields: list[Field], arrays: list[npt.NDArray[Any]], slot: mmap.mmap | None) -> None:
    """Copy the arrays of a batch to their places in a slot."""
    for field, array in zip(fields, arrays, strict=True):
        if slot is not None and isinstance(field.place, int):
            np.copyto(np.ndarray(field.shape, field.dtype, slot, field.place), array)


def take(fields: list[Field], root: npt.NDArray[np.uint8]) -> Batch:
    """Give the batch that lies in a slot: views of `root`, which is an array over all of it."""
    batch: Batch = {}
    for name, shape, dtype, place in fields:
        if isinstance(place, int):
            batch[name] = np.ndarray(shape, dtype, root, place)
        else:
            column = np.empty(len(place), object)
            for at, value in enumerate(place):  # NumPy would look into lists
                column[at] = value
            batch[name] = column.reshape(shape)
    return batch


def new_slot(size: int) -> tuple[mmap.mmap, int]:
    """Give anonymous memory for `size` bytes, and its descriptor, which is the caller's to close.

    It is a power of two, so that it seldom has to grow; what is not written to costs nothing.
    """
    capacity = max(_SMALLEST, 1 << (size - 1).bit_length())
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tensorkeep", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, capacity)
        return mmap.mmap(descriptor, capacity), descriptor
    except BaseException:
        os.close(descriptor)
        raise
