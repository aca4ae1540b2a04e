"""A disk that fails at any system call, and a disk that loses power after any of them.

    from tensorkeep.testing import disk

    def test_my_writer_survives_errors(tmp_path):
        for k in itertools.count():
            with disk.failing(tmp_path, at=k) as faults, contextlib.suppress(OSError):
                write(tmp_path / "state", NEW)
            assert read(tmp_path / "state") in (OLD, NEW)
            if not faults.hits:
                break

    def test_my_writer_survives_power_cuts(tmp_path):
        with disk.recording(tmp_path) as log:
            write(tmp_path / "state", NEW)
            log.mark("saved")
        for image, marks in log.crash_images():
            found = read(image.path / "state")
            assert found == NEW or (found == OLD and "saved" not in marks), image

Both take the calls where code of Python's makes them: at the functions of `os`, at `open` (whose
files then write through `os`), at `fcntl.ioctl` for clones, and at the C library that
`tensorkeep.syscalls` uses. What other compiled code and other processes write is not seen; a
recording says so at its end, since then the folder is not what the calls have made of it.

What a power cut may leave, as `crash_images` has it:

- An fsync that has returned keeps its promise: for a file all bytes and sizes, for a folder all its
  names. It keeps nothing else: a file that was synced may have no name yet.
- Each write to a file after its last fsync is there or not, whatever became of others. One that is
  not may have made the file longer, with zeros; a long one may be torn in two at the end of a
  sector (512 bytes). Bytes of other writes are never harmed. Sizes that were set and room that was
  reserved are there or not; what was not written reads as zeros.
- Calls that change names (create, mkdir, rename, swap, link, symlink, unlink, rmdir) are there
  wholly or not at all, and are safe once each folder that they change was synced.
  - `model="posix"`: of those that are not safe any may be there, as far as the tree stays sound:
    what is moved or removed has got to its place before; what is moved to another folder finds that
    there; no folder is lost, has two names or ends up inside itself; one that is removed is empty.
    What a safe one needs for that is safe, too.
  - `model="ordered"`: as with a journal, they are there up to one of them, and not after it. The
    sync of a folder makes all calls safe that were made before its own last change.
- What was there when the recording began is safe. The names of one file share its bytes.
- Permissions, times and attributes are not looked at. O_SYNC, `os.sync`, `sync_file_range` and
  changes through memory maps promise nothing here.
"""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorkeep.testing.disk.calls import Calls
from tensorkeep.testing.disk.log import Event, Log, Mark, Model, Part, Tree

__all__ = ["Faults", "Image", "Recording", "failing", "recording"]


class Faults(Calls):
    """A folder on a disk where some calls fail; see `failing`.

    Attributes:
        calls: how many calls there were that could have failed.
        hits: the names of those that did.
    """

    reads = False

    def __init__(
        self, root: str | os.PathLike[str], at: int, code: int, short: bool, forever: bool
    ) -> None:
        super().__init__(root)
        self.calls = 0
        self.hits: list[str] = []
        self._at = range(at, 1 << 62) if forever else (at,)
        self._code = code
        self._short = short

    def meet(self, call: str, size: int = 0) -> int:
        if self._short and size < 2:
            return size
        self.calls += 1
        if self.calls - 1 not in self._at:
            return size
        self.hits.append(call)
        if self._short:
            return size // 2
        raise OSError(self._code, os.strerror(self._code))


def failing(
    root: str | os.PathLike[str],
    *,
    at: int = 0,
    code: int = errno.ENOSPC,
    short: bool = False,
    forever: bool = False,
) -> Faults:
    """Have one of the calls fail that change something below a folder, while this is entered.

    Args:
        root: the folder.
        at: how many calls go well before.
        code: the errno of the failure.
        short: rather than fail, a write or copy takes half of its bytes; only those count.
        forever: all later ones fail, too, as on a disk that is gone.

    >>> root = tempfile.mkdtemp()
    >>> with failing(root, at=1) as faults:
    ...     Path(root, "a").touch()
    ...     Path(root, "b").touch()
    Traceback (most recent call last):
    ...
    OSError: [Errno 28] No space left on device
    >>> faults.calls, faults.hits, os.listdir(root)
    (2, ['open'], ['a'])
    """
    return Faults(root, at, code, short, forever)


@dataclass(frozen=True)
class Image:
    """What a power cut left.

    Args:
        path: the folder that stands for the recorded one; it is removed when the next one is made.
        point: how many of the calls and marks were made before.
        lost: what of them is not there, or not wholly.
    """

    path: Path
    point: int
    lost: tuple[str, ...]

    def __str__(self) -> str:
        lost = f" without: {'; '.join(self.lost)}" if self.lost else ""
        return f"a power cut after {self.point} calls{lost}"


