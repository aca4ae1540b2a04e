"""Whole databases to and from dicts, for those who need no workspace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tensorkeep.caffe2.operator import create_operator
from tensorkeep.caffe2.operators.save import check_options
from tensorkeep.caffe2.paths import recognise
from tensorkeep.caffe2.reader import storable
from tensorkeep.caffe2.workspace import Workspace, blob_of
from tensorkeep.errors import ArgumentError
from tensorkeep.source import MemorySource
from tensorkeep.wire.caffe2.decode import parse_part
from tensorkeep.wire.caffe2.encode import join_blob
from tensorkeep.wire.caffe2.options import DEFAULT, SaveOptions
from tensorkeep.wire.caffe2.states import Assembly
from tensorkeep.wire.caffe2.values import Blob

Path = str | os.PathLike[str]


def load(path: Path, db_type: str | None = None, *, strict: bool = True) -> dict[str, Any]:
    """Read every blob of a database.

    Args:
        path: the file or folder.
        db_type: its type; by default it is recognised.
        strict: refuse damage; False reads what Caffe2 would have, without a word about the rest.

    Returns:
        By name: an array for a tensor (of bytes objects for text), bytes for a std::string, and
        the values of `tensorkeep.caffe2` for what is neither. Arrays may be written to.

    Raises:
        MissingError: there is nothing at the path.
        UnknownFormatError: no database type recognises it.
        CorruptError: it is damaged.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"w": np.arange(3.0), "s": b"text"}, f"{folder}/x.minidb")
    ...     load(f"{folder}/x.minidb")
    {'w': array([0., 1., 2.]), 's': b'text'}
    """
    workspace = Workspace(strict=strict)
    source = os.fspath(path)
    db_type = db_type or recognise(source)
    workspace.run(
        create_operator(
            "Load", load_all=1, db=source, db_type=db_type, absolute_path=1, keep_device=1
        )
    )
    return {name: workspace.fetch(name) for name in workspace.blobs()}


def save(
    blobs: Mapping[str, Any],
    path: Path,
    db_type: str = "minidb",
    *,
    strict: bool = True,
    durable: bool = True,
    save_options: SaveOptions = DEFAULT,
    **arguments: Any,
) -> None:
    """Write blobs into a new database.

    Args:
        blobs: arrays (of text or bytes too), Tensors, text and bytes, or Blobs, by name.
        path: the file, which is replaced, or the folder, which must not exist.
        db_type: the type of the database.
        strict: refuse what could not be read back.
        durable: have it on the disk, not only in the page cache, when this returns.
        save_options: how each tensor is written, unless `arguments` says otherwise.
        arguments: of Save: chunk_size, options, strip_prefix, blob_name_overrides, db_options.

    Raises:
        ArgumentError: there is nothing to save, or Save takes no such argument.
        UnsupportedError: a value that no blob holds.
        StoreError: the database cannot be written; what was there before is unchanged.

    >>> import tempfile
    >>> import numpy as np
    >>> path = f"{tempfile.mkdtemp()}/x.minidb"
    >>> save({"w": np.arange(4.0), "s": "text"}, path, chunk_size=3)
    >>> load(path)["s"]
    b'text'
    """
    if not blobs:
        raise ArgumentError("there is nothing to save", where=os.fspath(path))
    check_options(arguments)
    workspace = Workspace(strict=strict, durable=durable, save_options=save_options)
    for name, value in blobs.items():
        workspace.feed(name, value, copy=False)
    given = {"db": os.fspath(path), "db_type": db_type, "absolute_path": 1, **arguments}
    workspace.run(create_operator("Save", list(blobs), **given))


def serialize_blob(name: str, value: Any, options: SaveOptions = DEFAULT) -> bytes:
    r"""Write one blob as a bare BlobProto, as Caffe2's workspace.SerializeBlob does.

    Raises:
        UnsupportedError: a value that no blob holds.

    >>> serialize_blob("s", "hi")
    b'\n\x01s\x12\x0bstd::string"\x02hi'
    """
    return join_blob(name, storable(name, blob_of(value)), options)


def deserialize_blob(data: bytes) -> Blob:
    """Read a bare BlobProto.

    Raises:
        CorruptError: it is none, or only a chunk of one.

    >>> deserialize_blob(serialize_blob("s", "hi")).value
    b'hi'
    """
    assembly = Assembly(thorough=True)
    assembly.add("blob", parse_part("blob", MemorySource(data, "BlobProto")))
    return assembly.result("blob")
