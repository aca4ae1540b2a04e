"""Records put together to blobs: Caffe2's bookkeeping of parts, and what it did not notice.

Facts: BlobState, updateBlobStates and validateBlobStates of caffe2/operators/load_save_op.h.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator

from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, UnsupportedError
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.assemble import Layout
from tensorkeep.wire.caffe2.blobs import read_blob
from tensorkeep.wire.caffe2.decode import Part
from tensorkeep.wire.caffe2.elements import RAW_DATA
from tensorkeep.wire.caffe2.sections import count_values
from tensorkeep.wire.caffe2.values import CPU, TENSOR, Blob, Device

_SEPARATOR = "#%"


def blob_name_of(key: str, *, strict: bool = True) -> str:
    """Tell the name of a blob from the key of its record.

    Args:
        key: the key, such as "w#%0".
        strict: cut at the last "#%" if digits follow to the end; Caffe2 cuts at the first "#%".

    >>> blob_name_of("a#%b#%0"), blob_name_of("a#%b#%0", strict=False)
    ('a#%b', 'a')
    """
    if not strict:
        return key.partition(_SEPARATOR)[0]
    if key.endswith("#%0"):
        return key[:-3]
    name, _, index = key.rpartition(_SEPARATOR)
    return (
        name if index.isdecimal() and index.isascii() and len(name) < len(key) - len(index) else key
    )


class BlobState:
    """How much of a blob was read: of a tensor its elements, of others their pieces.

    Caffe2 counts `current_size` up to `total_size`; `seen_chunks_ids` are the pieces of a blob that
    is no tensor. `shape`, `dtype` and `device` are those of the last part.

    >>> state = BlobState(total_size=6, current_size=2, is_tensor=True)
    >>> state.complete, state.shape
    (False, None)
    """

    __slots__ = ("_last", "_seen", "current_size", "is_tensor", "parts", "total_size")

    def __init__(
        self,
        total_size: int = 0,
        current_size: int = 0,
        is_tensor: bool = False,
        part: Part | None = None,
    ) -> None:
        self._last = part
        self.total_size = total_size
        self.current_size = current_size
        self.is_tensor = is_tensor
        self.parts = (
            [] if part is None else [part]
        )  # in order of their elements, or as they came where Caffe2 reads them
        self._seen: set[int] | None = None

    @property
    def seen_chunks_ids(self) -> set[int]:
        """The pieces that were read of a blob that is no tensor."""
        if self._seen is None:
            self._seen = set()
        return self._seen

    @property
    def complete(self) -> bool:
        """True where nothing is missing."""
        return self.current_size == self.total_size

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of a tensor; None of other blobs."""
        return self._last.dims if self._last and self.is_tensor else None

    @property
    def dtype(self) -> DType | None:
        """The element type of a tensor; None of other blobs."""
        return self._last.dtype if self._last and self.is_tensor else None

    @property
    def device(self) -> Device:
        """Where the blob was when it was saved; the CPU where nothing was read."""
        return self._last.device if self._last else CPU

    @property
    def last(self) -> Part:
        """The part that was read last.

        Raises:
            ArgumentError: none was.
        """
        if self._last is None:
            raise ArgumentError("nothing was read of this blob")
        return self._last

    @property
    def where(self) -> str:
        """Where the last part was read from."""
        return self._last.source.where if self._last else ""

    def __repr__(self) -> str:
        return f"BlobState({self.current_size} of {self.total_size}, {self._last!r})"


def update_state(states: dict[str, BlobState], name: str, part: Part) -> bool:
    """Count a part as Caffe2 does, check by check; True when its blob is complete with it.

    Raises:
        CorruptError: it is one too many, or of another blob.
    """
    head = part.head
    state = states.get(name)
    if head.num_chunks is not None:
        return _count_piece(states, state, name, part)
    if not head.has_tensor:
        if state is not None:
            raise _refuse(name, part, "is there twice")
        states[name] = BlobState(0, 0, False, part)
        return True
    size = head.end - head.begin
    if state is None:
        states[name] = BlobState(head.count, size, True, part)
        return size == head.count
    if not state.is_tensor:
        raise _refuse(name, part, "is a tensor here, but was none before")
    if state.current_size >= state.total_size:
        raise _refuse(name, part, "has a part more than its elements need")
    if not head.has_segment:
        raise _refuse(name, part, "has a second part that does not say which elements it holds")
    state._last = part
    state.current_size += size
    if state.current_size > state.total_size:
        found = f"{state.current_size} elements where {state.total_size} were expected"
        raise _refuse(name, part, f"has {found}")
    return state.complete


