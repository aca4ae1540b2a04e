"""A storage of ours for `torch_checkpointing`, Meta's engine that follows on DCP.

The engine decides what goes into which file and when; through this storage a file appears whole
or not at all, is on the disk when it is said to be, and may be an object of a bucket. The engine
writes below a temporary folder and renames that at the end: on a disk that is one step. A bucket
has no folders; there the objects are copied inside the store, one by one, and a reader may see
some of them before the others. Let it write in place there (`write_to_temp_dir=False`).
"""

from __future__ import annotations

import errno
import io
import os
import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorkeep.errors import ArgumentError, MissingError, StoreError
from tensorkeep.optional import require
from tensorkeep.source import MemorySource, Source
from tensorkeep.stores import locate
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.object import ObjectStore

_URL = re.compile(r"([a-z][a-z0-9+]+):/+(?=[^/])")  # pathlib makes one of two slashes
_BUFFER = 4 << 20
_QUEUED = 4


class StoringConfig:
    """Say how `torch_checkpointing` stores files: give it as `storage_config`.

    Args:
        durable: have each file on the disk, safe from a power cut, when it is closed.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self.durable = durable

    def create_storage(self) -> Any:
        """Make the storage."""
        from tensorkeep.distributed import torch_checkpointing as ours

        return ours.Storage(durable=self.durable)


class Storing:
    """Files and objects, as `torch_checkpointing` asks for them."""

    def __init__(self, *, durable: bool = True) -> None:
        self._durable = durable

    def stream_read(self, path: Path, read_args: Any = None) -> io.RawIOBase:
        """Open a file to read; each read asks for its range alone.

        Raises:
            MissingError: there is none.
        """
        store, key = _place(path)
        source = store.get(key)
        if read_args is not None and not read_args.pre_read_full_file:
            return _Reading(source)
        data = bytearray(source.size)
        source.readinto(0, memoryview(data))
        source.close()
        return _Reading(MemorySource(data, source.where))

    def read(self, path: Path, read_args: Any = None) -> bytes:
        """Read a whole file."""
        with self.stream_read(path, read_args) as stream:
            return stream.read() or b""

    def stream_write(self, path: Path) -> io.IOBase:
        """Open a file to write, which appears once it is closed; an error drops it."""
        return _Writing(path, self._durable)

    def get_write_stream(self, path: Path, data: object) -> io.IOBase:
        """Open a file to write."""
        return self.stream_write(path)

    def write(self, path: Path, data: Any) -> None:
        """Write a file whole, or leave what was there."""
        store, key = _place(path)
        writer = store.writer()
        try:
            writer.put(key, [memoryview(data).cast("B")], durable=self._durable)
            writer.commit()
        except BaseException:
            writer.rollback()
            raise

    def delete(self, path: Path) -> None:
        """Remove a file."""
        store, key = _place(path)
        if isinstance(store, ObjectStore):
            store.remove([key])
        else:
            os.unlink(path)

    def mkdir(self, path: Path, recursive: bool = True) -> None:
        """Make a folder; buckets have none."""
        if not _is_url(path):
            os.makedirs(path, exist_ok=True) if recursive else os.mkdir(path)

    def rmdir(self, path: Path) -> None:
        """Remove a folder and all in it."""
        if not _is_url(path):
            import shutil

            shutil.rmtree(path)
            return
        store, key = _place(path)
        store.remove([entry.key for entry in store.entries(f"{key}/")])

    def rename(
        self,
        src_path: Path,
        dst_path: Path,
        is_directory: bool = False,
        background_cleanup: bool = False,
    ) -> None:
        """Give a file or folder another name; what is there is replaced only by file for file.

        Raises:
            OSError: the other name is taken.
        """
        if not _is_url(src_path):
            _rename(Path(src_path), Path(dst_path))
            return
        store, source = _place(src_path)
        target = _place(dst_path)[1]
        rows = [entry.key for entry in store.entries(f"{source}/")]
        taken = next(iter(store.entries(f"{target}/")), None)
        if taken is not None or (rows and store.look(target) is not None):
            raise FileExistsError(errno.EEXIST, "there is something already", str(dst_path))
        moves = {key: target + key[len(source) :] for key in rows} or {source: target}
        for key, to in moves.items():
            if not store.copy(store, key, to):
                raise StoreError(
                    "the store cannot copy inside itself, which renaming needs",
                    where=str(src_path),
                    cure="Write in place: write_to_temp_dir=False.",
                )
        store.remove(moves)

    def ls(self, path: Path) -> list[str]:
        """List what is in a folder, by name."""
        if not _is_url(path):
            return os.listdir(path)
        store, key = _place(path)
        start = f"{key}/" if key else ""
        return sorted({entry.key[len(start) :].partition("/")[0] for entry in store.entries(start)})

    def exists(self, path: Path) -> bool:
        """Say whether there is a file or folder."""
        if not _is_url(path):
            return os.path.exists(path)
        store, key = _place(path)
        return store.look(key) is not None or self.isdir(path)

    def getsize(self, path: Path) -> int:
        """Give the bytes of a file.

        Raises:
            MissingError: there is none.
        """
        if not _is_url(path):
            return os.path.getsize(path)
        store, key = _place(path)
        entry = store.look(key)
        if entry is None:
            raise MissingError("there is no such object", where=self.remap_path(path))
        return int(entry.size)

    def isdir(self, path: Path) -> bool:
        """Say whether there is a folder, or are objects below the name."""
        if not _is_url(path):
            return os.path.isdir(path)
        store, key = _place(path)
        return next(iter(store.entries(f"{key}/" if key else "")), None) is not None

    def remap_path(self, path: Path) -> str:
        """Give the path or the URL that is meant."""
        return _URL.sub(r"\1://", str(path), count=1)


def _is_url(path: Any) -> bool:
    return _URL.match(str(path)) is not None


def _place(path: Any) -> tuple[Any, str]:
    """Give the store and the key that a path means."""
    text = str(path)
    match = _URL.match(text)
    if match is None:
        folder, name = os.path.split(text)
        return FileStore(folder or "."), name
    bucket, _, key = text[match.end() :].partition("/")
    found = locate(f"{match[1]}://{bucket}/")
    if not isinstance(found.store, ObjectStore):
        raise ArgumentError("is no object store", where=text)
    return found.store, key


def _rename(source: Path, target: Path) -> None:
    if not source.is_dir() and target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(target))
    os.rename(source, target)  # refuses a folder that has something in it, and a file for a folder
    for folder in {source.parent, target.parent}:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


class _Reading(io.RawIOBase):
    """A source with a position."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, (0, self._at, self._source.size)[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(view.nbytes, self._source.size - self._at))
        self._source.readinto(self._at, view[:count])
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


