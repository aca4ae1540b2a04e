"""A GGUF file, or the parts of a split one, as a State."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorkeep.blocks import LAYOUTS
from tensorkeep.dtypes import BLOCKS, DTYPES, DType
from tensorkeep.errors import CorruptError, MissingError, UnsupportedError
from tensorkeep.formats.gguf.header import Header, Info, read_header
from tensorkeep.notes import KEY, Notes, parse_notes
from tensorkeep.source import Source, Window
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor

ARCHITECTURE, DEFAULT_ARCHITECTURE = "general.architecture", "tensorkeep"
TYPES = "gguf.types"
SPLIT = ("split.no", "split.count", "split.tensors.count")
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)

_NUMBERED = {
    0: "float32",
    1: "float16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    15: "q8_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    29: "iq1_m",
    30: "bfloat16",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
    40: "nvfp4",
    41: "q1_0",
}
KINDS: dict[int, DType] = {n: (DTYPES | BLOCKS)[name] for n, name in _NUMBERED.items()}
NUMBERS = {kind: number for number, kind in KINDS.items()}
# Numbers that were given once, or that never stand in a file.
_GONE = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


def decode(location: Location) -> State:
    """Read the header, and those of the other parts where the file is one of several."""
    header = read_header(location.source)
    if _split_number(header, SPLIT[1], location.where) > 1:
        return _decode_parts(location, header)
    return _state(location, header)


def _state(location: Location, header: Header) -> State:
    source, where = location.source, location.where
    tensors = {info.name: _tensor(info, header, source) for info in header.infos}
    _refuse_overlaps(tensors, where)
    if header.swapped:
        tensors = {name: _little_endian(name, tensor) for name, tensor in tensors.items()}
    metadata = {key: value for key, value in header.metadata.items() if key != KEY}
    document = header.metadata.get(KEY)
    ours = isinstance(document, str)
    notes = parse_notes(document, where, tensors) if isinstance(document, str) else Notes()
    if not ours and KEY in header.metadata:
        metadata[KEY] = header.metadata[KEY]
    if notes.digests is not None and not header.sealed:
        raise CorruptError("the header's own digest is gone", where=where)
    for name, (kind, shape) in notes.stored.items():
        if name not in tensors:
            raise CorruptError(f"its notes speak of {name!r}, which is not there", where=where)
        kept = tensors[name]
        tensors[name] = Tensor(kind, shape, kept.source, kept.offset, kept.nbytes)
    if metadata.get(ARCHITECTURE) == DEFAULT_ARCHITECTURE:
        del metadata[ARCHITECTURE]
    if header.types:
        if TYPES in metadata:
            raise UnsupportedError(f"has a key {TYPES} of its own", where=where)
        types: dict[str, Any] = dict(header.types)
        metadata[TYPES] = types
    return State(
        tensors,
        metadata={**metadata, **notes.metadata},
        skeleton=notes.skeleton,
        digests=notes.digests,
        format="gguf",
        where=where,
        close=location.close,
    )


def _tensor(info: Info, header: Header, source: Source) -> Tensor:
    kind = KINDS.get(info.kind)
    if kind is None:
        raise UnsupportedError(
            f"the tensor {info.name[:60]!r} is of the element type "
            f"{_GONE.get(info.kind, info.kind)}, which is not read here",
            where=source.where,
            cure="Make the file anew with a current llama.cpp, or update tensorkeep.",
        )
    if info.offset % header.alignment:
        raise CorruptError(
            f"the tensor {info.name[:60]!r} starts at {info.offset:,}, which is no multiple of "
            f"{header.alignment}",
            where=source.where,
        )
    return Tensor(kind, info.shape, source, header.data + info.offset)


def _little_endian(name: str, tensor: Tensor) -> Tensor:
    kind = tensor.dtype
    if kind.bits == 8 or not tensor.nbytes:
        return tensor
    if kind.block > 1 and LAYOUTS[kind.name].words is None:
        raise UnsupportedError(
            f"the tensor {name[:60]!r} of {kind} is in a big-endian file, and what its bytes are "
            "then is not settled",
            where=tensor.source.where,
            cure="Use the little-endian file.",
        )
    return Tensor(kind, tensor.shape, _Swapped(tensor))


class _Swapped(Source):
    """A tensor of a big-endian file in little-endian bytes."""

    __slots__ = ("_inner", "_kind")

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor.nbytes, tensor.source.where)
        self._inner = Window(tensor.source, tensor.offset, tensor.nbytes)
        self._kind = tensor.dtype

    def _read(self, start: int, stop: int) -> memoryview:
        width = self._kind.group[1]
        first, last = start // width * width, -(-stop // width) * width
        found = np.frombuffer(self._inner.read(first, last), np.uint8).reshape(-1, width)
        if self._kind.block == 1:
            found = np.ascontiguousarray(found[:, ::-1])
        else:
            found = found.copy()
            for at in LAYOUTS[self._kind.name].words or ():
                found[:, [at, at + 1]] = found[:, [at + 1, at]]
        return found.reshape(-1).data[start - first : stop - first].toreadonly()


def _refuse_overlaps(tensors: dict[str, Tensor], where: str) -> None:
    rows = sorted((t.offset, t.offset + t.nbytes, n) for n, t in tensors.items() if t.nbytes)
    for (_, stop, name), (start, _, other) in itertools.pairwise(rows):
        if start < stop:
            raise CorruptError(f"the tensors {name!r} and {other!r} overlap", where=where)


def _split_number(header: Header, key: str, where: str) -> int:
    value = header.metadata.get(key, 0)
    if type(value) is not int or not 0 <= value <= MAX_TENSORS:
        raise CorruptError(f"{key} is {str(value)[:40]}", where=where)
    return value


def _decode_parts(location: Location, header: Header) -> State:
    where = location.where
    count = _split_number(header, SPLIT[1], where)
    named = PART.fullmatch(location.name)
    if named is None or int(named[3]) != count:
        raise UnsupportedError(
            f"is one of {count:,} parts, but is not named like one",
            where=where,
            cure=f"Name the parts as NAME-00001-of-{count:05}.gguf and so on.",
        )
    opened: list[Location] = [location]

    def close() -> None:
        for part in opened:
            part.close()

    try:
        states: list[State] = []
        for number in range(count):
            name = f"{named[1]}-{number + 1:05}-of-{named[3]}{named[4]}"
            part = location if name == location.name else location.sibling(name)
            if part is not location:
                opened.append(part)
            states.append(_part(part, number, header))
        return _joined(states, header, where, close)
    except BaseException:
        close()
        raise


def _part(location: Location, number: int, first: Header) -> State:
    count = first.metadata[SPLIT[1]]
    try:
        source = location.source
    except MissingError as error:
        raise MissingError(
            f"part {number + 1} of {count} is missing",
            where=error.where,
            cure="Fetch it too, or put it beside the others.",
        ) from None
    header = read_header(source)
    found = tuple(_split_number(header, key, location.where) for key in SPLIT)
    expected = (number, count, first.metadata.get(SPLIT[2], 0))
    if found != expected:
        raise CorruptError(
            f"should be part {number + 1} of {count} with {expected[2]} tensors in all, but says "
            f"that it is part {found[0] + 1} of {found[1]} with {found[2]}",
            where=location.where,
            cure="Use parts of one save.",
        )
    return _state(location, header)


def _joined(states: list[State], header: Header, where: str, close: Callable[[], None]) -> State:
    tensors: dict[str, Tensor] = {}
    digests: dict[str, str] = {}
    metadata: dict[str, Json] = {}
    for state in states:
        for name, tensor in state.items():
            if name in tensors:
                raise CorruptError(f"two parts hold the tensor {name!r}", where=where)
            tensors[name] = tensor
        digests.update(state.digests)
        for key, value in state.metadata.items():
            metadata.setdefault(key, value)
    total = header.metadata.get(SPLIT[2], 0)
    if len(tensors) != total:
        raise CorruptError(
            f"its parts should hold {total} tensors and hold {len(tensors):,}", where=where
        )
    types = metadata.get(TYPES)
    if isinstance(types, dict):
        kept = {key: spelt for key, spelt in types.items() if key not in SPLIT}
        metadata.pop(TYPES)
        if kept:
            metadata[TYPES] = kept
    return State(
        tensors,
        metadata={key: value for key, value in metadata.items() if key not in SPLIT},
        skeleton=states[0].skeleton,
        digests=digests,
        format="gguf",
        where=where,
        close=close,
    )