def _count_piece(
    states: dict[str, BlobState], state: BlobState | None, name: str, part: Part
) -> bool:
    head = part.head
    if state is None:
        state = states[name] = BlobState(head.num_chunks or 0, 0, False, part)
    if head.chunk_id in state.seen_chunks_ids:
        raise _refuse(name, part, f"has the piece {head.chunk_id} twice")
    if not 0 <= head.chunk_id < state.total_size:
        raise _refuse(name, part, f"has a piece {head.chunk_id} of {state.total_size}")
    state._last = part
    state.seen_chunks_ids.add(head.chunk_id)
    state.current_size += 1
    if state.is_tensor:
        raise _refuse(name, part, "is no tensor here, but was one before")
    if state.current_size > state.total_size:
        raise _refuse(name, part, f"has more than {state.total_size} pieces")
    return state.complete


def _refuse(name: str, part: Part, problem: str) -> CorruptError:
    return CorruptError(f"the blob {name!r} {problem}", where=part.where)


class Assembly:
    """Blobs in the making: parts come in any order, and go out as blobs.

    Args:
        strict: refuse also what Caffe2 did not notice: parts that overlap or repeat one another,
            that are of another shape or type than the first, or of which one is missing while
            another was counted twice. Without, what no part holds is zero.
        thorough: count the values that are varints when a part is added, rather than when they are
            read. Caffe2 noticed a wrong number at once.

    >>> import numpy as np
    >>> from tensorkeep.source import MemorySource
    >>> from tensorkeep.tensor import Tensor
    >>> from tensorkeep.wire.caffe2.decode import parse_part
    >>> from tensorkeep.wire.caffe2.encode import SaveOptions, encode_blob
    >>> assembly = Assembly()
    >>> w = Blob(TENSOR, Tensor.of(np.arange(5.0)))
    >>> for key, chunks, _ in encode_blob("w", w, SaveOptions(chunk_size=2)):
    ...     assembly.add(blob_name_of(key), parse_part(key, MemorySource(b"".join(chunks))))
    False
    False
    True
    >>> assembly.result("w").value[3:], assembly.describe("w")
    (array([3., 4.]), '3 chunks')
    """

    def __init__(self, *, strict: bool = True, thorough: bool = False) -> None:
        self.strict = strict
        self.thorough = thorough
        self.states: dict[str, BlobState] = {}

    def add(self, name: str, part: Part) -> bool:
        """Take a part of the blob `name`; True when the blob is complete with it.

        Raises:
            CorruptError: Caffe2 would refuse it, or with `strict` it contradicts another part.
            UnsupportedError: no deserializer reads it.
        """
        head, state = part.head, self.states.get(name)
        if state is None and head.whole and not self.thorough:  # nearly all blobs of most files
            self.states[name] = BlobState(head.total, head.total, head.has_tensor, part)
            return True
        if head.problem is not None:
            raise head.problem[0](f"the blob {name!r} {head.problem[1]}", where=part.where)
        if self.thorough:
            count_values(part)
        if self.strict:
            if head.begin == head.end and head.count and head.has_tensor:
                raise _refuse(name, part, "has a part without elements")
            if state is not None:
                _compare(name, state.parts, part)
        complete = update_state(self.states, name, part)
        if state is not None:
            if self.strict:
                insort(state.parts, part, key=_begin_of)
            else:
                _lay_over(state.parts, part)
        return complete

    def __contains__(self, name: object) -> bool:
        return name in self.states

    def __iter__(self) -> Iterator[str]:
        return iter(self.states)

    def done(self, name: str) -> bool:
        """Tell whether nothing of a blob is missing; False for one that is not known."""
        state = self.states.get(name)
        return state is not None and state.current_size == state.total_size

    def result(self, name: str, partial: bool = False) -> Blob:
        """Give a blob; the values of tensors stay in the file until they are read.

        Args:
            name: which blob.
            partial: give an incomplete tensor as well; reading what is missing is an error then.

        Raises:
            MissingError: no part of it was added.
            CorruptError: it is not complete, or its bytes are not what its kind needs.
        """
        state = self.state(name)
        parts, last = state.parts, state.last
        head = last.head
        if head.offset >= 0 and head.dtype is not None:  # whole, and its values need no decoding
            start, nbytes = last.start + head.offset, head.dtype.nbytes(head.count)
            tensor = Tensor(head.dtype, head.shape, last.source, start, nbytes)
            return Blob(TENSOR, tensor, head.device)
        if not partial and state.current_size != state.total_size:
            raise CorruptError(self._missing(name), where=last.source.where, cure=_CURE)
        if self.strict and len(parts) > 1 and not state.is_tensor:
            raise UnsupportedError(
                f"the blob {name!r} is in {len(parts)} pieces of content",
                where=last.where,
                cure="Caffe2 kept the last piece only; strict=False gives that.",
            )
        zeros = not self.strict and state.complete
        return read_blob(parts, f"{last.source.where}: {name!r}", zeros=zeros)

    def state(self, name: str) -> BlobState:
        """Give how much of a blob was added.

        Raises:
            MissingError: nothing of it was.
        """
        state = self.states.get(name)
        if state is None:
            raise MissingError(f"has no blob called {name!r}")
        return state

    def validate(self) -> None:
        """Refuse blobs of which something is missing.

        Raises:
            CorruptError: one or several are incomplete; it names them and the elements.
        """
        missing = [name for name in self.states if not self.done(name)]
        if missing:
            first = self.states[missing[0]].last
            shown = "; ".join(self._missing(name) for name in missing[:5])
            more = f"; and {len(missing) - 5} more blobs" if len(missing) > 5 else ""
            raise CorruptError(shown + more, where=first.source.where, cure=_CURE)

    def describe(self, name: str) -> str:
        """Say in a few words how a blob is kept: its chunks, encoding and device.

        Raises:
            MissingError: no part of it was added.
        """
        parts = self.state(name).parts
        head = parts[0].head
        words = [] if head.kind == TENSOR else [head.kind]
        gaps = [] if self.strict and self.done(name) else self.gaps(name)
        if gaps:
            longest = max(part.end - part.begin for part in parts) or 1
            lost = sum(-(-(end - begin) // longest) for begin, end in gaps)
            words.append(f"{len(parts)} of {len(parts) + lost} chunks: {_ranges(gaps)} missing")
        elif not (state := self.states[name]).is_tensor and not state.complete:
            words.append(f"{state.current_size} of {state.total_size} pieces")
        elif len(parts) > 1:
            words.append(f"{len(parts)} chunks")
        if head.field == RAW_DATA and head.kind == TENSOR:
            words.append("stored as bfloat16")
        if head.device.type:
            words.append(str(head.device))
        return ", ".join(words)

    def gaps(self, name: str) -> list[tuple[int, int]]:
        """List from which to which element nothing of a tensor was added.

        Raises:
            MissingError: nothing of the blob was.
        """
        parts = self.state(name).parts
        if not parts[0].head.has_tensor:
            return []
        return Layout(parts, parts[-1].count, name, zeros=False).gaps

    def _missing(self, name: str) -> str:
        state, gaps = self.states[name], self.gaps(name)
        found = f"{state.current_size} of {state.total_size}"
        if state.is_tensor:
            where = f": {_ranges(gaps)} missing" if gaps else ""
            return f"the blob {name!r} has {found} elements{where}"
        return f"the blob {name!r} has {found} pieces"


_CURE = "The file is cut short or lost a record."


def _begin_of(part: Part) -> int:
    return part.head.begin


def _ranges(gaps: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{begin} to {end}" for begin, end in gaps[:4])
    return f"elements {shown}{' and others' if len(gaps) > 4 else ''}"


def _compare(name: str, parts: list[Part], part: Part) -> None:
    """Refuse a part that is of another tensor than those before, or holds what they do."""
    first, head = parts[0].head, part.head
    if head.kind != first.kind:
        raise _refuse(name, part, f"is {head.kind!r} here and {first.kind!r} before")
    if not head.has_tensor or not first.has_tensor:
        return
    if head.shape != first.shape or head.dtype is not first.dtype:
        raise _refuse(
            name,
            part,
            f"is {head.dtype} of shape {head.shape} here, and {first.dtype} of shape "
            f"{first.shape} in {parts[0].key!r}",
        )
    at = bisect_right(parts, head.begin, key=_begin_of)
    for other in parts[max(at - 1, 0) : at + 1]:
        begin, end = max(head.begin, other.begin), min(head.end, other.end)
        if begin < end:
            raise _refuse(name, part, f"has elements {begin} to {end} in {other.key!r} too")


def _lay_over(parts: list[Part], part: Part) -> None:
    """Add a part as Caffe2 does: a tensor of another type or a larger one starts afresh."""
    before, head = parts[-1].head, part.head
    if head.kind != before.kind or head.dtype is not before.dtype or head.count > before.count:
        parts.clear()
    parts.append(part)
