"""The reader that PyTorch's distributed checkpoint loads through."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tensorkeep.checksum import THREADS, mismatch
from tensorkeep.distributed.torch.contents import Checkpoint
from tensorkeep.dtypes import DType
from tensorkeep.errors import UnsupportedError
from tensorkeep.formats.safetensors.manifest import Piece
from tensorkeep.frameworks import torch as bridge
from tensorkeep.source import Source
from tensorkeep.stores import locate
from tensorkeep.tensor import Tensor

_BLOCK = 8 << 20  # is hashed while it is in cache

Box = tuple[slice, ...]


class Reading:
    """Read a checkpoint: of each tensor the pieces that this rank needs, each checked whole.

    Args:
        path: of the checkpoint: a path, an URL or a Location; `checkpoint_id` takes its place.
        verify: read pieces whole and check them against their digests; without, only the ranges
            that are needed are read.
        threads: how many read at the same time.
    """

    def __init__(
        self, path: Any = None, *, verify: bool = True, threads: int = max(4, THREADS)
    ) -> None:
        super().__init__()
        self.path = path
        self._verify = verify
        self._threads = threads
        self._checkpoint: Checkpoint | None = None
        self.error: Exception | None = None  # what kept the metadata from being read

    @property
    def checkpoint_id(self) -> Any:
        """The checkpoint's address."""
        return self.path

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Say whether there is something at an address."""
        try:
            locate(checkpoint_id)
        except Exception:
            return False
        return True

    def reset(self, checkpoint_id: Any = None) -> None:
        """Begin another load."""
        if checkpoint_id is not None:
            self.path = checkpoint_id
        self._checkpoint = None

    # No **kwargs: DCP would then ask again, for a rank's own metadata, which there never is.
    def read_metadata(self) -> Any:
        """Tell what the checkpoint holds, from its manifest and its nesting.

        Raises:
            MissingError: there is none.
            CorruptError: it is damaged.
        """
        try:
            self._checkpoint = Checkpoint(locate(self.path))
            return self._checkpoint.metadata()
        except Exception as error:
            self.error = error
            raise

    def set_up_storage_reader(self, metadata: Any, is_coordinator: bool) -> None:
        """Do nothing: `read_metadata` has opened the checkpoint."""

    def prepare_local_plan(self, plan: Any) -> Any:
        """Leave the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        """Leave the plans as they are."""
        return plans

    def read_data(self, plan: Any, planner: Any) -> Any:
        """Read what the plan says into the planner's tensors.

        Raises:
            CorruptError: a piece is not what was saved.
        """
        from torch.distributed.checkpoint.planner import LoadItemType
        from torch.futures import Future

        checkpoint = self._checkpoint
        if checkpoint is None:
            checkpoint = self._checkpoint = Checkpoint(locate(self.path))
        needed: dict[tuple[str, int], tuple[str, Piece, list[Any]]] = {}
        try:
            for item in plan.items:
                name = item.storage_index.fqn
                if item.type == LoadItemType.BYTE_IO:
                    planner.load_bytes(item, _saved(checkpoint.value(name, self._verify)))
                    continue
                piece = checkpoint.piece(name, tuple(item.storage_index.offset or ()))
                row = needed.setdefault((piece.file, piece.start), (name, piece, []))
                row[2].append(item)
            job = _Job(checkpoint, planner, self._verify)
            with ThreadPoolExecutor(self._threads) as pool:
                # The largest first, so that none is left to one thread at the end.
                rows = sorted(needed.values(), key=lambda row: row[1].start - row[1].stop)
                for _ in pool.map(lambda row: job.read(*row), rows):
                    pass
        finally:
            checkpoint.close()
        done: Any = Future()
        done.set_result(None)
        return done


def _saved(value: Any) -> io.BytesIO:
    """Give a value as the bytes that planners expect, made in memory for nobody else."""
    import torch

    data = io.BytesIO()
    torch.save(value, data)
    data.seek(0)
    return data


