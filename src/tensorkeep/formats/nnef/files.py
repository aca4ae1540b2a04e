"""The files that a model's labels mean, each opened anew when it is read.

A label is a path below the folder of the text, without its ending. Links are refused, since whoever
made the model would choose what is read. Files are not kept open: a model has thousands of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.source import FileSource, Source, Window
from tensorkeep.store import Location
from tensorkeep.wire.nnef.tensors import HEADER, Header, read_header

GRAPH, QUANTIZATION, ENDING = "graph.nnef", "graph.quant", ".dat"
MAX_TEXT = 64 << 20

_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\'\"\ud800-\udfff]*")


def is_label(name: str) -> bool:
    """Say whether a name can be a label: a path in a folder, beside which no other file lies.

    >>> is_label("layer1/w:0"), is_label("../w"), is_label("a.dat/b"), is_label("")
    (True, False, False, False)
    """
    if not _PLAIN.fullmatch(name):
        return False
    *folders, last = name.split("/")
    return _is_part(f"{last}{ENDING}") and last != "" and all(map(_is_folder, folders))


def _is_part(part: str) -> bool:
    return part != "" and part[0] != "." and len(part.encode()) <= 255


def _is_folder(part: str) -> bool:
    return _is_part(part) and part not in (GRAPH, QUANTIZATION) and not part.endswith(ENDING)


class Data(NamedTuple):
    """What a file holds: its header, as bytes and parsed, and the elements."""

    head: bytes
    header: Header
    elements: Source


def open_data(graph: Location, label: str) -> Data | None:
    """Find the data of a variable; None where there is no such file.

    Args:
        graph: the text of the model.
        label: what it calls the variable.

    Raises:
        CorruptError: the file's header is damaged, or does not fit it.
        UnsafeError: the label leads out of the folder, or to a link.
    """
    beside = graph.sibling(label + ENDING)

    def opened() -> Source:
        return beside.store.get_own(beside.key)

    try:
        source = opened()
    except MissingError:
        return None
    kept = isinstance(source, FileSource)
    try:
        head = bytes(source.read(0, min(HEADER, source.size)))
        header = read_header(head, source.size, source.where)
        if kept:
            return Data(head, header, Reopened(opened, source, header))
        return Data(head, header, Part(source, header))
    finally:
        if kept:
            source.close()


class Part(Window):
    """The data of a file that stays open, such as a member of an archive."""

    __slots__ = ("quantized",)

    def __init__(self, file: Source, header: Header) -> None:
        super().__init__(file, header.start, header.nbytes)
        self.quantized = header.quantized


class Reopened(Source):
    """The data of a file that is opened for each read.

    Args:
        opened: opens the file.
        now: the file, as it is now.
        header: what it says of itself.
    """

    __slots__ = ("_mapped", "_opened", "_start", "_whole", "quantized")

    def __init__(self, opened: Callable[[], Source], now: Source, header: Header) -> None:
        super().__init__(header.nbytes, now.where)
        self.quantized = header.quantized
        self._opened = opened
        self._start = header.start
        self._whole = now.size
        self._mapped = now.mapped

    @property
    def mapped(self) -> bool:
        return self._mapped

    def _file(self) -> Source:
        file = self._opened()
        if file.size != self._whole:
            file.close()
            raise CorruptError(
                f"was {self._whole:,} bytes when the model was opened and is {file.size:,} now",
                where=self.where,
                cure="Open the model again.",
            )
        return file

    def _read(self, start: int, stop: int) -> memoryview:
        file = self._file()
        try:
            return file.read(self._start + start, self._start + stop)
        finally:
            file.close()

    def _private(self, start: int, stop: int) -> memoryview:
        file = self._file()
        try:
            return file.private(self._start + start, self._start + stop)
        finally:
            file.close()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        file = self._file()
        try:
            file.readinto(self._start + start, buffer)
        finally:
            file.close()


class Absent(Source):
    """The data of a variable that has no file."""

    __slots__ = ("_label",)

    def __init__(self, size: int, label: str, where: str) -> None:
        super().__init__(size, where)
        self._label = label

    def reach(self, start: int, stop: int) -> None:
        self._read(start, stop)

    def _read(self, start: int, stop: int) -> memoryview:
        label = self._label[:60]
        raise MissingError(
            f"the variable {label!r} has no data: there is no {label}{ENDING} beside the text",
            where=self.where,
            cure="Open the folder or archive that holds its tensors.",
        )
