"""A minidb file as a store of records, byte for byte as Caffe2 writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

from tensorkeep.database.recordfile import Record, RecordFile
from tensorkeep.errors import TensorKeepError
from tensorkeep.source import FileSource, Source
from tensorkeep.store import HEAD
from tensorkeep.wire.minidb import looks_like_minidb, read_records, record_header


class MinidbStore(RecordFile):
    """Records in one file, in the order in which they were put.

    A key that is put again keeps its place; one that is deleted and put again goes to the end. An
    empty key or value is refused, since Caffe2 cannot read it back.

    Args:
        path: the file.
        mode: "new" replaces the file at the first commit; until then nothing of it is shown.
        strict: False takes up to three stray bytes at the end for nothing, as Caffe2 does.
        repeats: True keeps every put as a record of its own, as Caffe2 does, also where the key
            is there already; `get` gives the last.

    Raises:
        CorruptError: at the first use, for a file that is cut short or damaged; `records` gives
            what is before that.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.minidb")
    >>> with MinidbStore(path, "new") as store:
    ...     store.put("w", [b"12", b"34"])
    ...     store.commit()
    >>> [(key, bytes(source.read(0, source.size))) for key, source in MinidbStore(path).records()]
    [('w', b'1234')]
    """

    kind: ClassVar[str] = "minidb"
    suffixes: ClassVar[tuple[str, ...]] = (".minidb",)
    option_names: ClassVar[tuple[str, ...]] = ("strict", "repeats")

    @classmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        try:
            source = FileSource(path, mapping=False)
        except TensorKeepError:
            return False
        try:
            head = bytes(source.read(0, min(HEAD, source.size)))
        except TensorKeepError:
            return False
        finally:
            source.close()
        if not source.size:
            return os.fsdecode(path).endswith(cls.suffixes)
        return looks_like_minidb(head, source.size)

    def _scan(self, source: Source) -> Iterator[Record]:
        return read_records(source, strict=bool(self.options.get("strict", True)))

    @staticmethod
    def _head(key: str, size: int) -> bytes:
        return record_header(key, size)