class Recording(Calls):
    """What was done below a folder; see `recording`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self._log = Log(self.root)

    def note(self, event: Event) -> None:
        self._log.events.append(event)

    def find(self) -> None:
        super().find()
        self._log.start = len(self._log.events)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if error[0] is None:
            self.check()

    @property
    def calls(self) -> list[str]:
        """What was done, in words, marks included."""
        return [str(event) for event in self._log.events[self._log.start :]]

    def mark(self, text: str) -> None:
        """Put a text between the calls, for those who look at an image to know what was done."""
        with self.lock:
            self.note(Mark(text))

    def check(self) -> None:
        """Check that the folder is what the recorded calls have made of it.

        Raises:
            AssertionError: something else has written to it.
        """
        made, found = _shown(self._log.tree(len(self._log.events), {})), _found(self.folder)
        wrong = [path for path in made.keys() | found.keys() if made.get(path) != found.get(path)]
        if wrong or self.strangers:
            names = ", ".join(sorted({*wrong, *self.strangers})[:5])
            raise AssertionError(
                f"{self.folder}: something wrote behind the recorder's back: see {names}"
            )

    def crash_images(
        self,
        *,
        model: Model = "posix",
        points: int | Iterable[int] | None = None,
        per_point: int = 8,
        seed: int = 0,
    ) -> Iterator[tuple[Image, tuple[str, ...]]]:
        """Give what power cuts may leave, each in a new folder, with the marks made before.

        At each point these are all cases where they are few; otherwise that everything is there,
        that nothing is that was not synced, that only names are, and others by chance. What an
        earlier point with the same marks could leave, too, is not given again.

        Args:
            model: what may be lost, see the module.
            points: how many points to try, by chance, the last one among them; or the points, each
                a number of calls and marks before the cut; None for all.
            per_point: how many cases there are at each point, at most.
            seed: chooses among points and cases.

        >>> root = Path(tempfile.mkdtemp())
        >>> with recording(root) as log:
        ...     _ = (root / "a").write_bytes(b"new")
        ...     log.mark("saved")
        >>> for image, marks in log.crash_images(points=[3]):
        ...     print(marks, [file.read_bytes().hex() for file in image.path.iterdir()])
        ('saved',) ['6e6577']
        ('saved',) ['']
        ('saved',) ['000000']
        ('saved',) []
        """
        log = self._log
        chosen = list(range(log.start, len(log.events) + 1))
        if isinstance(points, int):
            *others, last = chosen
            some = random.Random(seed).sample(others, min(points - 1, len(others)))
            chosen = [*sorted(some), last]
        elif points is not None:
            chosen = [chosen[point] for point in points]
        seen: set[object] = set()
        for point in chosen:
            marks = log.marks(point)
            draw = random.Random(f"{seed} {point}")
            for losses in log.losses(point, model, per_point, draw):
                tree = log.tree(point, losses)
                shown = frozenset(
                    (path, id(tree[path][0]), what) for path, what in _shown(tree).items()
                )
                key = marks, hash(shown)
                if key in seen:
                    continue
                seen.add(key)
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    _build(tree, folder)
                    lost = tuple(_told(log.events[i], losses[i]) for i in sorted(losses))
                    yield Image(Path(folder), point - log.start, lost), marks


def recording(root: str | os.PathLike[str]) -> Recording:
    """Record what is done below a folder, while this is entered.

    Args:
        root: the folder; what is in it at the beginning is safe on the disk.

    Raises:
        AssertionError: at the end, something has written there that was not seen.

    >>> root = Path(tempfile.mkdtemp())
    >>> with recording(root) as log:
    ...     _ = (root / "a").write_bytes(b"new")
    ...     log.mark("saved")
    >>> log.calls
    ['create a', 'write 3 bytes at 0 of a', "mark 'saved'"]
    """
    return Recording(root)


def _shown(tree: Tree) -> dict[str, object]:
    """Give what each path is: bytes of a file, target of a link, None for a folder."""
    shown: dict[str, object] = {}
    for path, (inode, data) in tree.items():
        shown[path] = data if inode.kind == "file" else inode.target or None
    return shown


def _found(folder: str) -> dict[str, object]:
    """Give what each path below a real folder is, as `_shown` does."""
    found: dict[str, object] = {}
    for entry in os.scandir(folder):
        if entry.is_symlink():
            found[entry.name] = os.readlink(entry.path)
        elif entry.is_dir():
            found[entry.name] = None
            found.update({f"{entry.name}/{n}": what for n, what in _found(entry.path).items()})
        else:
            found[entry.name] = Path(entry.path).read_bytes() if entry.is_file() else b""
    return found


def _build(tree: Tree, folder: str) -> None:
    """Make real what a disk holds."""
    made: dict[object, str] = {}
    for path, (inode, data) in sorted(tree.items()):
        name = os.path.join(folder, path)
        if inode.kind == "folder":
            os.mkdir(name)
        elif inode.kind == "link":
            os.symlink(inode.target, name)
        elif inode in made:
            os.link(made[inode], name)
        else:
            Path(name).write_bytes(data)
            made[inode] = name


def _told(event: Event, part: Part) -> str:
    """Say of an event that it was lost, or what of it was not."""
    start, stop, grew = part
    there = [f"{start} to {stop}"] * (start < stop) + ["the size"] * grew
    return f"{event} (but {' and '.join(there)})" if there else str(event)
