"""SharedSave: many processes write one checkpoint, and agree through the storage alone.

All ranks know the same token, unique to this save, which names the place that the files gather in:

    run/.step-00001200.TOKEN.tensorkeep.tmp/    on a disk
    run/step-00001200/TOKEN/                    on an object store

    model-rank00003-00001.safetensors           what rank 3 holds of `model`
    part-00003.json                             that rank 3 is done: its pieces, files and digests
    failed-00003.json                           that rank 3 gave up, and why

The coordinator waits for all parts, merges them, checks that they are all of every tensor, and
commits. Before that nothing counts; whoever dies, the checkpoint before stays the newest.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import xxhash

from tensorkeep.checkpoint.arguments import check_metadata, check_metrics
from tensorkeep.checkpoint.folder import Folder, SharedDraft, name_of, open_folder
from tensorkeep.checkpoint.rng import RNG
from tensorkeep.distributed.merging import merge
from tensorkeep.distributed.parts import (
    Contribution,
    Part,
    Shared,
    Skeleton,
    part_name,
    read_part,
    write_empty,
    write_part,
)
from tensorkeep.errors import ArgumentError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import STATE, File, Manifest
from tensorkeep.hidden import failed_write
from tensorkeep.notes import Notes
from tensorkeep.state import Json
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target
from tensorkeep.stores.object import ObjectStore
from tensorkeep.version import __version__
from tensorkeep.wire.sizes import size_of
from tensorkeep.wire.text import dump_json, parse_json

_STEP = re.compile(r"step-([0-9]{1,18})")
_TOKEN = re.compile("[0-9a-f]{8}")
_PART = re.compile(r"part-([0-9]{5,})\.json")
_FAILED = re.compile(r"failed-([0-9]{5,})\.json")
_MAX_RANKS = 100_000
_MAX_MESSAGE = 2000
_SHOWN = 8
_FIRST_PAUSE, _LAST_PAUSE = 0.02, 2.0  # seconds between two looks at the storage
_READERS = 16


def new_token() -> str:
    """Make the token of a save: 8 hex digits. One process makes it and tells all others.

    >>> len(new_token())
    8
    """
    return secrets.token_hex(4)


class SharedSave:
    """One save by many processes. Each rank makes one; the ranks may be threads.

    The coordinator calls `open` before it tells the others the token, then all call `put`, and the
    coordinator calls `commit`. A rank that cannot go on calls `fail`.

    Args:
        path: of the checkpoint: a path, an URL or a Location whose last part is `step-N`. The
            folder around it is that of the run, where a Checkpointer finds it.
        rank: of this process, from 0.
        ranks: how many there are.
        token: of this save, the same for all ranks; see `new_token`.
        step: of the training; N where it is not given.
        durable: have all files on the disk, safe from a power cut, before they count.
        timeout: seconds that `commit` waits for the next rank to be done.
        max_shard_size: how many bytes a file holds at most, or one part that is larger.
        overwrite: replace a checkpoint of the same step.

    Raises:
        ArgumentError: the path does not end in `step-N`, or another argument makes no sense.

    >>> import tempfile, numpy as np
    >>> from tensorkeep.tensor import Tensor
    >>> path, halves = f"{tempfile.mkdtemp()}/step-7", np.arange(4.0).reshape(2, 2)
    >>> token = new_token()
    >>> ranks = [SharedSave(path, rank=rank, ranks=2, token=token) for rank in (0, 1)]
    >>> ranks[0].open()
    >>> for i, rank in enumerate(ranks):
    ...     rank.put([Part("w", Tensor.of(halves[i : i + 1]), (i, 0), (2, 2))])
    >>> ranks[0].commit().sharded["w"].pieces[1].offsets
    (1, 0)
    """

    def __init__(
        self,
        path: Target,
        *,
        rank: int,
        ranks: int,
        token: str,
        step: int | None = None,
        durable: bool = True,
        timeout: float = 600.0,
        max_shard_size: int | str | None = "5GB",
        overwrite: bool = False,
    ) -> None:
        run, named = split_step(path)
        if step is not None and step != named:
            raise ArgumentError(f"the step is {step}, but the path says {name_of(named)}")
        if not type(rank) is type(ranks) is int or not 0 <= rank < ranks <= _MAX_RANKS:
            raise ArgumentError(f"there is no rank {rank!r} of {ranks!r}")
        if not _TOKEN.fullmatch(str(token)):
            raise ArgumentError(
                f"{token!r} is no token", cure="Have one process call new_token() and tell it."
            )
        seconds: object = timeout
        if not isinstance(seconds, int | float) or not seconds > 0:
            raise ArgumentError(f"timeout cannot be {timeout!r}", cure="Give seconds.")
        self.step = named
        self.token = token
        self._shared = Shared(named, token, rank, ranks, size_of(max_shard_size))
        self._durable = durable
        self._timeout = timeout
        self._overwrite = overwrite
        self._folder: Folder = open_folder(run)
        self._draft: SharedDraft | None = None
        self._locked = False
        self.where = self._folder.where_of(named)

    # --- every rank -------------------------------------------------------------------------------

    def put(
        self,
        parts: Iterable[Part],
        *,
        objects: Mapping[str, Json] | None = None,
        skeleton: Skeleton | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write what this rank holds: its files, then the document that says so.

        A box that several ranks hold alike (a replica) is to be put by one of them. Every rank
        puts, if need be nothing.

        Args:
            parts: the boxes that this rank holds, in the order of the state.
            objects: JSON values that this rank alone knows; `commit` gives those of all ranks to
                its `skeleton`.
            skeleton: how the tensors nest, if it is known: each top-level entry has files of its
                own (`model-rank00003-00001.safetensors`).
            progress: called with the number of bytes written since the last call.

        Raises:
            StoreError: the disk is full or failed, or the save was given up.
            ArgumentError: a part is not inside of its tensor.
        """
        try:
            draft = self._joined()
            write_part(draft, self._shared, parts, objects or {}, skeleton, progress)
        except OSError as error:
            raise failed_write(error, self.where) from error
        if not self._locked:
            self.close()

    def fail(self, error: BaseException | str) -> None:
        """Tell the coordinator that this rank gives up, and why; it need not wait any longer."""
        rank = self._shared.rank
        told = str(error) or type(error).__name__
        data = dump_json({"token": self.token, "rank": rank, "error": told[:_MAX_MESSAGE]})
        with contextlib.suppress(OSError, TensorKeepError):  # the time-out tells it then
            self._joined().report(f"failed-{rank:05}.json", data.encode())
        if not self._locked:
            self.close()

    def close(self) -> None:
        """Let go of the folder; what was put stays for the coordinator."""
        if self._draft is not None:
            self._draft.close()
            self._draft = None
        if self._locked:
            self._locked = False
            self._folder.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _joined(self) -> SharedDraft:
        if self._draft is None:
            self._draft = self._folder.share(self.step, self.token, durable=self._durable)
        return self._draft

    # --- the coordinator --------------------------------------------------------------------------

    def open(self) -> None:
        """Coordinator, before it tells the others the token: take the run's folder for this save.

        Raises:
            StoreError: another Checkpointer or coordinator is saving there.
            ArgumentError: that step is saved already, and not to be overwritten.
        """
        if self._locked:
            return
        self._folder.create()
        self._folder.lock()
        self._locked = True
        try:
            self._check_step()
            self._joined()
        except BaseException:
            self.close()
            raise

    def _check_step(self) -> None:
        if not self._folder.there(self.step):
            return
        if not self._overwrite:
            raise ArgumentError(
                "that step is saved already", where=self.where, cure="Say overwrite=True."
            )
        if not self._folder.is_own(self.step):
            raise ArgumentError("is no checkpoint, and so is not replaced", where=self.where)

    def commit(
        self,
        *,
        skeleton: Skeleton | Callable[[dict[str, Json]], Skeleton | None] | None = None,
        metadata: Mapping[str, Json] | None = None,
        metrics: Mapping[str, Any] | None = None,
        reason: str = "",
        sharding: Mapping[str, Json] | None = None,
        order: Iterable[str] | None = None,
    ) -> Manifest:
        """Coordinator: wait for all parts, merge them, and make the checkpoint appear.

        Whatever fails, what was written for this save is removed.

        Args:
            skeleton: how the tensors nest, as `tensorkeep.tree` writes it, or what makes that of
                the objects of all ranks (`{name: value}`); None for a flat mapping.
            metadata: JSON values to keep with it.
            metrics: what was measured, by name.
            reason: why it is saved.
            sharding: how each tensor lay over the processes, JSON by its name, kept for reference.
            order: the names of all tensors in the order of the state; that of the parts otherwise.

        Raises:
            StoreError: ranks are missing after the time-out, or one failed: the message names them;
                or another coordinator has taken over. The checkpoint before stays the newest.
            ArgumentError: the parts are not all of each tensor, or contradict one another.
            UnsupportedError: metadata or metrics are not what JSON holds.
        """
        try:
            if not self._locked:
                raise ArgumentError(
                    "nobody has opened this save", cure="Call open() before the ranks begin."
                )
            if not isinstance(reason, str):
                raise ArgumentError(f"the reason is a {type(reason).__name__}", cure="Give text.")
            kept, measured = check_metadata(metadata), check_metrics(metrics)
            parts = self._wait()
            merged = merge(parts, sharding or {}, order, self.where)
            draft = self._joined()
            known = skeleton(merged.objects) if callable(skeleton) else skeleton
            empty = write_empty(draft, merged.empty) if merged.empty else Contribution()
            state = Notes(skeleton={**(known or {}), RNG: None}).dump().encode()
            draft.put(STATE, [state], len(state))
            noted = File(len(state), xxhash.xxh3_128_hexdigest(state))
            whole = merged.entries | empty.entries
            manifest = Manifest(
                step=self.step,
                time=time.time(),
                reason=reason,
                metrics=measured,
                metadata=kept,
                writer=f"tensorkeep {__version__}",
                files={**merged.files, **empty.files, STATE: noted},
                tensors={name: whole[name] for name in merged.order if name in whole},
                data=draft.data,
                sharded=merged.sharded,
                order=merged.order if merged.sharded else (),
            )
            self._tidy(draft)
            draft.finish(manifest)
            self._folder.commit(draft, self.step, replace=self._overwrite)
        except OSError as error:
            self.abandon()
            raise failed_write(error, self.where) from error
        except BaseException:
            self.abandon()
            raise
        self.close()
        return manifest

    def abandon(self) -> None:
        """Coordinator: give the save up, and remove what was written for it."""
        with contextlib.suppress(OSError, TensorKeepError):
            if self._draft is not None:
                self._folder.discard(self._draft)
                self._draft = None
        self.close()

    def _wait(self) -> list[Manifest]:
        """Wait for the documents of all ranks."""
        draft, ranks = self._joined(), self._shared.ranks
        found: dict[int, Manifest] = {}
        since = time.monotonic()
        last, pause = since, _FIRST_PAUSE

        def read(rank: int) -> Manifest | None:
            data = draft.read(part_name(rank))
            where = f"{self.where}: {part_name(rank)}"
            return None if data is None else read_part(data, where, self._shared, rank)

        with ThreadPoolExecutor(_READERS) as pool:
            while True:
                names = draft.names()
                self._raise_failure(draft, names)
                there = [int(match[1]) for name in names if (match := _PART.fullmatch(name))]
                fresh = [rank for rank in there if rank < ranks and rank not in found]
                for rank, part in zip(fresh, pool.map(read, fresh), strict=True):
                    if part is not None:
                        found[rank] = part
                        last, pause = time.monotonic(), _FIRST_PAUSE
                if len(found) == ranks:
                    return [found[rank] for rank in range(ranks)]
                now = time.monotonic()
                if now - last > self._timeout:
                    raise self._missing(sorted(set(range(ranks)) - found.keys()), now - since)
                self._folder.check()
                time.sleep(min(pause, max(0.0, last + self._timeout - now) + 0.001))
                pause = min(pause * 1.5, _LAST_PAUSE)

    def _missing(self, ranks: list[int], waited: float) -> StoreError:
        began = time.strftime("%H:%M:%S", time.gmtime(time.time() - waited))
        return StoreError(
            f"{_listed(ranks)} of {self._shared.ranks} did not finish: they are waited for since "
            f"{began} UTC, {waited:.0f} s, and for {self._timeout:g} s no other has finished",
            where=self.where,
            cure="Look at what became of them; the checkpoint before is still the newest.",
        )

    def _raise_failure(self, draft: SharedDraft, names: list[str]) -> None:
        failed = {}
        for name in names:
            if match := _FAILED.fullmatch(name):
                told = parse_json(draft.read(name) or b"{}", self.where, "report", most=100)
                reason = told.get("error") if isinstance(told, dict) else None
                failed[int(match[1])] = str(reason or "it does not say why")
        if failed:
            rank, reason = next(iter(failed.items()))
            others = [other for other in failed if other != rank]
            more = f"; {_listed(others)} failed too" if others else ""
            raise StoreError(
                f"rank {rank} failed: {reason}{more}",
                where=self.where,
                cure="The checkpoint before is still the newest.",
            )

    def _tidy(self, draft: SharedDraft) -> None:
        """Remove what only the coordinator needed."""
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(draft.remove, map(part_name, range(self._shared.ranks))))


