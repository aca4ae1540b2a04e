"""Tensors in pieces for one reader who takes all of them in order: checked while they pass.

In C order of the whole, each piece passes in its own C order too, so that its digest can be taken
as it goes, however the pieces lie. No more than some rows of a tensor are in memory at a time.
"""

from __future__ import annotations

import xxhash

from tensorkeep.formats.safetensors.pieces import Piece, Sharded
from tensorkeep.formats.safetensors.sharded import PieceChecks, ShardedTensors, damaged_piece
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.wire.chunks import Box, Gathered

_BLOCK = 64 << 20  # bytes that are gathered at a time over a network, where each read costs


def streamed(state: State) -> State:
    """Give the same state for reading each tensor once and in order, which then checks it.

    A state without pieces is given back as it is.
    """
    checks = state.checks
    if not isinstance(checks, PieceChecks):
        return state
    tensors = {
        name: _streamed(name, checks.tensors) if name in checks else tensor
        for name, tensor in state.items()
    }
    return state.replace(tensors=tensors, checks={})


def _streamed(name: str, tensors: ShardedTensors) -> Tensor:
    told = tensors.files.manifest.sharded[name]
    return Tensor(told.dtype, told.shape, _Stream(name, told, tensors))


class _Stream(Source):
    """The bytes of a tensor, gathered some rows at a time."""

    __slots__ = ("_block", "_gathered", "_name", "_passing", "_start", "_tensors", "_told")

    def __init__(self, name: str, told: Sharded, tensors: ShardedTensors) -> None:
        where = f"{tensors.files.where}: {name:.60}"
        super().__init__(tensors[name].nbytes, where)
        self._name, self._told, self._tensors = name, told, tensors
        self._passing: list[_Passing] = []
        self._gathered: Gathered | None = None
        self._block = memoryview(b"")
        self._start = 0

    def _read(self, start: int, stop: int) -> memoryview:
        gathered = self._gathered
        if gathered is None or start == 0:
            gathered = self._begin()
        if gathered.remote:
            found = self._buffered(gathered, start, stop)
        else:
            found = gathered.read(start, stop)
        if stop == self.size:
            self._end()
        return found

    def _begin(self) -> Gathered:
        """Start anew: whoever reads twice is checked twice."""
        self._passing = [
            _Passing(self._name, piece, self._tensors.piece(self._told, piece), self.where)
            for piece in self._told.pieces
        ]
        self._block, self._start = memoryview(b""), 0
        boxes = [
            Box(p.piece.offsets, p.piece.shape, Tensor(self._told.dtype, p.piece.shape, p))
            for p in self._passing
        ]
        if not self._told.shape:
            boxes = [Box((0,), (1,), Tensor(self._told.dtype, (1,), p)) for p in self._passing]
        shape = self._told.shape or (1,)
        self._gathered = Gathered(self._told.dtype, shape, boxes, self.where)
        return self._gathered

    def _end(self) -> None:
        if not all(passing.done for passing in self._passing):  # it was not read in order
            self._tensors.check(self._name)
        self._passing, self._gathered, self._block = [], None, memoryview(b"")

    def _buffered(self, gathered: Gathered, start: int, stop: int) -> memoryview:
        end = self._start + self._block.nbytes
        if not self._start <= start <= stop <= end:
            self._block = memoryview(b"")
            self._block = gathered.read(start, max(stop, min(start + _BLOCK, self.size)))
            self._start = start
        return self._block[start - self._start : stop - self._start]


class _Passing(Source):
    """The bytes of a piece, of which the digest is taken while they pass in order."""

    __slots__ = ("_at", "_hasher", "_inner", "_name", "_where", "done", "piece")

    def __init__(self, name: str, piece: Piece, tensor: Tensor, where: str) -> None:
        super().__init__(tensor.nbytes, tensor.source.where)
        self.piece = piece
        self.done = False
        self._name, self._where = name, where
        self._inner = tensor
        self._hasher = xxhash.xxh3_128()
        self._at = 0

    @property
    def remote(self) -> bool:
        return self._inner.source.remote

    def _read(self, start: int, stop: int) -> memoryview:
        offset = self._inner.offset
        data = self._inner.source.read(offset + start, offset + stop)
        if start <= self._at < stop:
            self._hasher.update(data[self._at - start :])
            self._at = stop
            if stop == self.size:
                found = self._hasher.hexdigest()
                if found != self.piece.digest:
                    raise damaged_piece(self._name, self.piece, found, self._where)
                self.done = True
        return data
