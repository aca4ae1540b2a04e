"""The files of a zarr store: opened for each read, since there can be more than a process may open.

What is read that no file holds (chunks that were never written, and what a chunk becomes when it is
unpacked) is bounded by what the store holds: a few bytes can declare an array of any size.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Iterator

from tensorkeep.errors import ClosedError, CorruptError, MissingError, UnsafeError
from tensorkeep.source import Source
from tensorkeep.store import Location

_FREE = 1 << 30  # declared bytes that any store may have
_RATIO = 33_000  # declared bytes for each stored one: zstd makes that of zeros
_TEXTS, _TEXT_RATIO = 1 << 20, 250  # strings that any store may have, and for each stored byte
_SMALL = 1 << 20  # bytes that may be read at a time where a store declares more


class Files:
    """The files below the root of a store.

    Args:
        root: a location in the root folder.
        complete: whether every chunk has to be there.
    """

    def __init__(self, root: Location, *, complete: bool = False) -> None:
        self.root = root
        self.where = posixpath.dirname(root.where) or root.where
        self.complete = complete
        self.far = root.store.in_order  # to open a file is a request
        self.declared = 0  # bytes of all arrays
        self._texts = 0  # strings of all arrays so far
        self._sound: bool | None = None
        self._closed = False
        self._lock = threading.Lock()

    def open(self, key: str) -> Source | None:
        """Open a file, which the caller closes; None where there is none.

        Raises:
            ClosedError: the state was closed.
            CorruptError: it is missing where none may be.
        """
        if self._closed:
            raise ClosedError(
                "was closed before this was read",
                where=self.where,
                cure="Read inside the `with` block, or open it again.",
            )
        place = self.root.sibling(key)
        try:
            return place.store.get(place.key)
        except MissingError:
            if self.complete:
                raise CorruptError(
                    "the chunk is missing", where=place.where, cure="Use another copy."
                ) from None
            return None

    def keys(self, path: str) -> Iterator[str]:
        """Give the keys of all files below a path, from there on."""
        folder = self.root.beside(f"{path}/" if path else "").key
        return (key[len(folder) :] for key in self.root.store.keys(folder))

    def allow(self, nbytes: int) -> None:
        """Refuse to make room for many bytes where a store declares far more than it holds.

        Raises:
            UnsafeError: it does.
        """
        if nbytes <= _SMALL or self.declared <= _FREE:
            return
        with self._lock:
            if self._sound is None:
                self._sound = self._holds(self.declared // _RATIO)
        if not self._sound:
            raise UnsafeError(
                f"declares {self.declared:,} bytes of arrays, of which it holds less than a "
                f"{_RATIO:,}th",
                where=self.where,
                cure="Read slices of it; what was not written is its fill value.",
            )

    def allow_texts(self, count: int) -> None:
        """Refuse to make room for so many more strings where a store holds too little for them.

        Raises:
            UnsafeError: it does.
        """
        self._texts += count
        if self._texts > _TEXTS and not self._holds(self._texts // _TEXT_RATIO):
            raise UnsafeError(
                f"declares {self._texts:,} strings or more, which it holds too little for",
                where=self.where,
                cure="The file is damaged, or made to fill the memory.",
            )

    def _holds(self, least: int) -> bool:
        if not self.root.store.lists:
            raise UnsafeError(
                "declares so much that it has to be seen how much of it is there, which a web "
                "server does not list",
                where=self.where,
                cure="Read small slices of it, or fetch all of it here first.",
            )
        found = 0
        for key in self.keys(""):
            file = self.root.beside(key).source
            found += file.size
            file.close()
            if found >= least:
                return True
        return False

    def close(self) -> None:
        """Open nothing more."""
        self._closed = True
