"""Store: bytes by key. Location: one key of a store, which a format reads and writes."""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from tensorkeep.errors import ArgumentError, UnsafeError
from tensorkeep.source import Source


@dataclass(frozen=True, slots=True)
class Late:
    """A chunk of known size whose bytes depend on those behind it, such as a header of digests.

    A store leaves room for it, and asks `make` for the bytes once all other chunks were taken.
    """

    size: int
    make: Callable[[], bytes]


Chunk = bytes | bytearray | memoryview
Chunks = Iterable[Chunk | Late]
Progress = Callable[[int], None]

HEAD = 4096


class Store(ABC):
    """Keeps bytes by key. What was put appears at `commit`, all or nothing where it can.

    A key is a relative path with forward slashes.
    """

    where: str = ""
    holds_empty: ClassVar[bool] = True  # whether a value may have no bytes
    in_order: ClassVar[bool] = False  # bytes leave as they come: a Late chunk keeps back the rest

    @property
    def lists(self) -> bool:
        """Whether `keys` gives all that there is, which no web server can."""
        return True

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the committed keys that start with `prefix`, in stored order."""

    @abstractmethod
    def get(self, key: str) -> Source:
        """Open the bytes of a key.

        Raises:
            MissingError: there is no such key.
        """

    def get_own(self, key: str) -> Source:
        """Open the bytes of a key that a file names, which may be nobody else's: no link.

        Raises:
            MissingError: there is no such key.
            UnsafeError: it is a link, or one of several names of a file.
        """
        return self.get(key)

    @abstractmethod
    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Take the bytes of a key; they replace the old ones at `commit`.

        Args:
            key: what to keep them under.
            chunks: the bytes, in order; taken one at a time, and those of a Late one at the end.
            size: the total, where it is known before: space is then reserved at once.
            durable: have the bytes on the disk, not only in the page cache, at `commit`.
            progress: called with the number of bytes taken since the last call.

        Raises:
            StoreError: the disk is full or failed. Nothing of this `put` stays.
        """

    def writer(self) -> Store:
        """Give a store of the same bytes for one save, so that those of threads do not mix."""
        return self

    def reader(self) -> Store:
        """Give a store of the same bytes to open one state of, which need not look twice."""
        return self

    def draft(self, key: str) -> Store:
        """Give a writer of the keys below one, which at its commit are all that lie there."""
        return self

    def inside(self, key: str) -> Store | None:
        """Give what lies below a key as a store of its own; None where nothing does."""
        return None

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key at `commit`, after what was put has appeared."""

    @abstractmethod
    def commit(self) -> None:
        """Make what was put and deleted since the last commit visible."""

    @abstractmethod
    def rollback(self) -> None:
        """Forget what was put and deleted since the last commit."""

    def records(self, prefix: str = "") -> Iterator[tuple[str, Source]]:
        """Give the committed keys that start with `prefix` with their bytes, in stored order.

        A store that keeps a key more than once gives it each time, where `get` gives the last.
        """
        for key in self.keys(prefix):
            yield key, self.get(key)

    def close(self) -> None:
        """Release the store; what was not committed is forgotten."""
        self.rollback()


class ReadOnlyStore(Store):
    """What is read alone, such as the members of an archive; writing to it is refused.

    A subclass has `keys` and `get`, and says in `fixed` why nothing is written.
    """

    fixed: ClassVar[str]

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        raise ArgumentError(self.fixed, where=self.where)

    def delete(self, key: str) -> None:
        raise ArgumentError(self.fixed, where=self.where)

    def commit(self) -> None:
        raise ArgumentError(self.fixed, where=self.where)

    def rollback(self) -> None:
        """Do nothing: nothing can have been put."""


@dataclass(frozen=True)
class Location:
    """One key of a store, or (with an empty key) all of it.

    >>> from tensorkeep.stores.memory import MemoryStore
    >>> Location(MemoryStore(), "run/model.safetensors").suffix
    '.safetensors'
    """

    store: Store
    key: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        return Location, (self.store, self.key)  # without what was opened of it

    @property
    def where(self) -> str:
        """How messages name it."""
        if not self.key:
            return self.store.where or "the store"
        return (
            self.key
            if self.store.where in ("", ".")
            else posixpath.join(self.store.where, self.key)
        )

    @property
    def name(self) -> str:
        """The last part of the key."""
        return posixpath.basename(self.key)

    @property
    def suffix(self) -> str:
        """The last suffix of the name in lower case, dot included."""
        return posixpath.splitext(self.name)[1].lower()

    @cached_property
    def source(self) -> Source:
        """The bytes, opened once."""
        return self.store.get(self.key)

    @cached_property
    def head(self) -> bytes:
        """The first few kilobytes, to recognise a format by; empty for a folder."""
        if not self.key:
            return b""
        return bytes(self.source.read(0, min(HEAD, self.source.size)))

    def sibling(self, name: str) -> Location:
        """Give the location of a file that this one names, in the same folder or below it.

        Raises:
            UnsafeError: the name leads out of the folder.
        """
        parts = name.split("/")
        if (
            not name
            or "\0" in name
            or "\\" in name
            or any(part in ("", ".", "..") for part in parts)
            or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
            or any("\ud800" <= letter <= "\udfff" for letter in name)
        ):
            shown = name if len(name) < 60 else f"{name[:57]}..."
            raise UnsafeError(
                f"names the file {shown!r}, which is not inside its own folder", where=self.where
            )
        return self.beside(name)

    def beside(self, name: str) -> Location:
        """Give the location of a name of our own choice in the same folder."""
        return Location(self.store, posixpath.join(posixpath.dirname(self.key), name))

    def close(self) -> None:
        """Close the bytes if they were opened."""
        self.__dict__.pop("head", None)
        opened = self.__dict__.pop("source", None)  # a later use opens it again
        if opened is not None:
            opened.close()


def join(chunks: Chunks) -> bytes:
    """Join chunks in memory, the bytes of Late ones asked for at the end.

    >>> join([Late(2, lambda: b"ab"), b"cd"])
    b'abcd'
    """
    parts = [chunk if isinstance(chunk, Late) else bytes(chunk) for chunk in chunks]
    return b"".join(part.make() if isinstance(part, Late) else part for part in parts)
