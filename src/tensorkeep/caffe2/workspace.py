"""Workspace: named blobs, and the operators and nets that run on them.

Facts: caffe2/core/workspace.h (CreateBlob, Blobs, LocalBlobs, RootFolder, shared workspaces) and
caffe2/python/workspace.py (FeedBlob, FetchBlob).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.caffe2.operator import check_message, check_type, describe, operator_of
from tensorkeep.errors import ArgumentError, MissingError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.elements import CODES
from tensorkeep.wire.caffe2.options import DEFAULT, SaveOptions
from tensorkeep.wire.caffe2.schema import DEVICE, NET, OPERATOR
from tensorkeep.wire.caffe2.values import Blob, Device


class Workspace:
    """Named blobs, as Caffe2 held them while a program ran.

    Args:
        root_folder: where relative paths of databases start.
        strict: refuse what Caffe2 read wrongly without a word (False reads it as Caffe2 did).
        durable: have what operators write on the disk, not only in the page cache.
        save_options: how Save writes a blob that no option of its own says otherwise of; what
            Caffe2 set by process flags, such as the plain bytes of 8-bit types.

    >>> ws = Workspace()
    >>> ws.feed("w", np.arange(3, dtype=np.float32))
    >>> ws.fetch("w").tolist(), ws.blobs(), ws.has("x")
    ([0.0, 1.0, 2.0], ['w'], False)
    """

    def __init__(
        self,
        root_folder: str = ".",
        *,
        strict: bool = True,
        durable: bool = True,
        save_options: SaveOptions = DEFAULT,
    ) -> None:
        self.root_folder = root_folder
        self.strict = strict
        self.durable = durable
        self.save_options = save_options
        self._parent: Workspace | None = None
        self._blobs: dict[str, Blob] = {}

    def child(self, root_folder: str = ".") -> Workspace:
        """Make a workspace that also sees, and writes to, the blobs of this one.

        As in Caffe2, an output that exists here is written here; new ones stay in the child, and
        the child's root folder is its own.

        >>> ws = Workspace()
        >>> ws.feed("w", b"1")
        >>> inner = ws.child()
        >>> inner.feed("x", b"2")
        >>> inner.blobs(), inner.local_blobs(), ws.blobs()
        (['x', 'w'], ['x'], ['w'])
        """
        child = Workspace(
            root_folder,
            strict=self.strict,
            durable=self.durable,
            save_options=self.save_options,
        )
        child._parent = self
        return child

    def feed(
        self, name: str, value: Any, device: Device | None = None, *, copy: bool = True
    ) -> None:
        """Put a value under a name.

        Args:
            name: the blob.
            value: an array (of text or bytes too), a Tensor, a str or bytes (a std::string), or
                a Blob.
            device: where it is said to live; the CPU by default.
            copy: take a copy of an array, so that changing it later does not change the blob.

        Raises:
            UnsupportedError: an element type that no Caffe2 tensor has, such as complex64.
            ArgumentError: a value of another type, or a name that is no text.
        """
        self.set(name, blob_of(value, device, copy=copy))

    def fetch(self, name: str) -> Any:
        """Give the value of a blob: a writable array, bytes for a std::string, else its value.

        Changing the array does not change the blob. Large tensors of a loaded file come as a
        private, copy-on-write map of it and are read from the disk as they are touched. The
        elements of a string tensor come as bytes.

        Raises:
            MissingError: there is no such blob.
        """
        value = self.blob(name).value
        return _array_of(value) if isinstance(value, Tensor) else value

    def blob(self, name: str) -> Blob:
        """Give a blob as it is kept: its kind, its value and its device.

        Raises:
            MissingError: there is no such blob.
        """
        owner = self._owner(name)
        if owner is None:
            known = ", ".join(self.blobs()[:5]) or "none"
            raise MissingError(
                f"there is no blob {name!r}", where="the workspace", cure=f"It has {known}."
            )
        return owner._blobs[name]

    def set(self, name: str, blob: Blob) -> None:
        """Put a blob under a name; one that a parent holds is replaced there.

        Raises:
            ArgumentError: the name is no text, or the blob no Blob.
        """
        if not isinstance(name, str):
            raise ArgumentError(f"the name of a blob is text, not {type(name).__name__}")
        if not isinstance(blob, Blob):
            raise ArgumentError(
                f"{name!r} is set to a {type(blob).__name__}, where a Blob is needed",
                cure="Use feed, which makes one of an array, text or bytes.",
            )
        owner = self._owner(name) if self._parent else self
        (owner or self)._blobs[name] = blob

    def update(self, blobs: Mapping[str, Blob]) -> None:
        """Put blobs under their names, as `set` does one."""
        for name, blob in blobs.items():
            self.set(name, blob)

    def has(self, name: str) -> bool:
        """Tell whether this workspace or a parent has a blob."""
        return self._owner(name) is not None

    def remove(self, name: str) -> bool:
        """Remove a blob of this workspace itself; False where it has none of that name."""
        return self._blobs.pop(name, None) is not None

    def blobs(self) -> list[str]:
        """List the blobs, those of parents behind this workspace's own."""
        names = list(self._blobs)
        return list(dict.fromkeys(names + self._parent.blobs())) if self._parent else names

    def local_blobs(self) -> list[str]:
        """List the blobs of this workspace itself."""
        return list(self._blobs)

    def reset(self, root_folder: str | None = None) -> None:
        """Remove all blobs; set the root folder where one is given."""
        self._blobs.clear()
        if root_folder is not None:
            self.root_folder = root_folder

    def run(
        self, operator: Message, *, strict: bool | None = None, durable: bool | None = None
    ) -> bool:
        """Run one operator, given as its OperatorDef.

        One that fails changes no blob (Load with strict=False excepted).

        Raises:
            UnsupportedError: no operator of its type runs here.
            TensorKeepError: what the operator raises.
        """
        definition = check_message(operator, OPERATOR)
        return operator_of(definition, self, strict=strict, durable=durable).run()

    def run_net(
        self, net: Message, *, strict: bool | None = None, durable: bool | None = None
    ) -> bool:
        """Run the operators of a NetDef in their order.

        What the device_option of an operator leaves open is as in the net's. Nothing runs where
        the net holds an operator that does not run here.

        Raises:
            UnsupportedError: no operator of one of its types runs here.
            MissingError: an input that neither the workspace nor an earlier operator has.
            ArgumentError: the net declares an output that nothing in it writes.
            TensorKeepError: what an operator raises; what earlier ones wrote stays.
        """
        net = check_message(net, NET)
        operators = list(net.op)
        _check_outputs(net, operators)
        known = set(self.blobs())
        for definition in operators:
            check_type(definition)
            for name in definition.input:
                if name not in known:
                    problem = f"the input blob {name!r} is written by no operator before it"
                    raise MissingError(
                        problem,
                        where=f"net {net.name!r}: {describe(definition)}",
                        cure="Feed it, or run the net that writes it, first.",
                    )
            known.update(definition.output)
        for definition in operators:
            if "device_option" in net:
                definition = _placed(definition, net.device_option)
            self.run(definition, strict=strict, durable=durable)
        return True

    def _owner(self, name: str) -> Workspace | None:
        workspace: Workspace | None = self
        while workspace is not None and name not in workspace._blobs:
            workspace = workspace._parent
        return workspace

    def __repr__(self) -> str:
        return f"Workspace({len(self._blobs)} blobs, root folder {self.root_folder!r})"


