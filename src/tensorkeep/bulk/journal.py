"""A journal: JSON lines that say what became of each item, for a run that is begun again.

The first line names the task. Each further one is on the disk before the item counts as done, so
only the last can be torn, by a crash in the midst of writing it; it is cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import Any

from tensorkeep.bulk.attempts import Task, name_of
from tensorkeep.bulk.items import Item, path_of
from tensorkeep.bulk.outcomes import Outcome
from tensorkeep.errors import ArgumentError, CorruptError, StoreError
from tensorkeep.hidden import reason

VERSION = 1
_LIMIT = 1 << 30  # bytes of a journal


class Journal:
    """The journal of one task, new or continued.

    Raises:
        ArgumentError: the file is no journal, or one of another task.
        CorruptError: a line that is not the last is damaged.
        StoreError: another run writes it, or it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], task: Task) -> None:
        self.where = path_of(path)
        self._known: dict[str, dict[str, Any]] = {}
        head = {"journal": VERSION, **name_of(task)}
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self.where, flags, 0o666), "r+b", buffering=0)
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot be opened: {reason(error)}", where=self.where) from error
        try:
            self._own()
            self._read(head)
        except BaseException:
            self._file.close()
            raise

    def done(self, item: Item) -> dict[str, Any] | None:
        """Give the line of an item that was done, and has not changed since."""
        line = self._known.get(item.key)
        if line is None or line["status"] not in ("done", "skipped"):
            return None
        return line if item.mark and line.get("mark") == item.mark else None

    def note(self, outcome: Outcome) -> None:
        """Write what became of an item.

        Raises:
            StoreError: the disk is full or failed.
        """
        self._append(
            {
                "key": outcome.item.key,
                "mark": outcome.item.mark,
                "status": outcome.status,
                "problem": outcome.problem,
                "result": outcome.result,
                "error": outcome.error,
            }
        )

    def close(self) -> None:
        """Let another run have it."""
        self._file.close()

    def _own(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cure = "Wait until that has ended, or use another journal."
            raise StoreError("another run writes it", where=self.where, cure=cure) from None
        except OSError:  # a filesystem without locks
            return

    def _read(self, head: dict[str, Any]) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if size > _LIMIT:
            raise ArgumentError(f"is {size:,} bytes long, too long for a journal", where=self.where)
        text = self._file.read(size)
        whole, newline, torn = text.rpartition(b"\n")
        lines = whole.split(b"\n") if newline else []
        found = [_parsed(line) for line in lines]
        if found and found[-1] is None and len(found) > 1:  # its bytes never reached the disk
            found.pop()
            torn = b"\n".join((lines.pop(), torn))
            torn += b"" if torn.endswith(b"\n") else b"\n"
            whole = b"\n".join(lines)
        self._check_head(text, found, head)
        for number, line in enumerate(found[1:], 2):
            if line is None or not {"key", "status"} <= line.keys():
                cure = "Give another name, and all is done again."
                raise CorruptError(f"line {number} is damaged", where=self.where, cure=cure)
            self._known[str(line["key"])] = line
        if torn:
            self._file.truncate(len(whole) + 1 if found else 0)
        if not found:
            self._append(head)

    def _check_head(
        self, text: bytes, found: list[dict[str, Any] | None], head: dict[str, Any]
    ) -> None:
        began = json.dumps(head).encode()
        if not found and began.startswith(text):  # new, or torn in its first line
            return
        first = found[0] if found else None
        cure = "Give another name for the journal."
        if first is None or "journal" not in first:
            raise ArgumentError("is no journal", where=self.where, cure=cure)
        if first["journal"] != VERSION:
            raise ArgumentError("is a journal of another version", where=self.where, cure=cure)
        if first != head:
            told = f"is the journal of {first.get('task')} with {first.get('settings')}"
            raise ArgumentError(f"{told}, not of this run", where=self.where, cure=cure)

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        try:
            while data:
                data = data[self._file.write(data) :]
            with contextlib.suppress(OSError):  # a pipe, or a filesystem that cannot
                os.fsync(self._file.fileno())
        except OSError as error:
            problem = f"cannot be written: {error.strerror}"
            raise StoreError(problem, where=self.where) from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