class _Writing(io.RawIOBase):
    """What is written goes, by a thread, into a store's put; closing commits it."""

    def __init__(self, path: Path, durable: bool) -> None:
        store, key = _place(path)
        self._writer = store.writer()
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._held: list[bytes] = []
        self._size = 0
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(key, durable), daemon=True)
        self._thread.start()

    def _run(self, key: str, durable: bool) -> None:
        try:
            self._writer.put(key, self._chunks(), durable=durable)
        except BaseException as error:
            self._error = error
            while not self._ended and self._queue.get() is not None:  # lets the writer go on
                pass

    def _chunks(self) -> Iterator[bytes]:
        while (chunk := self._queue.get()) is not None:
            yield chunk
        self._ended = True
        if self._error is not None:
            raise self._error

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._error is not None:
            raise self._error
        view = memoryview(data).cast("B")
        self._held.append(bytes(view))
        self._size += view.nbytes
        if self._size >= _BUFFER:
            self._send()
        return view.nbytes

    def _send(self) -> None:
        if self._held:
            self._queue.put(b"".join(self._held))
        self._held, self._size = [], 0

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            self.abort(error)
        self.close()

    def abort(self, error: BaseException) -> None:
        """Drop what was written."""
        self._error = self._error or error
        self._held = []

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._error is None:
            self._send()
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            self._writer.rollback()
            raise self._error
        self._writer.commit()


if TYPE_CHECKING:
    Storage = Storing
    StorageConfig = StoringConfig


def __getattr__(name: str) -> Any:
    """Make the classes that the engine knows as its own, once they are asked for."""
    bases = {"Storage": Storing, "StorageConfig": StoringConfig}
    if name not in bases:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    cure = "Run pip install torch-checkpointing."
    theirs: Any = require(
        "torch_checkpointing.storage.base_storage", "it is torch_checkpointing's storage", cure
    )
    ours = bases[name]
    made = type(
        name, (ours, getattr(theirs, name)), {"__module__": __name__, "__doc__": ours.__doc__}
    )
    globals()[name] = made
    return made
