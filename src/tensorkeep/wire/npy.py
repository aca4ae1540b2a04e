"""NumPy's array layout, alone in a .npy file or as a member of a .npz: a header, then the elements.

The magic, a version, the length of a text, and the text: a Python dict of `descr`, `fortran_order`
and `shape`, padded so that the elements start at a multiple of 64. It is parsed here by a grammar
of its own, never evaluated.

NumPy writes the types of ml_dtypes as raw bytes, which loses the type: bfloat16 as `<V2`, all of
one byte as `<V1`, except float8_e5m2 as `<f1`. `<V2` and `<f1` are taken for what ml_dtypes means
by them. We write these types as a structure of one field that is named after the type and holds the
bits of an element as an unsigned integer, such as `[('bfloat16', '<u2')]`, which NumPy reads too.
Types below 8 bits take a byte per element, as they do in NumPy.

Facts from the documentation of numpy.lib.format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.store import Chunk
from tensorkeep.tensor import Tensor

MAGIC = b"\x93NUMPY"
MAX_TEXT = 0xFFFF  # NumPy itself writes no more than this in version 1.0
USUAL = 128  # nearly every header is of this length
_MAX_AXES = 64
_ALIGN = 64
_GROWTH_DIGITS = 21  # NumPy leaves room for the first axis to grow to this many digits
_PIECE = 3 << 20  # packed bytes unpacked at a time: whole elements for 2, 4 and 6 bits
_STRING_SLACK = 1 << 20

_PLAIN: dict[str, DType] = {
    row.numpy.str[1:]: row for row in DTYPES.values() if row.numpy.isbuiltin == 1
}
_PLAIN.pop("O")
_EXTENDED: dict[str, tuple[DType, str]] = {
    row.name: (row, "<u2" if row.bits > 8 else "|u1")
    for row in DTYPES.values()
    if row.numpy.isbuiltin != 1
}


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says, checked.

    Args:
        length: the bytes before the elements.
        nbytes: the bytes that the elements take.
        dtype: what the elements are.
        numpy: how NumPy sees them as stored.
        shape: the sizes of the axes.
        fortran: the first axis varies fastest, and that differs from C order.
    """

    length: int
    nbytes: int
    dtype: DType
    numpy: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def canonical(self) -> bool:
        """True where the stored bytes are those of a Tensor."""
        kind = self.dtype
        swapped = self.numpy.byteorder == ">"
        return not (self.fortran or swapped or kind.packed or kind is STRING)

    def array(self, data: memoryview) -> npt.NDArray[Any]:
        """View the stored bytes as an array."""
        if not self.nbytes:
            return np.zeros(self.shape, self.numpy)
        return np.ndarray(self.shape, self.numpy, data, order="F" if self.fortran else "C")

    def tensor(self, source: Source, offset: int) -> Tensor:
        """Make the tensor whose elements are stored from `offset` on; strings are decoded now.

        Raises:
            CorruptError: a string holds what is not a character.
        """
        if self.canonical:
            return Tensor(self.dtype, self.shape, source, offset, self.nbytes)
        if self.dtype is not STRING:
            return Tensor(self.dtype, self.shape, _Rearranged(self, source, offset))
        return Tensor.of(self.array(source.read(offset, offset + self.nbytes)), source.where)


