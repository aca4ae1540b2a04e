"""Operators of a net with their arguments, read without the numbers that the arguments hold.

Repeated numbers of an argument are not packed: five bytes per float, a tag before every integer.
An init net is made of them, so here they stay in the file, as one run, until they are asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError
from tensorkeep.message.varints import decode_varints
from tensorkeep.source import Source
from tensorkeep.wire.caffe2.values import CPU, Device

FLOATS: Final = 5  # the field numbers of Argument's repeated values
INTS: Final = 6
STRINGS: Final = 7
FLOAT_TAG: Final = FLOATS << 3 | 5
INT_TAG: Final = INTS << 3
TAGGED_FLOAT = np.dtype([("tag", "u1"), ("value", "<f4")])

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LITTLE, _MUCH = 256, 64 << 10  # bytes to look at in one go
_LONGEST = 20  # bytes of a tag and a length, or of a tag and a number


class Range(NamedTuple):
    """Where bytes lie."""

    source: Source
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.stop - self.start

    def read(self) -> memoryview:
        """Give the bytes."""
        return self.source.read(self.start, self.stop)

    def text(self) -> str:
        """Give the bytes as text; those that are not UTF-8 become lone surrogates."""
        return bytes(self.read()).decode("utf-8", "surrogateescape")


@dataclass(slots=True)
class Argument:
    """One argument of an operator."""

    where: str
    name: str = ""
    f: float | None = None
    i: int | None = None
    s: Range | None = None
    repeated: int = 0  # which of FLOATS, INTS and STRINGS it has
    run: Range | None = None  # numbers that are not packed, from the first one's tag to the end
    parts: list[Range] = field(default_factory=list)  # strings, or packed numbers

    def integers(self) -> npt.NDArray[np.int64]:
        """Decode the repeated integers.

        Raises:
            CorruptError: they are not integers.
        """
        if self.repeated not in (0, INTS):
            raise self._problem("holds no integers")
        if self.run is None:
            packed = b"".join(part.read() for part in self.parts)
            return decode_varints(packed, np.int64, None, self.where)
        words = decode_varints(self.run.read(), np.int64, None, self.where)
        if words.size % 2 or np.any(words[::2] != INT_TAG):
            raise self._problem("has other fields among its integers")
        return words[1::2]

    def _problem(self, problem: str) -> CorruptError:
        return CorruptError(f"the argument {self.name!r} {problem}", where=self.where)


@dataclass(slots=True)
class Operator:
    """An OperatorDef, as far as a reader of its tensors has to know it."""

    where: str
    type: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    arguments: dict[str, Argument] = field(default_factory=dict)
    device: Device = CPU

    def float(self, name: str, default: float) -> float:
        """Give an argument that has to be a float.

        Raises:
            CorruptError: it is something else.
        """
        argument = self.arguments.get(name)
        if argument is not None and argument.f is None:
            raise self.problem(f"has an argument {name!r} that is not a float")
        return default if argument is None or argument.f is None else argument.f

    def integer(self, name: str, default: int) -> int:
        """Give an argument that has to be an integer.

        Raises:
            CorruptError: it is something else.
        """
        argument = self.arguments.get(name)
        if argument is not None and argument.i is None:
            raise self.problem(f"has an argument {name!r} that is not an integer")
        return default if argument is None or argument.i is None else argument.i

    def problem(self, problem: str) -> CorruptError:
        """Say what is wrong with it."""
        return CorruptError(f"{self.type} of {self.outputs[:3]} {problem}", where=self.where)


def read_operator(source: Source, start: int, stop: int, where: str) -> Operator:
    """Read an OperatorDef without the numbers in its arguments.

    Raises:
        CorruptError: it is not one.
    """
    found = Operator(where)
    for number, wire, begin, end in walk(source, start, stop, where):
        part = Range(source, begin, end)
        if wire != _LENGTH:
            continue
        if number == 1:
            found.inputs.append(part.text())
        elif number == 2:
            found.outputs.append(part.text())
        elif number == 4:
            found.type = part.text()
        elif number == 5:
            argument = _read_argument(part, where)
            if argument.name in found.arguments:
                raise found.problem(f"has the argument {argument.name!r} twice")
            found.arguments[argument.name] = argument
        elif number == 6:
            found.device = _read_device(part, where)
    return found


def _read_argument(whole: Range, where: str) -> Argument:
    source = whole.source
    found = Argument(where)
    for number, wire, start, stop in walk(source, whole.start, whole.stop, where):
        part = Range(source, start, stop)
        match number, wire:
            case 1, 2:
                found.name = part.text()
            case 2, 5:
                found.f = struct.unpack("<f", part.read())[0]
            case 3, 0:
                found.i = int(decode_varints(part.read(), np.int64, 1, where)[0])
            case 4, 2:
                found.s = part
            case (5, 5) | (6, 0):  # thousands of fields, all of them alike up to the end
                found.repeated, found.run = number, Range(source, start - 1, whole.stop)
                return found
            case ((5 | 6 | 7), 2):
                found.repeated = number
                found.parts.append(part)
    return found


def _read_device(whole: Range, where: str) -> Device:
    numbers = {1: 0, 2: 0}
    for number, wire, start, stop in walk(whole.source, whole.start, whole.stop, where):
        if number in numbers and wire == _VARINT:
            data = whole.source.read(start, stop)
            numbers[number] = int(decode_varints(data, np.int32, 1, where)[0])
    return Device(numbers[1], numbers[2])


def walk(source: Source, start: int, stop: int, where: str) -> Iterator[tuple[int, int, int, int]]:
    """Give number, wire type, start and stop of each field, reading little where they are long.

    Raises:
        CorruptError: a field does not end before `stop`, or is none.

    >>> from tensorkeep.source import MemorySource
    >>> list(walk(MemorySource(bytes.fromhex("08 96 01 12 02 68 69")), 0, 7, "example"))
    [(1, 0, 1, 3), (2, 2, 5, 7)]
    """
    at, base, data, step = start, start, b"", _LITTLE
    while at < stop:
        if at + _LONGEST > base + len(data) < stop:
            step = min(2 * step, _MUCH) if at < base + len(data) else _LITTLE
            base, data = at, bytes(source.read(at, min(at + step, stop)))
        tag, first = _varint(data, at - base)
        wire, last = tag & 7, -1
        if wire == _LENGTH:
            length, first = _varint(data, first)
            last = first + length
        elif wire == _VARINT:
            _, last = _varint(data, first)
        elif wire in (_FIXED32, _FIXED64):
            last = first + (4 if wire == _FIXED32 else 8)
        if not tag >> 3 or first < 0 or not first <= last <= stop - base:
            raise CorruptError(f"there is no whole field at byte {at:,}", where=where)
        yield tag >> 3, wire, base + first, base + last
        at = base + last


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode a varint: its value and where it ends, below zero where it does not end."""
    value = 0
    for place in range(max(0, min(10, len(data) - at)) if at >= 0 else 0):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return 0, -1


def read_floats(run: Range, first: int, last: int, where: str) -> npt.NDArray[np.float32]:
    """Read the floats `first` to `last` of a run, and nothing else.

    Raises:
        CorruptError: there are other fields among them.
    """
    width = TAGGED_FLOAT.itemsize
    data: Any = run.source.read(run.start + first * width, run.start + last * width)
    tagged = np.frombuffer(data, TAGGED_FLOAT)
    if np.any(tagged["tag"] != FLOAT_TAG):
        raise CorruptError("there are other fields among the floats", where=where)
    return np.ascontiguousarray(tagged["value"], np.float32)
