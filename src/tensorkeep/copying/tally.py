"""What became of each file."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Copy:
    """A file of a copy, and how it got there.

    Args:
        name: its path below the target.
        transferred: bytes that were read from the source and written.
        shared: bytes that the target had elsewhere, or that were copied by the store itself.
        skipped: bytes that were there already, from a copy before this one.
    """

    name: str
    transferred: int = 0
    shared: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Copied:
    """What `copy` did.

    Args:
        source: what was copied.
        target: where it is now.
        kind: "file" (with those that it names), "folder", "checkpoint" or "run".
        files: each file, in the order in which they were done.
        steps: the names of a run's checkpoints that are there now, oldest first.
        notes: what was left out, a sentence each.
    """

    source: str
    target: str
    kind: str
    files: list[Copy] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def transferred(self) -> int:
        """Bytes that were read from the source and written to the target."""
        return sum(file.transferred for file in self.files)

    @property
    def shared(self) -> int:
        """Bytes that the target had elsewhere, or that its store copied by itself."""
        return sum(file.shared for file in self.files)

    @property
    def skipped(self) -> int:
        """Bytes that were there already."""
        return sum(file.skipped for file in self.files)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return self.transferred + self.shared + self.skipped

    def add(self, name: str, **how: int) -> None:
        """Note a file."""
        with self._lock:
            self.files.append(Copy(name, **how))
