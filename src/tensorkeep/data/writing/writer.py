"""Writer: samples to bytes, and bytes to files; one for each kind of target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from tensorkeep.data.writing.fields import Fields


class Packed(NamedTuple):
    """A sample as its file keeps it, and the bytes that it takes there."""

    number: int
    size: int
    data: Any


class File(ABC):
    """A file, or a folder of a database, that appears whole when it is finished."""

    @abstractmethod
    def add(self, packed: Packed) -> None:
        """Take a sample; nothing of it is looked at later.

        Raises:
            StoreError: the disk is full or failed.
        """

    @abstractmethod
    def finish(self) -> None:
        """Let it appear under its name, in the place of what is there.

        Raises:
            StoreError: it cannot be; what was there before is unchanged.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop what is not finished."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Writer(ABC):
    """What packs samples, and begins the files that they go to.

    Args:
        fields: what is known of the fields; grows.
        durable: have files on the disk, safe from a power cut, when they are finished.
    """

    def __init__(self, fields: Fields, *, durable: bool) -> None:
        self.fields = fields
        self.durable = durable

    @abstractmethod
    def pack(self, number: int, sample: Mapping[str, Any]) -> Packed:
        """Make the bytes of a sample.

        Raises:
            UnsupportedError: it cannot be kept; the message names the sample and the field.
        """

    @abstractmethod
    def begin(self, path: str) -> File:
        """Begin a file; a sample was packed before.

        Raises:
            StoreError: it cannot be written, or something else is there.
        """
