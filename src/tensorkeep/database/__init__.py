"""Database: a key-value engine as a store, with the modes in which Caffe2 opens one."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self, get_args

from tensorkeep.errors import ArgumentError, ClosedError, StoreError
from tensorkeep.source import Source
from tensorkeep.store import Store

Mode = Literal["read", "write", "new"]


class Database(Store):
    """A store of records in one file, or in a folder that one engine has to itself.

    Args:
        path: the file or folder.
        mode: "read" opens what is there and changes nothing; "write" opens it, or makes it where
            there is nothing; "new" makes it: a folder must not exist yet, a file is replaced. What
            is new appears at the first commit, whole.
        options: what the engine takes; see its own class.

    Raises:
        MissingError: there is nothing to read.
        StoreError: it cannot be opened, or is held by another process.
        CorruptError: it is damaged.
        ArgumentError: an unknown mode or option.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    sorted: ClassVar[bool]
    option_names: ClassVar[tuple[str, ...]] = ()
    holds_empty: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "read", **options: Any) -> None:
        self._closed = True
        if mode not in get_args(Mode):
            raise ArgumentError(f"there is no mode {mode!r}", cure='Use "read", "write" or "new".')
        for option in options:
            if option not in self.option_names:
                known = ", ".join(self.option_names) or "none"
                raise ArgumentError(
                    f"{self.kind} has no option {option!r}", cure=f"It has {known}."
                )
        self.where = os.fsdecode(path)
        try:
            self.path = os.path.realpath(self.where)
        except (OSError, ValueError) as error:
            raise StoreError(f"is no file name: {error}", where=self.where) from error
        self.mode: Mode = mode
        self.options = options
        self._closed = False

    @classmethod
    @abstractmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        """Say whether a database of this kind is there, by file names or first bytes."""

    @abstractmethod
    def records(self, prefix: str = "", start: str | None = None) -> Iterator[tuple[str, Source]]:
        """Give the committed records whose keys start with `prefix`, in stored order.

        Args:
            prefix: how the keys start.
            start: the first key that may come; only for an engine that is `sorted`.

        Raises:
            UnsupportedError: `start` was given to an engine that does not sort its keys.
        """

    def values(self, keys: Sequence[str]) -> list[bytes | memoryview]:
        """Give the whole values of some keys, which costs less than asking for each.

        Raises:
            MissingError: there is no such key.
        """
        found: list[bytes | memoryview] = []
        for key in keys:
            source = self.get(key)
            found.append(source.read(0, source.size))
        return found

    @property
    def exists(self) -> bool:
        """Whether something is at the path: what is new is not, until its first commit."""
        return os.path.lexists(self.path)

    def writer(self) -> Self:
        return self._writer("write")

    def _writer(self, mode: Mode) -> Self:
        writer = type(self)(self.path, mode, **self.options)
        writer.where = self.where
        return writer

    def close(self) -> None:
        if not self._closed:
            self.rollback()
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the database was closed", where=self.where, cure="Open it again.")

    def _check_writable(self) -> None:
        self._check_open()
        if self.mode == "read":
            raise StoreError(
                "was opened for reading only",
                where=self.where,
                cure='Open it with mode "write", or write through its writer().',
            )


def key_bytes(key: str) -> bytes:
    r"""Encode a key as it is kept; a lone surrogate stands for a byte that is not UTF-8.

    Raises:
        ArgumentError: the key is no text that can be encoded.

    >>> key_bytes("w\udcff")
    b'w\xff'
    """
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ArgumentError(f"the key {key[:60]!r} cannot be encoded") from None


def key_text(key: bytes) -> str:
    r"""Decode a key that is kept; bytes that are not UTF-8 become lone surrogates.

    >>> key_text(b"w\xff")
    'w\udcff'
    """
    return key.decode("utf-8", "surrogateescape")