class _Rearranged(Source):
    """Canonical bytes of elements stored big endian, in Fortran order or one to a byte.

    Only what a read covers is converted.
    """

    __slots__ = ("_header", "_inner", "_offset", "_whole")

    def __init__(self, header: Header, inner: Source, offset: int) -> None:
        self._header = header
        self._inner = inner
        self._offset = offset
        self._whole: Tensor | None = None
        super().__init__(header.dtype.nbytes(dtypes.count_of(header.shape)), inner.where)

    def close(self) -> None:
        self._whole = None

    def _read(self, start: int, stop: int) -> memoryview:
        if self._header.fortran:  # a row lies scattered over all of the file
            return self._transposed().source.read(start, stop)
        bits, stored = self._header.dtype.bits, self._header.numpy
        group = math.lcm(bits, 8) // bits  # elements that start and end on a byte
        width = group * bits // 8
        first = start // width
        count = dtypes.count_of(self._header.shape)
        last = min(-(-stop // width) * group, count)
        begin = self._offset + first * group * stored.itemsize
        data = self._inner.read(begin, self._offset + last * stored.itemsize)
        array = np.frombuffer(data, np.uint8).view(stored)
        return Tensor.of(array).read()[start - first * width :][: stop - start]

    def _transposed(self) -> Tensor:
        if self._whole is None:
            end = self._offset + self._header.nbytes
            self._whole = Tensor.of(self._header.array(self._inner.read(self._offset, end)))
        return self._whole


class Arrays(Mapping[str, Tensor]):
    """Tensors by name, made when they are asked for from a header and where the elements are."""

    def __init__(self, rows: dict[str, tuple[Header, Source, int]]) -> None:
        self.rows = rows
        self.made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.made:
            return self.made[name]
        header, source, offset = self.rows[name]
        tensor = header.tensor(source, offset)
        if not header.canonical:
            self.made[name] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def text(self, name: str) -> str:
        """Give the NumPy type of strings, such as "<U5"; empty for anything else."""
        header = self.rows[name][0]
        return header.numpy.newbyteorder("<").str if header.dtype is STRING else ""

    def close(self) -> None:
        """Drop what was inflated or converted."""
        for tensor in self.made.values():
            tensor.source.close()
        for _, source, _ in self.rows.values():
            source.close()


def read_header(
    head: memoryview,
    more: Callable[[int], memoryview],
    size: int,
    where: str,
    known: dict[bytes, Header],
) -> Header:
    """Read the header of an array and check it against the bytes that there are.

    Args:
        head: the first bytes, `USUAL` of them where there are as many.
        more: gives as many of the first bytes as are asked for.
        size: the bytes that there are in all: header and elements.
        where: names the array in messages.
        known: headers that were parsed already, by their bytes; grows.

    Raises:
        CorruptError: the header is broken, or speaks of more or fewer bytes than there are.
        UnsupportedError: it describes what no Tensor holds.
        UnsafeError: it is longer than any honest one.
    """
    raw = bytes(head)
    header = known.get(raw)
    if header is None:
        length = _length(raw, where)
        if length > size:
            raise CorruptError(
                f"its header should be {length:,} bytes long, but there are {size:,}",
                where=where,
                cure="It is cut short.",
            )
        raw = raw[:length] if length <= len(raw) else bytes(more(length))
        header = known.get(raw)
        if header is None:
            header = known[raw] = _parse(raw, where)
    if header.length + header.nbytes != size:
        found = size - header.length
        raise CorruptError(
            f"{header.numpy} of shape {header.shape} takes {header.nbytes:,} bytes, but "
            f"{found:,} follow the header",
            where=where,
            cure="It is cut short, or its header lies about sizes."
            if found < header.nbytes
            else "Something was written behind the array.",
        )
    return header


def _length(raw: bytes, where: str) -> int:
    if not raw.startswith(MAGIC) or len(raw) < 12:
        raise CorruptError(f"is not a NumPy array: it starts with {raw[:8]!r}", where=where)
    version = (raw[6], raw[7])
    if version == (1, 0):
        return 10 + int.from_bytes(raw[8:10], "little")
    if version not in ((2, 0), (3, 0)):
        raise UnsupportedError(
            f"its npy version is {raw[6]}.{raw[7]}, not 1.0, 2.0 or 3.0", where=where
        )
    text = int.from_bytes(raw[8:12], "little")
    if text > MAX_TEXT:
        raise UnsafeError(
            f"its header of {text:,} bytes is over the limit of {MAX_TEXT:,}", where=where
        )
    return 12 + text


# One entry of the dict. No part can match in two ways, so a hostile text costs linear time.
_ENTRY = re.compile(
    r"""\s*+(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*+:\s*+
    (?: '(?P<text>[^'\\]*+)' | "(?P<text2>[^"\\]*+)" | (?P<flag>True|False)
      | \((?P<shape>[0-9L,\s]*+)\) | (?P<fields>\[.*\]) )
    \s*+(?:,|(?=\}))""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_FIELD = re.compile(
    r"\[\s*+\(\s*+'(\w++)'\s*+,\s*+'([<|]u[12])'\s*+,?+\s*+\)\s*+,?+\s*+\]", re.ASCII
)
_AXIS = re.compile(r"\s*([0-9]{1,19})L?\s*", re.ASCII)  # Python 2 wrote 3L
_DESCR = re.compile(r"([<>|=]?)([A-Za-z][0-9]{0,9})(?:\[.{0,20}\])?", re.ASCII)


def _parse(raw: bytes, where: str) -> Header:
    """Parse a whole header."""
    text = _text(raw, where)
    found: dict[str, Any] = {}
    at = 1
    while match := _ENTRY.match(text, at):
        if match["key"] in found:
            raise CorruptError(f"its header gives {match['key']!r} twice", where=where)
        found[match["key"]] = match
        at = match.end()
    if text[:1] != "{" or text[at:].strip() != "}" or len(found) != 3:
        raise _broken(text, where)
    flag, axes = found["fortran_order"]["flag"], found["shape"]["shape"]
    shape = None if axes is None else _shape(axes)
    if flag is None or shape is None:
        raise _broken(text, where)
    match = found["descr"]
    descr = match["text"] if match["text"] is not None else match["text2"]
    if descr is not None:
        kind, stored = _type(descr, where)
    elif match["fields"] is not None:
        kind, stored = _structure(match["fields"], where)
    else:
        raise _broken(text, where)
    if len(shape) > _MAX_AXES or math.prod(filter(None, shape)) * stored.itemsize >= 2**63:
        raise CorruptError(f"its shape {_shown(str(shape))} is beyond any array", where=where)
    nbytes = math.prod(shape) * stored.itemsize
    fortran = flag == "True" and nbytes > 0 and sum(axis != 1 for axis in shape) > 1
    return Header(len(raw), nbytes, kind, stored, shape, fortran)


def _text(raw: bytes, where: str) -> str:
    try:
        return raw[10:].decode("latin-1") if raw[6] == 1 else raw[12:].decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"its header is not UTF-8 at byte {error.start}", where=where) from None


def _shape(axes: str) -> tuple[int, ...] | None:
    """Read what stands between the parentheses of a tuple; None where that is not sizes."""
    parts = axes.split(",")
    last = parts.pop()
    if last.strip():
        if not parts:  # (3) is a number, (3,) a tuple
            return None
        parts.append(last)
    found = [_AXIS.fullmatch(part) for part in parts]
    return tuple(int(match[1]) for match in found if match) if all(found) else None


def _type(descr: str, where: str) -> tuple[DType, np.dtype[Any]]:
    match = _DESCR.fullmatch(descr)
    if match is None:
        raise CorruptError(f"{_shown(descr)} is not an element type", where=where)
    order, code = match[1], match[2]
    if code in _PLAIN:
        kind = _PLAIN[code]
        return kind, kind.numpy.newbyteorder(">" if order == ">" else "<")
    if code == "f1":
        return dtypes.FLOAT8_E5M2, dtypes.FLOAT8_E5M2.numpy
    if code == "V2" and order == "<":
        return dtypes.BFLOAT16, dtypes.BFLOAT16.numpy
    if code[0] in "US" and 0 < int(code[1:] or 0) < 2**28:
        return STRING, np.dtype(f"{'>' if order == '>' else '<'}{code}")
    for pattern, (what, cure) in _REFUSED.items():
        if re.fullmatch(pattern, code):
            raise UnsupportedError(f"holds {what} ({descr})", where=where, cure=cure)
    raise CorruptError(f"{_shown(descr)} is not an element type", where=where)


_REFUSED = {
    "O[0-9]*": (
        "Python objects, which are a pickle and can run code when it is read",
        "Save it as an array of numbers or text, such as array.astype(float).",
    ),
    "[Mm]8": ("dates or time spans", "Save array.view('i8') and the unit."),
    "V[0-9]+": (
        "raw bytes, which NumPy writes for several ml_dtypes types without saying which",
        "Save it with tensorkeep, or save array.view(np.uint8) and view it back.",
    ),
    "f(10|12|16)|c(20|24|32)": (
        "floats of a width that differs between machines",
        "Save array.astype(np.float64), or np.complex128.",
    ),
}


def _structure(fields: str, where: str) -> tuple[DType, np.dtype[Any]]:
    """Read our own structure of one field, and refuse all others."""
    match = _FIELD.fullmatch(fields)
    if match is not None and match[1] in _EXTENDED and match[2] == _EXTENDED[match[1]][1]:
        kind = _EXTENDED[match[1]][0]
        return kind, kind.numpy
    raise UnsupportedError(
        f"holds structures ({_shown(fields)})",
        where=where,
        cure="Save each field as an array of its own.",
    )


def _broken(text: str, where: str) -> CorruptError:
    return CorruptError(
        f"its header is {_shown(text.strip())}, not {{'descr': ..., 'fortran_order': ..., "
        "'shape': (...), }",
        where=where,
    )


def _shown(text: str) -> str:
    return repr(text if len(text) < 100 else f"{text[:97]}...")


# --- writing ------------------------------------------------------------------------------------


class Content(NamedTuple):
    """An array as it is to be written.

    `size` is its length in bytes with the header, and `text` the NumPy type of strings.
    """

    head: bytes
    size: int
    elements: Callable[[], Iterator[Chunk]]
    text: str = ""

    def chunks(self) -> Iterator[Chunk]:
        """Give the header, then the elements."""
        yield self.head
        yield from self.elements()


def content(tensor: Tensor, text: str = "") -> Content:
    """Plan how to write a tensor.

    Args:
        tensor: what to write.
        text: the NumPy type to write strings as, such as "<U5"; a wider one where they need it.

    Raises:
        UnsupportedError: strings that NumPy's fixed width cannot hold, or only with great waste.
    """
    kind = tensor.dtype
    if kind is STRING:
        array = _text_array(tensor, text)
        head = _header(repr(array.dtype.str), tensor.shape)
        data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
        return Content(head, len(head) + array.nbytes, partial(iter, [data]), array.dtype.str)
    head = _head(kind, tensor.shape)
    if kind.packed:
        return Content(head, len(head) + tensor.size, partial(_unpacked, tensor))
    return Content(head, len(head) + tensor.nbytes, tensor.pieces)


@lru_cache(maxsize=256)
def _head(kind: DType, shape: tuple[int, ...]) -> bytes:
    if kind.name in _EXTENDED:
        return _header(f"[({kind.name!r}, {_EXTENDED[kind.name][1]!r})]", shape)
    return _header(repr(kind.numpy.newbyteorder("<").str), shape)


def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Write the header as numpy.save does, to the last space."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    if shape:
        text += " " * (_GROWTH_DIGITS - len(str(shape[0])))
    text += " " * (_ALIGN - (10 + len(text) + 1) % _ALIGN) + "\n"
    return MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1")


def _unpacked(tensor: Tensor) -> Iterator[Chunk]:
    """Give elements of fewer than 8 bits a byte each, whose high bits are zero."""
    left = tensor.size
    for start in range(0, tensor.nbytes, _PIECE):
        stop = min(start + _PIECE, tensor.nbytes)
        piece = tensor.source.read(tensor.offset + start, tensor.offset + stop)
        count = min(left, piece.nbytes * 8 // tensor.dtype.bits)
        codes = dtypes.unpack(np.frombuffer(piece, np.uint8), tensor.dtype, count)
        yield codes.view(np.uint8).data
        left -= count


def _text_array(tensor: Tensor, wanted: str) -> npt.NDArray[Any]:
    match = re.fullmatch(r"[<|]([US])([0-9]{1,9})", wanted)
    letter, width = (match[1], int(match[2])) if match else ("U", 1)
    texts: list[Any] = tensor.numpy().reshape(-1).tolist()
    if letter == "S":
        texts = [text.encode("utf-8", "surrogateescape") for text in texts]
    width = max([width, *map(len, texts)])
    nbytes = (width if letter == "S" else 4 * width) * len(texts)
    if any(text[-1:] in ("\0", b"\0") for text in texts):
        problem = "one of its strings ends with NUL, which NumPy takes for padding"
    elif nbytes > max(_STRING_SLACK, 16 * tensor.nbytes):
        problem = f"its strings differ so much in length that NumPy needs {nbytes:,} bytes for them"
    else:
        return np.array(texts, f"<{letter}{width}").reshape(tensor.shape)
    raise UnsupportedError(
        problem, where=tensor.source.where, cure="Save it as .npz or .safetensors."
    )
