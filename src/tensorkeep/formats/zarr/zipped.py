"""A zip archive as the folder that a zarr store is in; read only."""

from __future__ import annotations

from collections.abc import Iterator

from tensorkeep.errors import MissingError, TensorKeepError
from tensorkeep.formats.zarr.hierarchy import ROOTS
from tensorkeep.source import Source
from tensorkeep.store import Location, ReadOnlyStore
from tensorkeep.wire.zip import MAGIC, member_names, open_member, read_directory


def root_in_zip(location: Location) -> str:
    """Name the metadata at the root of an archive; empty where it is no zarr store."""
    if not location.head.startswith(MAGIC):
        return ""
    try:
        names = set(member_names(location.source))
    except TensorKeepError:
        return ""
    return next((name for name in ROOTS if name.encode() in names), "")


class ZipFolder(ReadOnlyStore):
    """The members of an archive by their names.

    Args:
        location: the archive.

    Raises:
        CorruptError: its directory is damaged.
    """

    fixed = "a zip archive is read here, not written"

    def __init__(self, location: Location) -> None:
        self.where = location.where
        self._source = location.source
        self._members = read_directory(self._source)

    def keys(self, prefix: str = "") -> Iterator[str]:
        yield from (name for name in self._members if name.startswith(prefix))

    def get(self, key: str) -> Source:
        if key not in self._members:
            raise MissingError(f"there is no member {key!r:.80}", where=self.where)
        return open_member(self._source, self._members[key])
