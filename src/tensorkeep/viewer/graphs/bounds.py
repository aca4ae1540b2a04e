"""What an answer may hold: so many nodes, so many names, and texts that are no longer than so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import xxhash

from tensorkeep.message import Message
from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Attribute

MOST_NODES = 20_000
MOST_PARTS = 20_000
MOST_LEVELS = 64  # graphs within graphs
LONGEST = 2_000  # characters of a text
MOST_ENDS = 1_000  # inputs or outputs of one node
MOST_ATTRIBUTES = 200  # of one node
MOST_FACTS = 200
SHOWN = 64  # items of a list
_READ = 4 * LONGEST  # bytes of a text
_SHOWN_BYTES = 64  # of what is no text
_MOST_ITEMS = 600_000  # names and attributes of all nodes together
_MOST_TEXT = 16 << 20  # characters of all nodes and values together
_MOST_VALUES = 200_000  # types of values, weights, and inputs and outputs of parts
_TYPE = 32  # characters of the type of a value, about


Row = TypeVar("Row")


@dataclass(slots=True)
class Budget:
    """What is left of an answer's room; `left_out` counts the nodes for which there was none."""

    nodes: int = MOST_NODES
    items: int = _MOST_ITEMS
    text: int = _MOST_TEXT
    values: int = _MOST_VALUES
    left_out: int = 0

    def has_room(self) -> bool:
        """Whether there is room for another node."""
        return self.nodes > 0 and self.items > 0 and self.text > 0

    def some(self, rows: Iterable[Row], name: Callable[[Row], str]) -> Iterator[Row]:
        """Give as many values as there is room for."""
        for row in rows:
            if self.values <= 0 or self.text <= 0:
                return
            self.values -= 1
            self.text -= min(len(name(row)), LONGEST) + _TYPE
            yield row

    def spend(self, names: Sequence[str], attributes: Sequence[Attribute], doc: str) -> None:
        """Count a node."""
        self.nodes -= 1
        self.items -= len(names) + len(attributes)
        self.text -= len(doc) + sum(map(len, names))
        self.text -= sum(len(each.text) + len(each.name) for each in attributes)


def plain(text: str) -> str:
    """Give text that can be encoded: bytes that were no UTF-8 are written out."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text


def clipped(text: str) -> str:
    """Give the beginning of a text that is too long, and how long it was.

    >>> clipped("short"), clipped("x" * 3000)[-20:]
    ('short', 'xxxx... 3,000 in all')
    """
    if len(text) <= LONGEST:
        return plain(text)
    return f"{plain(text[: LONGEST - 100])[: LONGEST - 40]}... {len(text):,} in all"


def named(name: str) -> str:
    """Give a name; of one that is too long the beginning and a digest, so that it stays unique."""
    if len(name) <= LONGEST // 4:
        return plain(name)
    whole = plain(name)
    if len(whole) <= LONGEST:
        return whole
    return f"{whole[: LONGEST - 40]}...{xxhash.xxh3_128_hexdigest(whole.encode())}"


def listed(values: Sequence[Any], show: Callable[[Any], str] = str) -> str:
    """Write the first items of a list, and how many there are.

    >>> listed([1, 2]), listed(range(100))[-23:]
    ('[1, 2]', '62, 63, ... 100 in all]')
    """
    shown = ", ".join(map(show, islice(values, SHOWN)))
    more = f", ... {len(values):,} in all" if len(values) > SHOWN else ""
    return clipped(f"[{shown}{more}]")


def float_text(value: float) -> str:
    """Write a float32 as short as it reads back.

    >>> float_text(0.10000000149011612), float_text(1e-05)
    ('0.1', '1e-05')
    """
    with np.errstate(over="ignore"):
        return str(np.float32(value))


def bytes_text(message: Message, field: str) -> str:
    """Write the bytes of a field: text as it is, else as hex; of long ones only the beginning.

    Programs for accelerators are kept in nodes, hundreds of megabytes of them.
    """
    found = message.window(field)
    if found is None:
        data: bytes = message[field]
        return beginning(data, len(data))
    source, start, stop = found
    data = bytes(source.read(start, min(stop, start + _READ)))
    return beginning(data, stop - start)


def beginning(data: bytes, size: int) -> str:
    """Write bytes of which there are `size` in all.

    >>> beginning(b"NCHW", 4), beginning(bytes([255, 0]), 2), beginning(b"x" * 5000, 9000)[-25:]
    ('NCHW', '2 bytes: ff 00', 'xxx... 9,000 bytes in all')
    """
    try:
        text = data[:_READ].decode("utf-8")
    except UnicodeDecodeError as error:
        if size <= _READ or error.start < _READ - 4:  # else a character is cut in two
            return f"{size:,} bytes: {data[:_SHOWN_BYTES].hex(' ')}"
        text = data[: error.start].decode("utf-8")
    if "\0" in text:
        return f"{size:,} bytes: {data[:_SHOWN_BYTES].hex(' ')}"
    if len(text) <= LONGEST and size <= _READ:
        return text
    return f"{text[: LONGEST - 40]}... {size:,} bytes in all"


def ends(names: Iterable[str], called: str, notes: list[Attribute]) -> list[str]:
    """Give the inputs or outputs of a node; that some are left out is noted as an attribute."""
    given = list(names)
    if len(given) > MOST_ENDS:
        text = f"{MOST_ENDS:,} of {len(given):,} are shown"
        notes.append(Attribute(called, "left out", text))
        del given[MOST_ENDS:]
    return [named(name) if name else "" for name in given]


def first_few(rows: list[Row], called: str, notes: list[Attribute]) -> list[Row]:
    """Give the attributes of a node; that some are left out is noted as an attribute."""
    if len(rows) > MOST_ATTRIBUTES:
        text = f"{MOST_ATTRIBUTES:,} of {len(rows):,} are shown"
        notes.append(Attribute(called, "left out", text))
    return rows[:MOST_ATTRIBUTES]


def type_of(tensor: Tensor) -> str:
    """Write the type of a tensor, such as float32[64, 3, 7, 7]."""
    return f"{tensor.dtype.name}{list(tensor.shape)}"


class Facts(dict[str, str]):
    """What is said about a model: bounded texts by their keys."""

    def tell(self, key: str, value: object) -> None:
        """Note a fact, unless it is empty or there are far too many."""
        text = clipped(str(value))
        if text and len(self) < MOST_FACTS:
            self[named(key)] = text