def split_step(path: Target) -> tuple[Target, int]:
    """Split the path of a checkpoint into the folder of its run, and its step.

    Raises:
        ArgumentError: its last part is not `step-N`.

    >>> split_step("runs/big/step-1200")
    ('runs/big', 1200)
    """
    run, name = _split(path)
    match = _STEP.fullmatch(name)
    if match is None:
        raise _no_step(name)
    return run, int(match[1])


def _split(path: Target) -> tuple[Target, str]:
    location = path if isinstance(path, Location) else None
    if location is not None and location.key:
        around, _, name = location.key.rpartition("/")
        return Location(location.store, around), name
    store = path.store if isinstance(path, Location) else path
    if isinstance(store, ObjectStore):
        return store.split()
    try:
        text = store.where if isinstance(store, Store) else os.fsdecode(os.fspath(store))
    except TypeError:
        raise ArgumentError(f"a checkpoint's path is a {type(path).__name__}") from None
    full = text.rstrip("/")
    around, _, name = full.rpartition("/")
    return around or ("/" if full.startswith("/") else "."), name


def _no_step(name: str) -> ArgumentError:
    return ArgumentError(
        f"a checkpoint of many processes is called step-N, not {name[:60]!r}",
        cure='Give such as "run/step-1200": the folder around it is the run, in which Checkpointer '
        "and `tensorkeep checkpoints` find it.",
    )


def _listed(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:_SHOWN]))
    more = f" and {len(ranks) - _SHOWN:,} more" if len(ranks) > _SHOWN else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"


__all__ = ["Part", "SharedSave", "Skeleton", "new_token", "split_step"]
