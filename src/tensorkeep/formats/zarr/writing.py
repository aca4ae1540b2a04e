"""From a state to a store, each array in one chunk as it is unless something else is asked for."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tensorkeep import checksum
from tensorkeep.dtypes import STRING
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.format import Stream
from tensorkeep.formats.zarr import hierarchy as files
from tensorkeep.formats.zarr.layout import Layout, Node
from tensorkeep.notes import KEY, Notes
from tensorkeep.optional import require
from tensorkeep.state import Json, State
from tensorkeep.store import Chunk, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.crc32c import crc32c as checksum_of
from tensorkeep.wire.elements import wide_nbytes, wide_pieces
from tensorkeep.wire.seal import NO_DIGEST, SEAL, seal
from tensorkeep.wire.text import dump_json

_CHUNK = 64 << 20  # bytes of a chunk that is compressed
_LEVELS = {"gzip": 5, "zstd": 3}


def encode(
    state: State,
    location: Location,
    *,
    checksums: bool = True,
    version: int = 3,
    chunks: int | Sequence[int] | None = None,
    compression: str | None = None,
    crc32c: bool = False,
) -> Iterator[Stream]:
    """Write a folder.

    Args:
        state: what to write.
        location: the folder.
        checksums: keep an XXH3-128 of each tensor and of the metadata.
        version: of the format, 2 or 3.
        chunks: the bytes of a chunk at most, split along the first axis; or the sizes of a chunk's
            axes, for arrays of so many axes. One chunk otherwise, or 64 MiB if compressed.
        compression: "gzip" or "zstd".
        crc32c: end each chunk with a CRC-32C (version 3 only).

    Raises:
        ArgumentError: options that contradict one another, or a folder of other files.
        MissingDependencyError: numcodecs is needed for zstd.
    """
    writer = _Writer(version, _checked(chunks), compression, crc32c)
    prefix = f"{location.key}/" if location.key else ""
    old = _replaced(location, prefix)
    layout = Layout(state)
    stored = {node.name: node.was for node in layout.nodes if node.was is not None}
    digests = None
    if checksums:
        digests = checksum.digests(dict(state.items()))
        for name, found in digests.items():
            if state.digests.get(name, found) != found:
                raise checksum.mismatch(name, state.digests[name], found, state.where)
    reserved = (KEY, SEAL, files.NODES)
    kept = {k: v for k, v in state.metadata.items() if k in reserved}
    notes = Notes(kept, layout.noted, stored, digests).dump()
    attributes = {k: v for k, v in state.metadata.items() if k not in reserved}
    if notes:
        attributes[KEY] = json.loads(notes)
    documents = writer.documents(layout, attributes, sealed=checksums)
    written = set()
    for node in layout.nodes:
        for key, pieces, size in writer.chunks_of(node):
            written.add(prefix + key)
            yield Stream(prefix + key, pieces, size)
    for key, data in reversed(documents.items()):  # a chunk that is missing would read as zeros
        written.add(prefix + key)
        yield Stream(prefix + key, [data], len(data))
    for key in old:
        if key not in written:
            yield Stream(key, None)


def _checked(chunks: Any) -> int | tuple[int, ...] | None:
    listed = chunks if isinstance(chunks, list | tuple) else [1 if chunks is None else chunks]
    if not all(type(size) is int and size > 0 for size in listed):
        raise ArgumentError(
            f"{chunks!r:.60} are no chunks",
            cure="Give a number of bytes, or the sizes of a chunk's axes.",
        )
    return tuple(chunks) if isinstance(chunks, list | tuple) else chunks


def _replaced(location: Location, prefix: str) -> list[str]:
    """List the files that the store replaces.

    Raises:
        ArgumentError: they are no zarr store's.
    """
    try:
        old = list(location.store.keys(prefix))
    except MissingError:
        if location.key:
            raise
        return []  # the folder itself is to be made
    if old and not any(prefix + name in old for name in files.ROOTS):
        raise ArgumentError(
            "is a folder of other files, which would be replaced",
            where=location.where,
            cure="Give the name of a new folder, or remove it first.",
        )
    return old


class _Writer:
    """Writes the nodes of a layout in one version of the format."""

    def __init__(
        self, version: int, chunks: int | tuple[int, ...] | None, compression: str | None, crc: bool
    ) -> None:
        if version not in (2, 3) or type(version) is not int:
            raise ArgumentError(f"there is no version {version!r} of zarr", cure="Use 2 or 3.")
        if compression not in (None, *_LEVELS):
            raise ArgumentError(
                f"zarr is not written with {compression!r}", cure="Use gzip or zstd."
            )
        if crc and version == 2:
            raise ArgumentError("version 2 has no crc32c", cure="Use version=3.")
        self.version, self.chunks, self.compression, self.crc = version, chunks, compression, crc
        self._pack = self._packer()

    def _packer(self) -> Callable[[bytes], bytes] | None:
        level = _LEVELS.get(self.compression or "", 0)
        if self.compression == "gzip":
            return lambda data: _gzip(data, level)
        if self.compression == "zstd":
            numcodecs = require(
                "numcodecs",
                "zstd needs numcodecs",
                'Install it with: pip install "tensorkeep[zarr]", or use compression="gzip".',
            )
            zstd = numcodecs.get_codec({"id": "zstd", "level": level})
            return lambda data: bytes(zstd.encode(data))
        return None

    # --- metadata --------------------------------------------------------------------------------

    def documents(
        self, layout: Layout, attributes: Mapping[str, Any], *, sealed: bool
    ) -> dict[str, bytes]:
        """Give the files of metadata, the one that repeats all of them first."""
        root = {**attributes, SEAL: NO_DIGEST} if sealed else dict(attributes)
        if self.version == 2:
            return self._documents_v2(layout, root)
        nodes = {path: self._group_v3({}) for path in layout.groups}
        nodes |= {node.path: self._array_v3(node) for node in layout.nodes}
        if layout.alone:
            whole = {**nodes[""], "attributes": root}
            return {files.V3: seal(_dump(whole))}
        if layout.strange:
            whole = self._group_v3({**root, files.NODES: nodes})
        else:
            kept = {"kind": "inline", "must_understand": False, "metadata": nodes}
            whole = {**self._group_v3(root), "consolidated_metadata": kept}
        documents = {files.V3: seal(_dump(whole))}
        return documents | {f"{path}/{files.V3}": _dump(node) for path, node in nodes.items()}

    def _group_v3(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {"zarr_format": 3, "node_type": "group", "attributes": attributes}

    def _array_v3(self, node: Node) -> dict[str, Any]:
        tensor = node.tensor
        codecs: list[dict[str, Any]]
        if tensor.dtype is STRING:
            codecs = [{"name": "vlen-utf8", "configuration": {}}]
        elif tensor.dtype.numpy.itemsize == 1:
            codecs = [{"name": "bytes"}]
        else:
            codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
        if self.compression == "gzip":
            codecs.append({"name": "gzip", "configuration": {"level": _LEVELS["gzip"]}})
        if self.compression == "zstd":
            settings = {"level": _LEVELS["zstd"], "checksum": False}
            codecs.append({"name": "zstd", "configuration": settings})
        if self.crc:
            codecs.append({"name": "crc32c"})
        own = {"attributes": node.attributes} if node.attributes else {}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(tensor.shape),
            "data_type": tensor.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.grid(tensor))},
            },
            "chunk_key_encoding": {"name": "default"},
            "fill_value": _fill(tensor),
            "codecs": codecs,
            **own,
        }

    def _documents_v2(self, layout: Layout, root: Mapping[str, Any]) -> dict[str, bytes]:
        metadata: dict[str, Any] = {}
        for path in ["", *layout.groups] if not layout.alone else []:
            metadata[_join(path, files.GROUP)] = {"zarr_format": 2}
        for node in layout.nodes:
            metadata[_join(node.path, files.ARRAY)] = self._array_v2(node)
            if node.attributes and node.path:
                metadata[_join(node.path, files.ATTRIBUTES)] = node.attributes
        plain = {k: v for k, v in root.items() if k != SEAL}
        documents = {key: _dump(value) for key, value in metadata.items()}
        if layout.strange:
            return {
                files.ATTRIBUTES: seal(_dump({**root, files.NODES: metadata})),
                **documents,
            }
        if plain:
            documents[files.ATTRIBUTES] = _dump(plain)
        if root:
            metadata[files.ATTRIBUTES] = root
        whole = {"metadata": metadata, "zarr_consolidated_format": 1}
        return {files.CONSOLIDATED: seal(_dump(whole)), **documents}

    def _array_v2(self, node: Node) -> dict[str, Any]:
        tensor, name = node.tensor, node.tensor.dtype.name
        plain = tensor.dtype.numpy.isbuiltin == 1 and tensor.dtype is not STRING
        packed = None
        if self.compression is not None:
            packed = {"id": self.compression, "level": _LEVELS[self.compression]}
        return {
            "zarr_format": 2,
            "shape": list(tensor.shape),
            "chunks": list(self.grid(tensor)),
            "dtype": tensor.dtype.numpy.str if plain else "|O" if name == "string" else name,
            "compressor": packed,
            "fill_value": _fill(tensor),
            "order": "C",
            "filters": [{"id": "vlen-utf8"}] if tensor.dtype is STRING else None,
            "dimension_separator": ".",
        }

    # --- chunks ----------------------------------------------------------------------------------

    def grid(self, tensor: Tensor) -> tuple[int, ...]:
        """Give the sizes of a chunk's axes."""
        shape = tuple(axis or 1 for axis in tensor.shape)
        if tensor.dtype is STRING or not tensor.shape:
            return shape
        if isinstance(self.chunks, tuple):
            if len(self.chunks) != len(shape):
                return shape
            return tuple(map(min, self.chunks, shape))
        most = self.chunks or (_CHUNK if self.compression else None)
        if most is None:
            return shape
        row = math.prod(shape[1:]) * tensor.dtype.numpy.itemsize
        return min(max(1, most // row), shape[0]), *shape[1:]

    def chunks_of(self, node: Node) -> Iterator[tuple[str, Any, int | None]]:
        """Give the key, the bytes and, where it is known, the size of each chunk of an array."""
        tensor = node.tensor
        if not tensor.size:
            return
        grid = self.grid(tensor)
        plain = self._pack is None and not self.crc
        if tensor.dtype is STRING:
            data = _vlen(tensor)
            yield self._key(node, (0,) * tensor.ndim), self._packed(data), None
        elif grid == tensor.shape and plain:
            size = wide_nbytes(tensor.dtype, tensor.size)
            yield self._key(node, (0,) * tensor.ndim), wide_pieces(tensor), size
        else:
            counts = [range(-(-a // c)) for a, c in zip(tensor.shape, grid, strict=True)]
            for place in itertools.product(*counts):
                pieces = self._chunk(tensor, grid, place)
                yield self._key(node, place), pieces, None

    def _chunk(
        self, tensor: Tensor, grid: tuple[int, ...], place: tuple[int, ...]
    ) -> Iterator[Chunk]:
        index = tuple(slice(at * c, (at + 1) * c) for at, c in zip(place, grid, strict=True))
        part = np.asarray(tensor[index] if index else tensor.numpy())
        if part.shape != grid:  # the last ones are as long as the others
            whole = np.zeros(grid, part.dtype)
            whole[tuple(slice(0, axis) for axis in part.shape)] = part
            part = whole
        data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
        yield from self._packed(data)

    def _packed(self, data: bytes | memoryview) -> Iterator[Chunk]:
        packed: Chunk = self._pack(bytes(data)) if self._pack else data
        yield packed
        if self.crc:
            yield checksum_of(packed).to_bytes(4, "little")

    def _key(self, node: Node, place: tuple[int, ...]) -> str:
        if self.version == 2:
            return _join(node.path, ".".join(map(str, place)) or "0")
        return _join(node.path, "/".join(["c", *map(str, place)]))


def _gzip(data: bytes, level: int) -> bytes:
    stream = zlib.compressobj(level, wbits=31)  # unlike gzip.compress, without the time
    return stream.compress(data) + stream.flush()


def _vlen(tensor: Tensor) -> bytes:
    texts = [
        text.encode("utf-8", "surrogateescape") for text in tensor.numpy().reshape(-1).tolist()
    ]
    parts = [len(texts).to_bytes(4, "little")]
    for text in texts:
        parts += [len(text).to_bytes(4, "little"), text]
    return b"".join(parts)


def _fill(tensor: Tensor) -> Json:
    match tensor.dtype.kind:
        case "string":
            return ""
        case "bool":
            return False
        case "complex":
            return [0.0, 0.0]
        case "float":
            return 0.0
    return 0


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _dump(document: Any) -> bytes:
    return dump_json(document).encode()