def _check_outputs(net: Message, operators: list[Message]) -> None:
    known = {*net.external_input, *(name for one in operators for name in one.output)}
    for name in net.external_output:
        if name not in known:
            raise ArgumentError(
                f"declares the output {name!r}, which no operator in it writes",
                where=f"net {net.name!r}",
            )


def _placed(definition: Message, option: Message) -> Message:
    """Give an operator the device_option of its net, under what it says itself."""
    placed = Message(OPERATOR)
    for field in definition:  # shared, not copied: arguments hold the weights
        placed[field] = definition[field]
    both = option.encode() + definition.device_option.encode()  # which is how messages merge
    placed.device_option = Message.parse(DEVICE, both)
    return placed


def blob_of(value: Any, device: Device | None = None, *, copy: bool = False) -> Blob:
    """Make a blob of a value, as `Workspace.feed` takes it.

    >>> blob_of("text").kind, blob_of(np.zeros(2)).value
    ('std::string', Tensor(float64, (2,)))
    """
    place = device or Device()
    match value:
        case Blob():
            return value if device is None else Blob(value.kind, value.value, place)
        case str():
            return Blob("std::string", value.encode("utf-8", "surrogateescape"), place)
        case bytes():
            return Blob("std::string", value, place)
        case Tensor():
            tensor = value
        case np.ndarray() | np.generic():
            tensor = _tensor(np.asarray(value), copy)
        case _:
            raise ArgumentError(
                f"a blob cannot hold a {type(value).__name__}",
                cure="Feed an array, a Tensor, a str or bytes: numbers as np.array(3.0).",
            )
    if tensor.dtype not in CODES:
        raise UnsupportedError(
            f"no Caffe2 tensor has elements of {tensor.dtype}",
            cure=f"Convert it to one of {', '.join(kind.name for kind in CODES)}.",
        )
    return Blob("Tensor", tensor, place)


def _array_of(tensor: Tensor) -> npt.NDArray[Any]:
    """Give the values of a tensor as an array that may be written to; text as bytes."""
    if tensor.dtype is dtypes.STRING:
        texts = [text.encode("utf-8", "surrogateescape") for text in tensor.numpy().flat]
        array = np.empty(len(texts), object)
        array[:] = texts
        return array.reshape(tensor.shape)
    data = tensor.source.private(tensor.offset, tensor.offset + tensor.nbytes)
    return tensor.decode(data, tensor.shape)


def _tensor(array: npt.NDArray[Any], copy: bool) -> Tensor:
    if array.dtype == object:  # elements are text or bytes, whatever they hold
        texts = [
            item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item
            for item in array.flat
        ]
        fresh = np.empty(len(texts), object)
        fresh[:] = texts
        return Tensor.of(fresh.reshape(array.shape))
    return Tensor.of(np.array(array, order="C") if copy else array)
