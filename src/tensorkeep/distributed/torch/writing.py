"""The writer that PyTorch's distributed checkpoint saves through."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator
from typing import Any

from tensorkeep.distributed.saving import Part, SharedSave, new_token
from tensorkeep.distributed.torch.items import (
    described,
    part_of_tensor,
    parts_of_value,
    shardings_of,
    value_of,
)
from tensorkeep.distributed.torch.nesting import WHOLE, nest, paths_of
from tensorkeep.distributed.torch.ranks import Roll, name_ranks
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.state import Json
from tensorkeep.stores import locate

_log = logging.getLogger("tensorkeep")
_received = threading.local()
_unfinished: dict[str, SharedSave] = {}  # of this process, by the checkpoint's address


@dataclasses.dataclass(frozen=True, slots=True)
class Ticket:
    """The token of a save, which the coordinator sends to each rank with its plan.

    A planner that caches plans gives a rank the one it had at the first save, and drops what came
    this time. So a ticket is noted when it arrives, which is when it is unpickled, in the thread
    that is about to write.
    """

    token: str
    ranks: int

    def __reduce__(self) -> tuple[object, ...]:
        return _receive, (self.token, self.ranks)


def _receive(token: str, ranks: int) -> Ticket:
    _received.ticket = Ticket(token, ranks)
    ticket: Ticket = _received.ticket
    return ticket


class Writing:
    """Write a checkpoint: each rank its own files, and what no tensor is as JSON.

    Args:
        path: of the checkpoint, which ends in `step-N`: a path, an URL or a Location;
            `checkpoint_id` takes its place.
        durable: have all on the disk, safe from a power cut, before it counts.
        timeout: seconds after which ranks that are missing are named.
        max_shard_size: how many bytes a file holds at most, or one tensor that is larger.
        overwrite: replace a checkpoint of the same step.
    """

    def __init__(
        self,
        path: Any = None,
        *,
        durable: bool = True,
        timeout: float = 600.0,
        max_shard_size: int | str | None = "5GB",
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.path = path
        self._options: dict[str, Any] = {
            "durable": durable,
            "timeout": timeout,
            "max_shard_size": max_shard_size,
            "overwrite": overwrite,
        }
        self._forget()

    def _forget(self) -> None:
        self._rank = 0
        self._coordinates = False
        self._ticket: Ticket | None = None  # of the coordinator
        self._save: SharedSave | None = None
        self._sharding: dict[str, Json] = {}  # of the coordinator
        self._roll: Roll | None = None
        self._watch: threading.Timer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def checkpoint_id(self) -> Any:
        """The checkpoint's address."""
        return self.path

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Say whether an address is one that is known here."""
        try:
            locate(checkpoint_id)
        except ArgumentError:
            return False
        return True

    def storage_meta(self) -> Any:
        """Tell planners where the checkpoint goes."""
        from torch.distributed.checkpoint.metadata import StorageMeta

        return StorageMeta(checkpoint_id=self.path)

    def reset(self, checkpoint_id: Any = None) -> None:
        """Begin another save; one that was not finished is given up."""
        self.abandon()
        if checkpoint_id is not None:
            self.path = checkpoint_id

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Take this process's role.

        Raises:
            ArgumentError: there is no address, or no rank is to know of another.
            UnsupportedError: this PyTorch does not tell a writer its rank.
        """
        if self.path is None:
            raise ArgumentError("it has no address", cure='Give checkpoint_id="run/step-100".')
        if not kwargs.get("use_collectives", True):
            raise ArgumentError(
                "use_collectives=False leaves every rank with a checkpoint of its own, which "
                "nothing makes one",
                where=str(self.path),
                cure="Leave it out.",
            )
        self._coordinates = is_coordinator
        self._rank = _rank(kwargs)
        self._ticket = None

    def prepare_local_plan(self, plan: Any) -> Any:
        """Leave the plan as it is."""
        self._mark("planned")
        return plan

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        """Coordinator: open the save, and give every rank its token."""
        ticket = self._ticket = Ticket(new_token(), len(plans))
        address = locate(self.path).where
        if (left := _unfinished.pop(address, None)) is not None:
            left.abandon()
        self._save = _unfinished[address] = self._open(ticket)
        self._save.open()
        return [dataclasses.replace(plan, storage_data=ticket) for plan in plans]

    def _open(self, ticket: Ticket) -> SharedSave:
        return SharedSave(
            self.path, rank=self._rank, ranks=ticket.ranks, token=ticket.token, **self._options
        )

    def write_data(self, plan: Any, planner: Any) -> Any:
        """Write what this rank's plan says."""
        from torch.distributed.checkpoint.storage import WriteResult
        from torch.futures import Future

        ticket: Ticket = self._ticket or _received.ticket
        save = self._save or self._open(ticket)
        if self._save is not None:
            self._sharding = shardings_of(planner)
        try:
            self._put(save, plan, planner)
        except BaseException as error:
            save.fail(error)
            raise
        if self._roll is None:
            self._roll = _roll(ticket.ranks)
        self._mark("wrote")
        self._begin_watch()
        done: Any = Future()
        done.set_result([WriteResult(item.index, _size(item), None) for item in plan.items])
        return done

    def _put(self, save: SharedSave, plan: Any, planner: Any) -> None:
        from torch.distributed.checkpoint.planner import WriteItemType

        tensors: list[Any] = []
        values: list[Any] = []
        for item in plan.items:
            (values if item.type == WriteItemType.BYTE_IO else tensors).append(item)
        paths = plan.planner_data if isinstance(plan.planner_data, dict) else {}
        objects: dict[str, Json] = {}
        inner: dict[str, Any] = {}
        for item in values:
            name = item.index.fqn
            path = tuple(paths.get(name, (name,)))
            node, found = described(path, value_of(item, planner))
            objects[name] = node
            inner |= found

        def parts() -> Iterator[Part]:
            for item in tensors:
                part = part_of_tensor(item, planner)
                if part is not None:
                    yield part
            yield from parts_of_value(inner)

        skeleton: dict[str, Json] | None = None
        if paths:
            skeleton = {"tree": nest({name: tuple(path) for name, path in paths.items()}, {})}
        save.put(parts(), objects=objects, skeleton=skeleton)

    def finish(self, metadata: Any, results: Any) -> None:
        """Coordinator: commit what all ranks wrote."""
        from torch.distributed.checkpoint import metadata as told

        self._end_watch()
        if self._save is None:
            raise ArgumentError("nothing was begun", where=str(self.path))
        names = list(metadata.state_dict_metadata)
        paths = paths_of(metadata.planner_data, names)

        def skeleton(objects: dict[str, Json]) -> dict[str, Json]:
            found: dict[str, Json] = {"framework": "torch", "tree": nest(paths, objects)}
            if metadata.planner_data is None:
                found[WHOLE] = True
            return found

        values = told.BytesStorageMetadata
        order = [n for n in paths if not isinstance(metadata.state_dict_metadata[n], values)]
        self._save.commit(skeleton=skeleton, order=order, sharding=self._sharding)
        _unfinished.pop(locate(self.path).where, None)
        self._save = None

    def abandon(self) -> None:
        """Coordinator: give up what was begun and not finished, and remove what was written."""
        self._end_watch()
        save, self._save = self._save, None
        if save is not None:
            _unfinished.pop(locate(self.path).where, None)
            save.abandon()

    def follow(self, roll: Roll) -> None:
        """Tell a roll how far this rank has come."""
        self._roll = roll

    def _mark(self, stage: str) -> None:
        if self._roll is not None:
            self._roll.mark(stage)

    def _begin_watch(self) -> None:
        if self._coordinates and self._roll is not None and self._roll.ranks > 1:
            timeout = float(self._options["timeout"])
            self._watch = threading.Timer(timeout, self._warn, (self._roll, timeout))
            self._watch.daemon = True
            self._watch.start()

    def _warn(self, roll: Roll, timeout: float) -> None:
        missing = roll.missing("wrote")
        if missing:
            _log.warning(
                "%s: after %g s %s of %d still not %s",
                self.path,
                timeout,
                name_ranks(missing),
                roll.ranks,
                "done with writing",
            )

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


def _rank(kwargs: dict[str, Any]) -> int:
    import torch
    import torch.distributed as dist

    if "rank" in kwargs:
        return int(kwargs["rank"])
    if not dist.is_available() or not dist.is_initialized():
        return 0
    raise UnsupportedError(
        f"PyTorch {torch.__version__} does not tell a storage writer its rank",
        cure="Update it to 2.9 or later.",
    )


def _roll(ranks: int) -> Roll | None:
    """Give the roll of the default group, if it is the one that saves."""
    import torch.distributed as dist

    if ranks > 1 and dist.is_initialized() and dist.get_world_size() == ranks:
        return Roll(dist.group.WORLD)
    return None


def _size(item: Any) -> int:
    return int(item.tensor_storage_size() or 0)
