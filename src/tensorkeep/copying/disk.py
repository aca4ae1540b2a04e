"""A target on a disk: what is copied is filled under a hidden name, and gets its own at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tensorkeep.copying.comparing import is_same
from tensorkeep.copying.content import Content
from tensorkeep.copying.filling import Filled, drop_shared, fill
from tensorkeep.copying.neighbours import shareable
from tensorkeep.copying.parts import held
from tensorkeep.copying.sources import File, Unit, path_of
from tensorkeep.copying.tally import Copied
from tensorkeep.copying.work import Work
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import MANIFEST
from tensorkeep.hidden import appear, exchange, failed_write, remove, share, sync_one, take_place
from tensorkeep.replacing import check_replaceable, write_chunks
from tensorkeep.store import Location
from tensorkeep.stores.file import FileStore

_FULL = (errno.ENOSPC, errno.EDQUOT)
_THERE = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class Disk:
    """A folder that units are copied to.

    Args:
        path: the folder; that of a run, or around a single unit.
        where: names it in messages.
        overwrite: replace what has other content.
        verify: hash what passes, and what is there already.
        make: make the folder, if there is none, for files as well.
    """

    def __init__(
        self, path: str, where: str, *, overwrite: bool, verify: bool, make: bool = False
    ) -> None:
        self.path = path
        self.where = where
        self._overwrite = overwrite
        self._verify = verify
        self._make = make
        self._sound: dict[Content, Location] = {}  # files that were written by this copy

    def missing(self, unit: Unit) -> list[File]:
        """List the files of a unit that are not there yet; a folder's are there all or none.

        Raises:
            ArgumentError: something else is there, which is not to be replaced.
        """
        if not unit.folder:
            left = [f for f in unit.files if not self._is_there(os.path.join(self.path, f.name), f)]
            for file in left:
                self._refuse(os.path.join(self.path, file.name))
            return left
        final = os.path.join(self.path, unit.name)
        if not os.path.lexists(final) or (os.path.isdir(final) and not os.listdir(final)):
            return unit.files
        if self._holds(final, unit):
            return []
        self._refuse(final)
        if not unit.manifest:
            _refuse_others(final, {file.name for file in unit.files})
        return unit.files

    def _refuse(self, path: str) -> None:
        if os.path.lexists(path) and not self._overwrite:
            raise ArgumentError(
                "is there already, with other content",
                where=path,
                cure="Copy to another name, or say overwrite=True.",
            )

    def _holds(self, final: str, unit: Unit) -> bool:
        """Whether a folder is the unit: a checkpoint's manifest vouches for its files."""
        if not unit.manifest:
            return all(self._is_there(os.path.join(final, f.name), f) for f in unit.files)
        try:
            there = unit.as_in(Path(final, MANIFEST).read_bytes())
            if there is None:
                return False
            sizes = [os.path.getsize(os.path.join(final, file.name)) for file in there.files]
        except OSError:
            return False
        return sizes == [file.size for file in unit.files]

    def _is_there(self, path: str, file: File) -> bool:
        if not os.path.isfile(path):
            return False
        folder, name = os.path.split(path)
        return is_same(Location(FileStore(folder, named=name), name), file, verify=self._verify)

    def put(self, unit: Unit, missing: list[File], work: Work, copied: Copied) -> None:
        """Copy the files of a unit that are not there.

        Raises:
            ArgumentError: something else has appeared there meanwhile.
            CorruptError: the source is damaged.
            StoreError: the disk is full or failed, or the source cannot be read.
        """
        target = os.path.join(self.path, unit.name if unit.folder else unit.main)
        try:
            if unit.folder:
                self._put_folder(unit, target, work, copied)
            else:
                self._put_files(unit, missing, work, copied)
        except OSError as error:
            raise failed_write(error, target, unit.size) from error

    def _put_folder(self, unit: Unit, final: str, work: Work, copied: Copied) -> None:
        _make_folders(os.path.dirname(final))
        with held(final, unit.identity, folder=True) as part, _removed_if_useless(part):
            run, step = os.path.split(final)
            shared: dict[Content, Location] = {}
            if unit.manifest:
                shared = shareable(step, unit.parent, os.listdir(run), partial(_folder, run))
            folders = {os.path.dirname(os.path.join(part, file.name)) for file in unit.files}
            for folder in folders:
                os.makedirs(folder, exist_ok=True)

            def copy_one(file: File) -> None:
                path = os.path.join(part, file.name)
                filled = self._share(path, file, shared, work)
                if filled is None:
                    filled = fill(path, file, work, verify=self._verify)
                if file.known is not None:
                    self._sound[file.known] = Location(FileStore(final), file.name)
                copied.add(posixpath.join(unit.name, file.name), **asdict(filled))

            work.run([partial(copy_one, file) for file in unit.files])
            if unit.manifest:
                _write(os.path.join(part, MANIFEST), unit.manifest)
            for folder in sorted({*folders, part}, reverse=True):
                sync_one(folder)
            self._appear(part, final, unit)
            sync_one(os.path.dirname(final))

    def _appear(self, part: str, final: str, unit: Unit) -> None:
        """Give a whole folder its name."""
        if self._overwrite and os.path.lexists(final) and not self._holds(final, unit):
            old = exchange(part, final)
            sync_one(os.path.dirname(final))  # the old one goes once its name is gone for good
            remove(old)
            return
        try:
            appear(part, final)
        except OSError as error:
            if error.errno not in _THERE:
                raise
            if not self._holds(final, unit):  # another copy was faster
                self._refuse(final)
                raise
            remove(part)

    def _put_files(self, unit: Unit, files: list[File], work: Work, copied: Copied) -> None:
        """Fill files beside their targets; that which names the others gets its name last."""
        with contextlib.ExitStack() as stack:
            rows: list[tuple[str, str, File]] = []
            modes: list[tuple[str, int]] = []
            for file in files:
                final = os.path.realpath(os.path.join(self.path, file.name))
                if self._make or os.path.dirname(file.name):
                    _make_folders(os.path.dirname(final))
                mode = check_replaceable(Path(final))
                part = stack.enter_context(held(final, unit.identity, folder=False))
                stack.enter_context(_removed_if_useless(part))
                if mode is not None:
                    os.chmod(part, mode | 0o600)  # one that may only be read is written first
                    modes.append((part, mode))
                rows.append((part, final, file))

            def copy_one(part: str, file: File) -> None:
                filled = fill(part, file, work, verify=self._verify)
                copied.add(file.name, **asdict(filled))

            work.run([partial(copy_one, part, file) for part, _, file in rows])
            for part, mode in modes:
                os.chmod(part, mode)
            for part, final, file in rows:
                if self._overwrite:
                    take_place(part, final)
                    continue
                try:
                    appear(part, final)
                except FileExistsError:
                    if not self._is_there(final, file):
                        self._refuse(final)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
            for folder in {os.path.dirname(final) for _, final, _ in rows}:
                sync_one(folder)

    def _share(
        self, path: str, file: File, shared: dict[Content, Location], work: Work
    ) -> Filled | None:
        """Have a file in common with another checkpoint here; None where there is none."""
        drop_shared(path)
        if file.known is None or os.path.lexists(path):
            return None
        sound = self._sound.get(file.known)
        other = sound or shared.get(file.known)
        if other is None:
            return None
        try:
            if sound is None and not is_same(other, file, verify=self._verify):
                return None
            if os.path.getsize(path_of(other)) != file.size or not share(path_of(other), path):
                return None
        except (OSError, TensorKeepError):
            return None
        work.moved(file.size)
        return Filled(shared=file.size)


