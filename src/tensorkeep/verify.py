"""verify: read every byte that has a digest or a container's checksum, and say what is damaged."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tensorkeep.api import ProgressReport, check_progress, open
from tensorkeep.checksum import digest, each
from tensorkeep.errors import FormatError, StoreError, UnsafeError
from tensorkeep.source import FileSource
from tensorkeep.state import State
from tensorkeep.stores import Target

_WORTH_THREADS = 4 << 20


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Args:
        where: what was verified.
        format: its format.
        tensors: how many tensors it holds.
        bytes: the bytes of all of them.
        checked: how many have a digest or a container's checksum, and were read for it.
        unchecked: the names of the others, of which the structure alone was checked.
        damaged: the name and the problem of each tensor that is not what was saved; where the state
            is several files, the problem says which bytes of which file.
    """

    where: str
    format: str
    tensors: int
    bytes: int
    checked: int
    unchecked: list[str]
    damaged: list[tuple[str, str]]

    @property
    def ok(self) -> bool:
        """True where nothing is damaged, as far as there are checksums to tell."""
        return not self.damaged


def verify(
    target: Target, *, format: str | None = None, progress: ProgressReport | None = None
) -> Verification:
    """Check a file's structure, and every tensor against its digest and its container's checksum.

    Each tensor is read once per checksum, piece by piece, on several threads. A file that was saved
    without checksums has only its structure checked, and that what has to be decoded can be;
    `unchecked` then lists its tensors.

    Args:
        target: a path, an URL, a Location or a Store.
        format: its format, where the bytes do not tell.
        progress: called with the bytes done and the total.

    Raises:
        CorruptError: the structure is damaged, so that no tensor can be told from another.
        MissingError: there is nothing there.
        UnknownFormatError: no format recognises it.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> path = f"{tempfile.mkdtemp()}/state.safetensors"
    >>> tk.save({"w": np.ones(3)}, path)
    >>> result = verify(path)
    >>> result.ok, result.checked, result.unchecked
    (True, 1, [])
    """
    check_progress(progress)
    with open(target, format=format) as state:
        known = {name for name in state if name in state.digests or name in state.checks}
        # Nothing tells whether the others are what was saved, but what is decoded can fail at that.
        names = [name for name in state if name in known or _is_decoded(state, name)]
        sizes = {name: state[name].nbytes for name in names}
        done, total = 0, sum(sizes.values())
        damaged: list[tuple[str, str]] = []
        tensors = {name: state[name] for name in names}
        threads = total >= _WORTH_THREADS
        for name, problem in each(lambda name: _problem(state, name), tensors, threads=threads):
            if problem:
                damaged.append((name, problem + _place(state, name)))
            done += sizes[name]
            if progress is not None:
                progress(done, total)
        places = {name: place for place, name in enumerate(names)}
        damaged.sort(key=lambda row: places[row[0]])
        return Verification(
            where=state.where,
            format=state.format,
            tensors=len(state),
            bytes=state.nbytes,
            checked=len(known),
            unchecked=[name for name in state if name not in known],
            damaged=damaged,
        )


def _problem(state: State, name: str) -> str:
    """Say how a tensor differs from what was saved; empty where it does not."""
    try:
        if name in state.checks:
            state.checks[name]()
        if name in state.digests and (found := digest(state[name])) != state.digests[name]:
            return f"its XXH3-128 is {found}, {state.digests[name]} was saved"
        if name not in state.digests and _is_decoded(state, name):
            for _ in state[name].pieces():
                pass
    except (FormatError, StoreError, UnsafeError) as error:  # damage can stop the reading itself
        if isinstance(error, StoreError) and state[name].source.remote:
            raise  # a network that fails tells nothing of what is stored
        return error.problem
    return ""


def _is_decoded(state: State, name: str) -> bool:
    """Whether a tensor's bytes do not lie in a file, or an object, as they are."""
    source = state[name].source
    return not (source.mapped or source.remote)


def _place(state: State, name: str) -> str:
    """Say where the bytes of a tensor are, where the state is more than one file."""
    tensor = state[name]
    if not isinstance(tensor.source, FileSource) or tensor.source.where == state.where:
        return ""
    file = os.path.basename(tensor.source.where)
    return f": bytes {tensor.offset} to {tensor.offset + tensor.nbytes} of {file}"
