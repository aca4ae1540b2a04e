"""A checkpoint as PyTorch's planners see it: its tensors in pieces, and what is no tensor."""

from __future__ import annotations

import glob
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from tensorkeep import api
from tensorkeep.distributed.torch.nesting import (
    WHOLE,
    Path,
    is_tensor,
    leaves,
    name_of,
    tensor_name,
    wrapped,
)
from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError, MissingError, UnsupportedError
from tensorkeep.formats.safetensors.manifest import STATE, Manifest, Piece, read_manifest
from tensorkeep.source import Source
from tensorkeep.state import Json
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.tree import unflatten
from tensorkeep.wire.text import parse_json

_MAX_VALUES = 1 << 24
_NOWHERE = Tensor.of(np.zeros(0))  # for those of which only the name counts


class Checkpoint:
    """A checkpoint's manifest and nesting, and its files, opened as they are needed."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.manifest: Manifest = read_manifest(location)
        document = self._state()
        self._framework = document.get("framework", "")
        self._whole = document.get(WHOLE) is True
        self._lock = threading.Lock()
        self._open: dict[str, Location] = {}
        self._tensors: dict[str, str] = {}  # by the planners' names, those here
        self._values: dict[str, tuple[Path, Json]] = {}
        self._boxes: dict[str, dict[tuple[int, ...], Piece]] = {}
        self.paths: dict[str, Path] = {}
        tree = document.get("tree")
        rows = leaves(tree, whole=self._whole) if tree is not None else self._flat()
        for path, node in rows:
            name = name_of(path)
            self.paths[name] = path
            if is_tensor(node):
                self._tensors[name] = tensor_name(node, path)
            else:
                self._values[name] = (path, node)

    def _state(self) -> dict[str, Any]:
        place = self.location.beside(self.manifest.key(STATE))
        try:
            data = bytes(place.source.read(0, place.source.size))
        finally:
            place.close()
        if xxhash.xxh3_128_hexdigest(data) != self.manifest.files[STATE].digest:
            raise CorruptError("is not what was saved", where=place.where)
        found = parse_json(data, place.where, "nesting", most=_MAX_VALUES) if data else {}
        return found if isinstance(found, dict) else {}

    def _flat(self) -> Iterator[tuple[Path, Json]]:
        for name in self.manifest.names:
            yield (name,), f"$:{name}"

    def metadata(self) -> Any:
        """Give what PyTorch's planners want to know."""
        import torch
        from torch.distributed.checkpoint import metadata as told

        found: dict[str, Any] = {}
        for name, own in self._tensors.items():
            kind, shape = self._kind(own)
            if not hasattr(torch, kind.name) or kind.packed:
                continue  # a planner that asks for it says that it is missing
            found[name] = told.TensorStorageMetadata(
                told.TensorProperties(dtype=getattr(torch, kind.name)),
                torch.Size(shape),
                [
                    told.ChunkStorageMetadata(torch.Size(p.offsets), torch.Size(p.shape))
                    for p in self._pieces(own)
                ],
            )
        for name in self._values:
            found[name] = told.BytesStorageMetadata()
        paths = None if self._whole else {name: self.paths[name] for name in found}
        return told.Metadata(found, planner_data=paths)

    def _kind(self, own: str) -> tuple[DType, tuple[int, ...]]:
        row = self.manifest.sharded.get(own) or self.manifest.tensors.get(own)
        if row is None:
            problem = f"the nesting names the tensor {own!r:.80}, which is not there"
            raise CorruptError(problem, where=self.location.where)
        return row.dtype, row.shape

    def _pieces(self, own: str) -> list[Piece]:
        if own in self.manifest.sharded:
            return list(self.manifest.sharded[own].pieces)
        e = self.manifest.tensors[own]
        corner = (0,) * len(e.shape)
        return [Piece(e.file, e.name, e.start, e.stop, e.digest, corner, e.shape)]

    def piece(self, name: str, offsets: tuple[int, ...]) -> Piece:
        """Give the piece of a tensor that starts at some offsets.

        Raises:
            MissingError: there is none.
        """
        if name not in self._boxes:
            own = self._tensors.get(name)
            found = self._pieces(own) if own is not None else []
            self._boxes[name] = {piece.offsets: piece for piece in found}
        piece = self._boxes[name].get(offsets)
        if piece is None:
            problem = f"there is no piece of {name!r:.80} at {offsets}"
            raise MissingError(problem, where=self.location.where)
        return piece

    def dtype(self, name: str) -> DType:
        """Give the element type of a tensor."""
        return self._kind(self._tensors[name])[0]

    def source(self, file: str) -> Source:
        """Open a file, once, and check its size."""
        with self._lock:
            if file not in self._open:
                place = self.location.beside(self.manifest.key(file))
                size, expected = place.source.size, self.manifest.files[file].size
                if size != expected:
                    place.close()
                    problem = f"is {size:,} bytes long, {expected:,} were saved"
                    raise CorruptError(problem, where=place.where, cure="Use another checkpoint.")
                self._open[file] = place
            return self._open[file].source

    def value(self, name: str, verify: bool) -> Any:
        """Build what is no tensor.

        Raises:
            MissingError: there is no such value.
        """
        if name not in self._values:
            raise MissingError(f"there is no value {name!r:.80}", where=self.location.where)
        path, node = self._values[name]

        def leaf(own: str, framework: str, numpy: str) -> Any:
            if numpy:
                raise UnsupportedError(f"{own!r:.80} is text in an array", where=name)
            chosen = framework or self._framework or "numpy"
            (found,) = api.load(
                self.location, names=glob.escape(own), framework=chosen, copy=True, verify=verify
            ).values()
            return found

        tensors = dict.fromkeys(self.manifest.names, _NOWHERE)
        skeleton = {"framework": self._framework, "tree": wrapped(path, node)}
        found = unflatten(skeleton, tensors, leaf, self.location.where)
        for part in path:
            found = found[str(part)]
        return found

    def close(self) -> None:
        """Close all files; they are opened again where they are needed."""
        with self._lock:
            for place in self._open.values():
                place.close()
            self._open = {}
