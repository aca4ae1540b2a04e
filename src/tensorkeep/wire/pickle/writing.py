r"""Writing pickles of protocol 2, in the opcodes that PyTorch's restricted reader knows.

Values are None, bool, int, float, str, list, tuple, dict and OrderedDict, and three kinds of record
for what a pickle says of anything else: a name to import, a call, and an identifier whose meaning
is outside of the pickle. A call or identifier that stands in several places is one object to the
reader, as the same record is here. Equal values give equal bytes.

Facts from Python's pickletools and from PyTorch's restricted reader.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from tensorkeep.errors import UnsupportedError

_BATCH = 1000  # items between one mark and its opcode, as other writers have it
LONGEST_INT = 255  # bytes that an integer can have


class Global(NamedTuple):
    """What a module calls so."""

    module: str
    name: str


class Call(NamedTuple):
    """What a global gives when it is called."""

    function: Global
    arguments: tuple[Any, ...]


class Persistent(NamedTuple):
    """An object kept outside of the pickle, by what identifies it there."""

    identifier: Any


ORDERED_DICT = Global("collections", "OrderedDict")


def dump(value: Any) -> bytes:
    r"""Write a value.

    Raises:
        UnsupportedError: a value of another type, or an integer of more than 255 bytes.

    >>> dump({"a": (1, True)})
    b'\x80\x02}X\x01\x00\x00\x00aq\x00K\x01\x88\x86s.'
    """
    writer = _Writer()
    writer.write(value)
    return b"".join((b"\x80\x02", *writer.out, b"."))


class _Writer:
    """The opcodes so far, and what was memorized under which number."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self._memo: dict[Any, int] = {}
        self._alive: list[Any] = []  # so that no identity is taken twice

    def write(self, value: Any) -> None:
        write = _KINDS.get(type(value))
        if write is None:
            raise UnsupportedError(f"a {type(value).__name__} is not written to pickles")
        write(self, value)

    def _recall(self, key: Any) -> bool:
        """Take what was memorized under a key; False where nothing was."""
        number = self._memo.get(key)
        if number is None:
            return False
        self.out.append(_numbered(b"h", b"j", number))
        return True

    def _memorize(self, key: Any) -> None:
        number = self._memo[key] = len(self._memo)
        self.out.append(_numbered(b"q", b"r", number))

    def _none(self, value: None) -> None:
        self.out.append(b"N")

    def _bool(self, value: bool) -> None:
        self.out.append(b"\x88" if value else b"\x89")

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out.append(struct.pack("<cB", b"K", value))
        elif 0 <= value < 65536:
            self.out.append(struct.pack("<cH", b"M", value))
        elif -(2**31) <= value < 2**31:
            self.out.append(struct.pack("<ci", b"J", value))
        else:
            size = int_size(value)
            if size > LONGEST_INT:
                raise UnsupportedError(f"an integer of {size:,} bytes is not written to pickles")
            data = value.to_bytes(size, "little", signed=True)
            self.out.append(struct.pack("<cB", b"\x8a", size) + data)

    def _float(self, value: float) -> None:
        self.out.append(struct.pack(">cd", b"G", value))

    def _str(self, value: str) -> None:
        if not self._recall(value):
            data = value.encode()
            self.out.append(struct.pack("<cI", b"X", len(data)) + data)
            self._memorize(value)

    def _list(self, value: list[Any]) -> None:
        self.out.append(b"]")
        self._filled(value, b"a", b"e", lambda item: self.write(item))

    def _dict(self, value: dict[Any, Any]) -> None:
        self.out.append(b"}")
        self._pairs(value)

    def _ordereddict(self, value: OrderedDict[Any, Any]) -> None:
        self._global(ORDERED_DICT)
        self.out.append(b")R")
        self._pairs(value)

    def _pairs(self, value: dict[Any, Any]) -> None:
        def pair(item: tuple[Any, Any]) -> None:
            self.write(item[0])
            self.write(item[1])

        self._filled(value.items(), b"s", b"u", pair)

    def _filled(
        self, items: Iterable[Any], one: bytes, many: bytes, write: Callable[[Any], None]
    ) -> None:
        for batch in _batches(items):
            if len(batch) == 1:
                write(batch[0])
                self.out.append(one)
                continue
            self.out.append(b"(")
            for item in batch:
                write(item)
            self.out.append(many)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        if len(value) > 3:
            self.out.append(b"(")
        for item in value:
            self.write(item)
        self.out.append(_TUPLES.get(len(value), b"t"))

    def _global(self, value: Global) -> None:
        if not self._recall(value):
            self.out.append(f"c{value.module}\n{value.name}\n".encode())
            self._memorize(value)

    def _call(self, value: Call) -> None:
        if not self._recall(id(value)):
            self._global(value.function)
            self._tuple(value.arguments)
            self.out.append(b"R")
            self._memorize(id(value))
            self._alive.append(value)

    def _persistent(self, value: Persistent) -> None:
        self.write(value.identifier)
        self.out.append(b"Q")


_KINDS: dict[type, Callable[[_Writer, Any], None]] = {
    type(None): _Writer._none,
    bool: _Writer._bool,
    int: _Writer._int,
    float: _Writer._float,
    str: _Writer._str,
    list: _Writer._list,
    tuple: _Writer._tuple,
    dict: _Writer._dict,
    OrderedDict: _Writer._ordereddict,
    Global: _Writer._global,
    Call: _Writer._call,
    Persistent: _Writer._persistent,
}
_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}


def int_size(value: int) -> int:
    """Give the bytes that an integer takes with its sign.

    >>> int_size(127), int_size(128), int_size(-128)
    (1, 2, 1)
    """
    return (value if value >= 0 else ~value).bit_length() // 8 + 1


def _numbered(short: bytes, wide: bytes, number: int) -> bytes:
    return struct.pack("<cB", short, number) if number < 256 else struct.pack("<cI", wide, number)


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
