"""An object fetched whole, where a server gives no ranges: an unnamed file here, or memory."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from tensorkeep.errors import StoreError
from tensorkeep.source import FileSource, MemorySource, Source
from tensorkeep.stores.object.fetching import BrokenOffError, Patience, ask, chunks, described

if TYPE_CHECKING:
    from tensorkeep.stores.object.connection import Connection

_SMALL = 1 << 20  # bytes that are kept in memory


def fetch_whole(connection: Connection, key: str, where: str) -> tuple[Source, str]:
    """Fetch all bytes of an object; give them and its ETag.

    Raises:
        MissingError: there is no such object.
        StoreError: it cannot be fetched, or the folder for temporary files is full.
    """
    patience: Patience | None = None
    while True:  # a server without ranges gives the rest no other way than by giving all again
        result = ask(connection, key, where)
        size, etag, _ = described(result.meta)
        patience = patience or Patience(connection, where, size)
        done = 0
        broken: Exception | None = None
        with tempfile.NamedTemporaryFile(prefix="tensorkeep-", buffering=0) as file:
            try:
                for chunk in chunks(result):
                    while chunk.nbytes:
                        count = file.write(chunk)
                        chunk = chunk[count:]
                        done += count
            except BrokenOffError as error:
                broken = error.reason
            except OSError as error:
                raise StoreError(
                    f"cannot be kept in {tempfile.gettempdir()}: {error.strerror}",
                    where=where,
                    cure="Let TMPDIR name a folder with room for it.",
                ) from error
            if done == size and broken is None:
                return _reopened(file.name, size, where), etag
        patience.wait(0, broken)


def _reopened(path: str, size: int, where: str) -> Source:
    source = FileSource(path)
    if size <= _SMALL:
        memory = MemorySource(bytes(source.read(0, size)), where)
        source.close()
        return memory
    source.where = where
    return source
