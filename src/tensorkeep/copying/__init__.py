"""Copy files of tensors, checkpoints and runs between disks and object stores, byte for byte.

What is copied appears once it is whole, every byte is hashed as it passes, a copy that was cut
short is gone on with, and what the target has already does not go over the network again.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace

from tensorkeep.api import ProgressReport, check_progress
from tensorkeep.copying.disk import Disk
from tensorkeep.copying.objects import Objects
from tensorkeep.copying.sources import INDEX, Found, Unit, find, path_of, place
from tensorkeep.copying.tally import Copied, Copy
from tensorkeep.copying.work import Work
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, StoreError
from tensorkeep.stores import Target
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.object import ObjectStore

JOBS = 4


def copy(
    source: Target,
    target: Target,
    *,
    overwrite: bool = False,
    verify: bool = True,
    jobs: int = JOBS,
    dry_run: bool = False,
    progress: ProgressReport | None = None,
) -> Copied:
    """Copy a file with those that it names, a checkpoint, a run of them, or a folder.

    Nothing of it is seen at the target until it is whole: a file, a folder and each checkpoint of a
    run appear at once. A copy that was cut short goes on where it ended when it is called again,
    and what is there already is left as it is. A target that ends in a slash gets the source below
    it, under its own name, as does a folder on a disk that is given a file or a single checkpoint.

    Args:
        source: a path or URL; of a run all checkpoints that were finished.
        target: a path or URL.
        overwrite: replace what is there and has other content.
        verify: compare every byte that passes, or was there from before, with the digests of the
            manifest or file; where there are none, with what the store says.
        jobs: how many files at a time.
        dry_run: write nothing, and say what would be done.
        progress: called with the bytes done and the total.

    Raises:
        ArgumentError: the target has other content, or is the source.
        CorruptError: the source is damaged; the message names the tensor.
        MissingError: there is no such source, or it vanished.
        StoreError: a disk or store failed; what was copied stays for the next call.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> folder = tempfile.mkdtemp()
    >>> tk.save({"w": np.ones(3)}, f"{folder}/a.safetensors")
    >>> copied = copy(f"{folder}/a.safetensors", f"{folder}/b.safetensors")
    >>> copied.size == os.path.getsize(f"{folder}/b.safetensors")
    True
    >>> copy(f"{folder}/a.safetensors", f"{folder}/b.safetensors").transferred
    0
    """
    check_progress(progress)
    if type(jobs) is not int or not 1 <= jobs <= 64:
        raise ArgumentError(f"jobs cannot be {jobs!r}", cure="Give a number from 1 to 64.")
    found = find(source)
    place_, renamed = _aim(found, target, overwrite=overwrite, verify=verify)
    _refuse_itself(found, place_, renamed)
    where = posixpath.join(place_.where, "" if found.kind == "run" else renamed).rstrip("/")
    copied = Copied(found.location.where, where, found.kind)
    total = sum(u.size for u in found.units() if isinstance(u, Unit)) if progress else 0
    work = Work(jobs, total, progress)
    try:
        for unit in found.units():
            if isinstance(unit, str):
                copied.notes.append(
                    f"{unit} was removed meanwhile, or its saving never finished: left out"
                )
                continue
            _copy_unit(_renamed(unit, renamed, found), place_, work, copied, dry_run=dry_run)
    finally:
        work.close()
    return copied


def _copy_unit(
    unit: Unit, place_: Disk | Objects, work: Work, copied: Copied, *, dry_run: bool
) -> None:
    missing = place_.missing(unit)
    names = {file.name for file in missing}
    for file in unit.files:
        name = posixpath.join(unit.name, file.name)
        if file.name not in names:
            work.moved(file.size)
            copied.add(name, skipped=file.size)
        elif dry_run:
            copied.add(name, transferred=file.size)
    if missing and not dry_run:
        try:
            place_.put(unit, missing, work, copied)
        except (MissingError, CorruptError, StoreError):
            if copied.kind != "run" or not unit.vanished():
                raise
            copied.notes.append(f"{unit.name} was removed while it was copied: left out")
            return
    if copied.kind == "run":
        copied.steps.append(unit.name)


def _renamed(unit: Unit, name: str, found: Found) -> Unit:
    """Give a unit the name that it has at the target."""
    if found.kind == "run" or not name:
        return unit
    if unit.folder:
        return replace(unit, name=name)
    main = unit.files[-1]
    if main.name.endswith(INDEX) and name.endswith(".safetensors"):
        name = name.removesuffix(".safetensors") + ".safetensors" + INDEX
    return replace(unit, files=[*unit.files[:-1], replace(main, name=name)])


def _aim(
    found: Found, target: Target, *, overwrite: bool, verify: bool
) -> tuple[Disk | Objects, str]:
    """Give the folder to copy to, and the name there of what is copied; "" for the folder."""
    location = place(target)
    slash = isinstance(target, str | os.PathLike) and os.fspath(target)[-1:] in ("/", b"/")
    if isinstance(location.store, ObjectStore):
        key = location.key
        inside = slash or (not key and found.kind == "file")
        if not key and found.kind == "checkpoint":
            inside = slash or any(name.startswith("step-") for name in location.store.folders(""))
        base = f"{key}/" if key and inside else f"{posixpath.dirname(key)}/".lstrip("/")
        name = found.name if inside else posixpath.basename(key)
        if found.kind == "run":
            base, name = f"{base}{name}/" if name else base, ""
        return Objects(location.store, base, overwrite=overwrite, verify=verify), name
    assert isinstance(location.store, FileStore)
    where = location.where
    path = os.path.abspath(path_of(location))
    inside = slash or (
        os.path.isdir(path)
        and (found.kind == "file" or (found.kind == "checkpoint" and _is_around(path)))
    )
    if inside:
        path, where = os.path.join(path, found.name), os.path.join(where, found.name)
    if found.kind == "run":
        return Disk(path, where, overwrite=overwrite, verify=verify), ""
    folder, name = os.path.split(path)
    around = os.path.dirname(where)
    return Disk(folder, around, overwrite=overwrite, verify=verify, make=slash), name


def _is_around(path: str) -> bool:
    """Whether a folder is one to put a checkpoint into, rather than one, or an empty one."""
    names = os.listdir(path)
    return bool(names) and not any(name in ("MANIFEST.json", "state.json") for name in names)


def _refuse_itself(found: Found, place_: Disk | Objects, name: str) -> None:
    source = found.location
    if isinstance(place_, Disk) and isinstance(source.store, FileStore):
        one = os.path.realpath(path_of(source))
        other = os.path.realpath(os.path.join(place_.path, name))
        gone = [os.path.join(other, step) for step in found.steps] or [other]
    elif isinstance(place_, Objects) and isinstance(source.store, ObjectStore):
        one = source.where.rstrip("/")
        other = f"{place_.where}/{name}".rstrip("/")
        gone = []
    else:
        return
    # A folder is replaced whole, with all that is in it: the source may not be.
    if (
        one == other
        or (found.kind != "file" and _is_in(other, one))
        or any(_is_in(one, folder) for folder in gone)
    ):
        raise ArgumentError("source and target are the same, or one is in the other", where=one)


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


__all__ = ["Copied", "Copy", "copy"]
