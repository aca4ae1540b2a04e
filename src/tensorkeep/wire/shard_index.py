"""The index of a state in several files, as Hugging Face tools write it.

`{"metadata": {"total_size": N}, "weight_map": {NAME: FILE}}`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.state import MAX_TENSORS
from tensorkeep.store import Location
from tensorkeep.wire.text import parse_json

MAX_INDEX = 64 << 20


def read_index(location: Location) -> tuple[memoryview, dict[str, Any]]:
    """Read an index; gives its bytes, and the document with its `weight_map`.

    Raises:
        CorruptError: it is no JSON, or has no weight_map.
        UnsafeError: it is too large, or lists too many tensors.
    """
    source, where = location.source, location.where
    if source.size > MAX_INDEX:
        raise UnsafeError(f"an index of {source.size:,} bytes is over the limit", where=where)
    data = source.read(0, source.size)
    document: Any = parse_json(data, where, "index", most=2 * MAX_TENSORS)
    if not isinstance(document, dict) or not isinstance(document.get("weight_map"), dict):
        raise CorruptError("the index has no weight_map", where=where)
    if len(document["weight_map"]) > MAX_TENSORS:
        raise UnsafeError(f"it lists more than {MAX_TENSORS:,} tensors", where=where)
    return data, document


def check_files(
    weight_map: Mapping[str, Any], endings: tuple[str, ...], kind: str, where: str
) -> None:
    """Refuse what an index gives for the names of files.

    Args:
        weight_map: of the index.
        endings: what the files' names may end with.
        kind: of file, for messages.
        where: names the index in messages.

    Raises:
        CorruptError: one is no text.
        UnsafeError: one is a file of another kind.
    """
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CorruptError(
                f"the index gives {file!r:.60} for the file of {name!r:.60}", where=where
            )
        if not file.endswith(endings):
            raise UnsafeError(
                f"the index gives {file[:60]!r} for the file of {name!r:.60}, which is no {kind} "
                "file",
                where=where,
            )
