"""MANIFEST.json: the last file of a checkpoint to be written, and what makes it one.

    {"version": 1, "writer": "tensorkeep 0.3.0",
     "step": 1200, "time": 1764225600.0,        seconds since 1970
     "reason": "interval",                      why it was saved
     "metrics": {NAME: NUMBER or TEXT}, "metadata": {...},
     "parent": "step-00001100" or null,         the checkpoint whose files it may share
     "data": "5f3a9c01",                        the folder, beside the manifest, that the files are
                                                in; left out where they lie beside the manifest
     "files": {FILE: {"size": BYTES, "xxh3_128": HEX}},
     "tensors": {NAME: {"file": FILE, "name": NAME THERE, "dtype": ..., "shape": [...],
                        "range": [START, STOP], "xxh3_128": HEX}},
     "shardings": [...], "pieces": {...},       of tensors in pieces: see pieces.py
     "tensorkeep.header_xxh3_128": HEX}         the seal of this document

The digest of a safetensors file is that of its header, which holds the digests of its tensors; that
of any other file is of all its bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import CorruptError, MissingError, UnsafeError, UnsupportedError
from tensorkeep.formats.safetensors.pieces import (
    MAX_PIECES,
    Piece,
    Sharded,
    columns_of,
    parse_pieces,
    row_of,
)
from tensorkeep.notes import is_shape
from tensorkeep.state import MAX_TENSORS, Json
from tensorkeep.store import Location
from tensorkeep.wire.seal import NO_DIGEST, SEAL, check_seal, seal
from tensorkeep.wire.text import dump_json, parse_json

MANIFEST = "MANIFEST.json"
STATE = "state.json"
VERSIONS = (1, 2)  # the first knows no pieces, and no file that lies in a folder of its own
_MAX_SIZE = 1 << 30
_MAX_FILES = 200_000
_MAX_VALUES = 16 * (MAX_TENSORS + MAX_PIECES)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # no other is ever written
_DIGEST = re.compile("[0-9a-f]{32}")
_WRONG = "is not what a checkpoint's manifest holds"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a checkpoint: its length in bytes, and its digest."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a checkpoint: what it is, where its bytes are, and their XXH3-128."""

    file: str
    name: str  # what the file calls it
    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint consists of, and what is known of it."""

    step: int
    time: float
    reason: str = ""
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    parent: str | None = None
    writer: str = "tensorkeep"
    files: Mapping[str, File] = field(default_factory=dict)
    tensors: Mapping[str, Entry] = field(default_factory=dict)
    data: str = ""  # the folder, beside the manifest, that the files are in
    sharded: Mapping[str, Sharded] = field(default_factory=dict)  # the tensors in pieces
    order: tuple[str, ...] = ()  # of all tensors, where it is not those whole, then the others

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors, in the order of the state."""
        return self.order or (*self.tensors, *self.sharded)

    def key(self, file: str) -> str:
        """Give the key of a file, from the manifest's folder."""
        return f"{self.data}/{file}" if self.data else file

    @property
    def size(self) -> int:
        """The bytes of all files but the manifest itself."""
        return sum(file.size for file in self.files.values())

    def dump(self) -> bytes:
        """Write the document, a line for each file and tensor, with its seal."""
        head: dict[str, Any] = {
            "version": 2 if self.data or self.sharded else 1,
            "writer": self.writer,
            "step": self.step,
            "time": self.time,
            "reason": self.reason,
            "metrics": dict(self.metrics),
            "metadata": dict(self.metadata),
            "parent": self.parent,
        }
        if self.data:
            head["data"] = self.data
        files = {name: {"size": f.size, "xxh3_128": f.digest} for name, f in self.files.items()}
        shardings: dict[str, int] = {}
        tensors = {
            name: _row(self.tensors[name])
            if name in self.tensors
            else row_of(self.sharded[name], shardings)
            for name in self.names
        }
        parts = [f"{json.dumps(key)}: {dump_json(value)}" for key, value in head.items()]
        parts += [f'"files": {_lines(files)}', f'"tensors": {_lines(tensors)}']
        if self.sharded:
            ordered = {name: self.sharded[name] for name in self.names if name in self.sharded}
            columns = json.dumps(columns_of(ordered, files), separators=(",", ":"))
            parts += [f'"shardings": [{",".join(shardings)}]', f'"pieces": {columns}']
        parts.append(f'"{SEAL}": "{NO_DIGEST}"')
        return seal(("{\n " + ",\n ".join(parts) + "\n}\n").encode())


def _row(entry: Entry) -> dict[str, Json]:
    return {
        "file": entry.file,
        "name": entry.name,
        "dtype": entry.dtype.name,
        "shape": list(entry.shape),
        "range": [entry.start, entry.stop],
        "xxh3_128": entry.digest,
    }


def _lines(rows: Mapping[str, Any]) -> str:
    if not rows:
        return "{}"
    listed = (f"{dump_json(name)}: {dump_json(row)}" for name, row in rows.items())
    return "{\n  " + ",\n  ".join(listed) + "\n }"


