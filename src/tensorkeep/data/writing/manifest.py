"""The manifest of a dataset in several files: which they are, and what each sample has.

    {"tensorkeep.dataset": 1,                            the version
     "format": "tar",
     "samples": 2500,
     "fields": {NAME: {"dtype": "uint8", "shape": [3, 64, 64]}},   "" and null where they differ
     "shard_samples": 1000, "shard_size": null,          what ended a shard
     "options": {},                                      of the format
     "run": "",                                          stands in the names of the shards
     "replaces": [],                                     shards of before, which go
     "shards": [{"file": "train-00000.tar", "samples": 1000, "bytes": 12400640,
                 "xxh3_128": HEX}],                      "" where the shard is a folder
     "tensorkeep.header_xxh3_128": HEX}                  the seal of this document

It stands beside the shards as `train.tar.index.json` once all of them are there, and before that as
`train.tar.partial.json`, rewritten after each shard.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorkeep.data.dataset import JSON, Field
from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError, MissingError, UnsafeError, UnsupportedError
from tensorkeep.hidden import failed_write
from tensorkeep.notes import is_shape
from tensorkeep.replacing import Replacement
from tensorkeep.source import FileSource
from tensorkeep.state import Json
from tensorkeep.wire.seal import NO_DIGEST, SEAL, check_seal, seal
from tensorkeep.wire.text import dump_json, parse_json, show

INDEX = ".index.json"
PARTIAL = ".partial.json"
MARK = "tensorkeep.dataset"
VERSION = 1
MOST_SHARDS = 100_000  # whose numbers have five digits
_MOST_FIELDS = 4096
_MOST_BYTES = 64 << 20
_DIGEST = re.compile("[0-9a-f]{32}|")
_RUN = re.compile("[0-9a-f]{8}|")
_WRONG = "is not what the manifest of a dataset holds"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file (or folder) of a dataset: its name, its samples, its bytes and their XXH3-128."""

    file: str
    samples: int
    nbytes: int
    digest: str = ""

    def find(self, manifest: str) -> str:
        """Give the path of the shard, beside its manifest.

        Raises:
            MissingError: it is not there.
            UnsafeError: it is a link, which may lead anywhere.
            CorruptError: it is a file of another size.
        """
        path = os.path.join(os.path.dirname(manifest), self.file)
        try:
            info = os.lstat(path)
        except OSError:
            raise MissingError(
                f"the shard {self.file!r} is not there",
                where=manifest,
                cure="Copy all files of the dataset, or write it again.",
            ) from None
        if stat.S_ISLNK(info.st_mode):
            problem = f"the shard {self.file!r} is a link, which may lead out of the folder"
            raise UnsafeError(problem, where=manifest, cure="Copy the file itself there.")
        if stat.S_ISREG(info.st_mode) and info.st_size != self.nbytes:
            raise CorruptError(
                f"the shard {self.file!r} has {info.st_size:,} bytes, where {self.nbytes:,} were "
                "written",
                where=manifest,
                cure="It is cut short or another file; copy or write the dataset again.",
            )
        return path


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dataset in several files consists of, and how it was cut into them."""

    format: str
    fields: Mapping[str, Field] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    shard_samples: int | None = None
    shard_size: int | None = None
    options: Mapping[str, Json] = field(default_factory=dict)
    run: str = ""
    replaces: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """How many samples all shards have."""
        return sum(shard.samples for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """The bytes of all shards."""
        return sum(shard.nbytes for shard in self.shards)

    def dump(self) -> bytes:
        """Write the document, a line for each field and shard, with its seal."""
        fields = {
            name: {"dtype": f.dtype, "shape": None if f.shape is None else list(f.shape)}
            for name, f in self.fields.items()
        }
        shards = (
            {"file": s.file, "samples": s.samples, "bytes": s.nbytes, "xxh3_128": s.digest}
            for s in self.shards
        )
        parts = [
            f'"{MARK}": {VERSION}',
            f'"format": {dump_json(self.format)}',
            f'"samples": {self.samples}',
            f'"fields": {{{_lines(f"{dump_json(k)}: {dump_json(v)}" for k, v in fields.items())}}}',
            f'"shard_samples": {json.dumps(self.shard_samples)}',
            f'"shard_size": {json.dumps(self.shard_size)}',
            f'"options": {dump_json(dict(self.options))}',
            f'"run": {dump_json(self.run)}',
            f'"replaces": {dump_json(list(self.replaces))}',
            f'"shards": [{_lines(map(dump_json, shards))}]',
            f'"{SEAL}": "{NO_DIGEST}"',
        ]
        return seal(("{" + ",\n ".join(parts) + "}\n").encode())

    def write(self, path: str, *, durable: bool = True) -> None:
        """Put the document in its place, whole.

        Raises:
            StoreError: the disk is full or failed; what was there before is unchanged.
        """
        data = self.dump()
        new = Replacement(path)
        try:
            new.append([data], durable=durable)
            new.finish(durable=durable)
        except OSError as error:
            raise failed_write(error, path, len(data)) from error
        finally:
            new.close()


def _lines(rows: Any) -> str:
    listed = list(rows)
    return "\n  " + ",\n  ".join(listed) + "\n " if listed else ""


def is_manifest(path: str) -> bool:
    """Say whether a file is the manifest of a dataset, by its first bytes."""
    try:
        source = FileSource(path, mapping=False)
    except (OSError, ValueError):
        return False
    try:
        head = bytes(source.read(0, min(64, source.size)))
    except (OSError, ValueError):
        return False
    finally:
        source.close()
    return head.startswith(f'{{"{MARK}":'.encode())


def read_manifest(path: str) -> Manifest:
    """Read the manifest of a dataset.

    Raises:
        MissingError: there is none.
        CorruptError: it is damaged.
        UnsupportedError: a later version wrote it.
        UnsafeError: it claims more than any real one, or names files outside its folder.
    """
    source = FileSource(path, mapping=False)
    try:
        if source.size > _MOST_BYTES:
            raise UnsafeError(f"{source.size:,} bytes are over the limit", where=path)
        return parse_manifest(bytes(source.read(0, source.size)), path)
    finally:
        source.close()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Check and parse the document.

    Raises:
        CorruptError: it is damaged, or contradicts itself.
        UnsupportedError: a later version wrote it.
        UnsafeError: it names files outside its folder.

    >>> parse_manifest(Manifest("tar", shards=(Shard("a.tar", 7, 10240),)).dump(), "a").samples
    7
    """
    document = parse_json(data, where, "manifest", most=8 * MOST_SHARDS)
    if not isinstance(document, dict) or MARK not in document:
        raise CorruptError("is not the manifest of a dataset", where=where)
    if document[MARK] != VERSION or isinstance(document[MARK], bool):
        raise UnsupportedError(
            f"its manifest has version {show(document[MARK])}, not {VERSION}",
            where=where,
            cure="Update tensorkeep.",
        )
    if not isinstance(document.get(SEAL), str):
        raise CorruptError("the manifest's own digest is gone", where=where)
    check_seal(memoryview(data), document[SEAL], where, "manifest")
    match document:
        case {
            "format": str(format),
            "samples": int(samples),
            "fields": dict(fields),
            "shard_samples": int() | None as shard_samples,
            "shard_size": int() | None as shard_size,
            "options": dict(options),
            "run": str(run),
            "replaces": list(replaces),
            "shards": list(shards),
        } if len(fields) <= _MOST_FIELDS and len(shards) <= MOST_SHARDS and _RUN.fullmatch(run):
            found = Manifest(
                format=format,
                fields={name: _field(name, row, where) for name, row in fields.items()},
                shards=tuple(_shard(row, where) for row in shards),
                shard_samples=shard_samples,
                shard_size=shard_size,
                options=options,
                run=run,
                replaces=tuple(_file_name(name, where) for name in replaces),
            )
            if found.samples == samples and len({s.file for s in found.shards}) == len(shards):
                return found
    raise CorruptError(f"the document {_WRONG}", where=where)


def _field(name: str, row: Any, where: str) -> Field:
    match row:
        case {"dtype": str(dtype), "shape": list() | None as shape} if (
            dtype in ("", JSON) or dtype in DTYPES
        ) and (shape is None or is_shape(shape)):
            return Field(dtype, None if shape is None else tuple(shape))
    raise CorruptError(f"the field {show(name)} {_WRONG}", where=where)


def _shard(row: Any, where: str) -> Shard:
    match row:
        case {
            "file": file,
            "samples": int(samples),
            "bytes": int(nbytes),
            "xxh3_128": str(digest),
        } if 0 < samples < 2**53 and 0 <= nbytes < 2**63 and _DIGEST.fullmatch(digest):
            return Shard(_file_name(file, where), samples, nbytes, digest)
    raise CorruptError(f"the shard {show(row)} {_WRONG}", where=where)


def _file_name(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise CorruptError(f"the file name {show(name)} {_WRONG}", where=where)
    if (
        name in ("", ".", "..")
        or any(letter in "/\\\0" or "\ud800" <= letter <= "\udfff" for letter in name)
        or len(name.encode()) > 255
    ):
        raise UnsafeError(f"names the file {show(name)}, which is not in its folder", where=where)
    return name