class _Job:
    """One load: the pieces come in threads, the planner is asked by one at a time."""

    def __init__(self, checkpoint: Checkpoint, planner: Any, verify: bool) -> None:
        self._checkpoint = checkpoint
        self._planner = planner
        self._verify = verify
        self._lock = threading.Lock()

    def read(self, name: str, piece: Piece, items: list[Any]) -> None:
        """Read what items need of a piece.

        Raises:
            CorruptError: it is not what was saved.
        """
        source = self._checkpoint.source(piece.file)
        kind = self._checkpoint.dtype(name)
        whole = Tensor(kind, piece.shape, source, piece.start, piece.stop - piece.start)
        with self._lock:
            targets = [self._planner.resolve_tensor(item).detach() for item in items]
        boxes = [
            tuple(slice(o, o + n) for o, n in zip(i.storage_offsets, i.lengths, strict=True))
            for i in items
        ]
        done = _direct(whole, kind, boxes, targets)
        if done is not None:
            self._check(name, piece, source, _fill(source, piece.start, done, self._verify))
        else:
            values = self._gather(name, piece, source, whole)
            for box, target in zip(boxes, targets, strict=True):
                _copy(values[box], target, name)
        with self._lock:
            for item, target in zip(items, targets, strict=True):
                self._planner.commit_tensor(item, target)

    def _check(self, name: str, piece: Piece, source: Source, found: str) -> None:
        if found and found != piece.digest:
            raise mismatch(name, piece.digest, found, source.where)

    def _gather(self, name: str, piece: Piece, source: Source, whole: Tensor) -> Any:
        """Give what can be indexed by boxes: the piece, checked, or the file itself."""
        if not self._verify:
            return whole
        if source.mapped:
            memory = source.read(piece.start, piece.stop)
            self._check(name, piece, source, _hash(memory))
        else:
            buffer = bytearray(piece.stop - piece.start)
            found = _fill(source, piece.start, memoryview(buffer), True)
            self._check(name, piece, source, found)
            memory = memoryview(buffer)
        return np.frombuffer(memory, whole.dtype.numpy).reshape(piece.shape)


def _direct(whole: Tensor, kind: DType, boxes: list[Box], targets: list[Any]) -> memoryview | None:
    """Give the memory that a piece can be read straight into: one tensor that is all of it."""
    if len(boxes) != 1 or not whole.nbytes:
        return None
    (target,) = targets
    if tuple(target.shape) != whole.shape or target.device.type != "cpu":
        return None
    if str(target.dtype) != f"torch.{kind.name}" or not target.is_contiguous():
        return None
    if target.is_conj() or target.is_neg():
        return None
    array = bridge.to_numpy(target, "the target")
    return array.reshape(-1).view(np.uint8).data


def _fill(source: Source, start: int, buffer: memoryview, verify: bool) -> str:
    """Read into a buffer; gives the digest of what came, or "" without `verify`."""
    if not verify:
        source.readinto(start, buffer)
        return ""
    if source.remote:
        source.readinto(start, buffer)
        return _hash(buffer)
    hasher = xxhash.xxh3_128()
    for at in range(0, buffer.nbytes, _BLOCK):
        block = buffer[at : at + _BLOCK]
        source.readinto(start + at, block)
        hasher.update(block)
    return hasher.hexdigest()


def _hash(memory: memoryview) -> str:
    hasher = xxhash.xxh3_128()
    for at in range(0, memory.nbytes, _BLOCK):
        hasher.update(memory[at : at + _BLOCK])
    return hasher.hexdigest()


def _copy(values: npt.NDArray[Any], target: Any, name: str) -> None:
    """Copy elements into a tensor of any device, type and strides."""
    if tuple(target.shape) != values.shape:
        problem = f"{values.shape} of it were read, the target's shape is {tuple(target.shape)}"
        raise UnsupportedError(problem, where=name)
    own = np.array(values, copy=True, order="C")  # writable, as PyTorch wants it
    target.copy_(bridge.from_numpy(own, None, name))