def read_manifest(folder: Location) -> Manifest:
    """Read the manifest of a checkpoint's folder.

    Raises:
        MissingError: there is none: the folder is no checkpoint, or was never finished.
        CorruptError: it is damaged.
        UnsupportedError: a later version wrote it.
        UnsafeError: it claims more than any real one.
    """
    location = folder.beside(MANIFEST) if folder.key else Location(folder.store, MANIFEST)
    try:
        source = location.source
        if source.size > _MAX_SIZE:
            raise UnsafeError(f"{source.size:,} bytes are over the limit", where=location.where)
        return parse_manifest(bytes(source.read(0, source.size)), location.where)
    except MissingError:
        raise MissingError(
            f"there is no {MANIFEST}",
            where=folder.where,
            cure="It is no checkpoint, or one whose saving never finished.",
        ) from None
    finally:
        location.close()


def parse_manifest(data: bytes, where: str, *, partial: bool = False) -> Manifest:
    """Check and parse the document.

    Args:
        data: the document.
        where: names it in messages.
        partial: it is that of one process of several, which need not have all pieces.

    Raises:
        CorruptError: it is damaged, or contradicts itself.
        UnsupportedError: a later version wrote it.

    >>> files = {STATE: File(2, "0" * 32)}
    >>> parse_manifest(Manifest(step=7, time=0.0, files=files).dump(), "example").step
    7
    """
    document = parse_json(data, where, "manifest", most=_MAX_VALUES)
    if not isinstance(document, dict):
        raise CorruptError("the manifest is not a JSON object", where=where)
    if SEAL not in document:
        raise CorruptError("the manifest's own digest is gone", where=where)
    check_seal(memoryview(data), document[SEAL], where, "manifest")
    if document.get("version") not in VERSIONS:
        raise UnsupportedError(
            f"its manifest has version {document.get('version')!r}, not 1 or 2",
            where=where,
            cure="Update tensorkeep.",
        )
    match document:
        case {
            "step": int(step),
            "time": int() | float() as time,
            "reason": str(reason),
            "writer": str(writer),
            "metrics": dict(metrics),
            "metadata": dict(metadata),
            "parent": str() | None as parent,
            "files": dict(files),
            "tensors": dict(tensors),
        } if (
            0 <= step < 10**18
            and 0 <= time < 1e12
            and len(files) <= _MAX_FILES
            and len(tensors) <= MAX_TENSORS
        ):
            known = {name: _file(name, row, where) for name, row in files.items()}
            folder = document.get("data", "")
            if folder and not (isinstance(folder, str) and _FILE_NAME.fullmatch(folder)):
                raise CorruptError(f"the folder {str(folder)[:80]!r} {_WRONG}", where=where)
            if STATE not in known and not partial:
                raise CorruptError(f"the manifest does not list {STATE}", where=where)
            apart = {n: row for n, row in tensors.items() if type(row) is dict and "pieces" in row}
            sizes = {name: file.size for name, file in known.items()}
            return Manifest(
                step=step,
                time=float(time),
                reason=reason,
                metrics={name: _metric(name, value, where) for name, value in metrics.items()},
                metadata=metadata,
                parent=parent,
                writer=writer,
                files=known,
                tensors={
                    name: _entry(name, row, known, where)
                    for name, row in tensors.items()
                    if name not in apart
                },
                data=folder,
                sharded=parse_pieces(document, apart, sizes, where, whole=not partial)
                if apart
                else {},
                order=tuple(tensors) if apart else (),
            )
    raise CorruptError(f"the document {_WRONG}", where=where)


def _file(name: str, row: Any, where: str) -> File:
    match row:
        case {"size": int(size), "xxh3_128": str(digest)} if (
            0 <= size < 2**63 and _DIGEST.fullmatch(digest) and _FILE_NAME.fullmatch(name)
        ):
            return File(size, digest)
    raise CorruptError(f"the file {name[:80]!r} {_WRONG}", where=where)


def _metric(name: str, value: Any, where: str) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise CorruptError(f"the metric {name[:80]!r} {_WRONG}", where=where)
    return value


def _entry(name: str, row: Any, files: Mapping[str, File], where: str) -> Entry:
    match row:
        case {
            "file": str(file),
            "name": str(inner),
            "dtype": str(dtype),
            "shape": list(shape),
            "range": [int(start), int(stop)],
            "xxh3_128": str(digest),
        } if (
            file in files
            and dtype in DTYPES
            and is_shape(shape)
            and 0 <= start <= stop <= files[file].size
            and _DIGEST.fullmatch(digest)
        ):
            return Entry(file, inner, DTYPES[dtype], tuple(shape), start, stop, digest)
    raise CorruptError(f"the tensor {name[:80]!r} {_WRONG}", where=where)


__all__ = [
    "MANIFEST",
    "STATE",
    "VERSIONS",
    "Entry",
    "File",
    "Manifest",
    "Piece",
    "Sharded",
    "parse_manifest",
    "read_manifest",
]
