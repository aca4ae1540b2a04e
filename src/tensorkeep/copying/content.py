"""What the bytes of a file have to be: ranges with digests, which are checked as they pass."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from tensorkeep.checksum import mismatch
from tensorkeep.errors import CorruptError
from tensorkeep.formats.safetensors.manifest import Manifest
from tensorkeep.formats.safetensors.single import decode_file
from tensorkeep.store import Location

_MD5 = re.compile('"?([0-9a-f]{32})"?')
_ENDING = ".safetensors"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file, the XXH3-128 that they have, and the tensor they are; "" for no tensor."""

    start: int
    stop: int
    digest: str
    tensor: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of the bytes of a file.

    Args:
        spans: ranges with digests, in order, none empty, none overlapping.
        size: the bytes of all.
        md5: what the store says that the MD5 of all is; "" where it does not.
    """

    spans: tuple[Span, ...]
    size: int
    md5: str = ""

    @property
    def proved(self) -> bool:
        """Whether every byte has a digest."""
        return sum(span.stop - span.start for span in self.spans) == self.size


def listed(manifest: Manifest) -> dict[str, Content]:
    """Give what a manifest says of each file of a checkpoint."""
    tensors: dict[str, list[Span]] = {name: [] for name in manifest.files}
    for name, entry in manifest.tensors.items():
        tensors[entry.file].append(Span(entry.start, entry.stop, entry.digest, name))
    for name, sharded in manifest.sharded.items():
        for piece in sharded.pieces:
            tensors[piece.file].append(Span(piece.start, piece.stop, piece.digest, name))
    return {
        name: _content(file.digest, tensors[name], file.size, tensors=name.endswith(_ENDING))
        for name, file in manifest.files.items()
    }


def _content(digest: str, spans: list[Span], size: int, *, tensors: bool) -> Content:
    # The digest of a safetensors file is that of its header, behind which the tensors begin.
    data = min((span.start for span in spans), default=size) if tensors else size
    return _ordered([Span(0, data, digest), *(spans if tensors else ())], size)


def _ordered(spans: Iterable[Span], size: int, md5: str = "") -> Content:
    kept = sorted((span for span in spans if span.start < span.stop), key=lambda span: span.start)
    end = 0
    for span in kept:
        if span.start < end or span.stop > size:
            return Content((), size, md5)  # what contradicts itself proves nothing
        end = span.stop
    return Content(tuple(kept), size, md5)


def own(location: Location, etag: str = "") -> Content:
    """Give what a file says of itself: a safetensors file has a digest of each tensor.

    Args:
        location: the file.
        etag: what the store calls this version of it.

    Raises:
        CorruptError: it is named as a safetensors file, and is none.
    """
    size = location.source.size
    match = _MD5.fullmatch(etag)
    md5 = match[1] if match else ""
    if location.suffix != _ENDING:
        return Content((), size, md5)
    state = decode_file(location)
    starts = [tensor.offset for tensor in state.values()]
    data = min(starts, default=size)
    head = Span(0, data, xxhash.xxh3_128_hexdigest(location.source.read(0, data)))
    spans = [
        Span(tensor.offset, tensor.offset + tensor.nbytes, state.digests[name], name)
        for name, tensor in state.items()
        if name in state.digests
    ]
    return _ordered([head, *spans], size, md5)


class Checker:
    """Hashes the bytes of a file in their order, and compares each range with its digest.

    Args:
        content: what they have to be.
        where: names the file in messages.
        start: where in the file the first bytes will be from; no range may be cut by it.

    >>> digest = xxhash.xxh3_128_hexdigest(b"abc")
    >>> checker = Checker(Content((Span(0, 3, digest, "w"),), 3), "a.safetensors")
    >>> checker.take(memoryview(b"ab"))
    >>> checker.take(memoryview(b"x"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    tensorkeep.errors.CorruptError: a.safetensors: the tensor 'w' is damaged: ...
    """

    def __init__(self, content: Content, where: str, start: int = 0) -> None:
        self.at = start  # how far it is
        self.sound = start  # up to where digests were found to be right
        self._content = content
        self._where = where
        self._left = [span for span in reversed(content.spans) if span.start >= start]
        self._hasher = xxhash.xxh3_128()
        self._whole = xxhash.xxh3_128() if not content.proved and content.md5 else None
        self._md5 = hashlib.md5(usedforsecurity=False)

    def take(self, piece: memoryview) -> None:
        """Take the next bytes.

        Raises:
            CorruptError: a range that ends in them is damaged.
        """
        if self._whole is not None:
            self._whole.update(piece)
            self._md5.update(piece)
        stop = self.at + piece.nbytes
        while self._left and self._left[-1].start < stop:
            span = self._left[-1]
            first, last = max(span.start, self.at), min(span.stop, stop)
            self._hasher.update(piece[first - stop + piece.nbytes : last - stop + piece.nbytes])
            if span.stop > stop:
                break
            self._compare(span)
            self._left.pop()
            self.sound = span.stop
        self.at = stop

    def _compare(self, span: Span) -> None:
        found = self._hasher.hexdigest()
        self._hasher.reset()
        if found == span.digest:
            return
        if span.tensor:
            raise mismatch(span.tensor, span.digest, found, self._where)
        what = "it" if span.stop == self._content.size else "its header"
        raise CorruptError(
            f"{what} is damaged: the XXH3-128 of its {span.stop:,} bytes is {found}, "
            f"{span.digest} was saved",
            where=self._where,
            cure="Use another copy of the file.",
        )

    @property
    def doubted(self) -> str:
        """The XXH3-128 of all bytes, where the store names an MD5 that is not theirs; else "".

        An encrypting store gives what looks like one and is none: another reading has to tell.
        """
        if self._whole is None or self._md5.hexdigest() == self._content.md5:
            return ""
        return self._whole.hexdigest()


def name_in(folder: str, key: str) -> str:
    """Give the path of a key below a folder of the store."""
    return posixpath.relpath(key, folder) if folder else key