def _folder(run: str, step: str) -> Location:
    return Location(FileStore(os.path.join(run, step)))


def _refuse_others(folder: str, names: set[str]) -> None:
    """Refuse to replace a folder with files in it that the new one has not: they would be gone.

    Raises:
        ArgumentError: there is such a file.
    """
    for around, _, found in os.walk(folder):
        for name in found:
            path = os.path.join(around, name)
            if os.path.relpath(path, folder).replace(os.sep, "/") not in names:
                raise ArgumentError(
                    f"holds what the source has not, such as {name}, and would be replaced whole",
                    where=folder,
                    cure="Remove it first, or copy to another name.",
                )


@contextlib.contextmanager
def _removed_if_useless(part: str) -> Iterator[None]:
    """Leave a part to the next copy, unless its source is no good or it fills the disk."""
    try:
        yield
    except (CorruptError, MissingError, ArgumentError):
        remove(part)
        raise
    except OSError as error:
        if error.errno in _FULL:
            remove(part)
        raise


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        write_chunks(fd, [data], 0, True, None)
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_folders(path: str) -> None:
    """Make a folder and those around it, so that a loss of power does not undo that."""
    missing: list[str] = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    if missing:
        os.makedirs(missing[0], exist_ok=True)
    for made in missing:
        sync_one(os.path.dirname(made))
