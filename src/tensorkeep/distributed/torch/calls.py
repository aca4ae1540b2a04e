"""DCP's save, async_save and load, by our writer and reader, with errors that name ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from tensorkeep.distributed.torch.ranks import Roll, bounded, named
from tensorkeep.errors import TensorKeepError
from tensorkeep.optional import require


class _Call(NamedTuple):
    """What one call goes by: DCP, a group whose collectives end in time, and who has come."""

    dcp: Any
    group: Any
    roll: Roll | None
    where: str


def save(
    state_dict: dict[str, Any],
    path: Any,
    *,
    process_group: Any = None,
    planner: Any = None,
    timeout: float = 600.0,
    no_dist: bool = False,
    **writer: Any,
) -> None:
    """Save a state dict from all ranks of a group, as `torch.distributed.checkpoint.save` does.

    Args:
        state_dict: tensors of any kind that DCP knows, values that JSON can say, and objects with
            `state_dict()`; nested.
        path: of the checkpoint, which ends in `step-N`: a path, an URL or a Location.
        process_group: of the ranks; all of them otherwise.
        planner: DCP's SavePlanner otherwise.
        timeout: seconds that one rank may be behind another before it counts as lost.
        no_dist: save from this process alone.
        writer: what `Writer` takes: `durable`, `max_shard_size`, `overwrite`.

    Raises:
        StoreError: a rank died or hung, or the disk failed; the message names the rank, and the
            checkpoint before stays the newest.
        UnsupportedError: something cannot be kept; the message names it.
    """
    call = _begin(path, process_group, no_dist, timeout)
    through = _writer(call, path, timeout, writer)
    options = {"process_group": call.group, "planner": planner, "no_dist": no_dist}
    _named(call, lambda: call.dcp.save(state_dict, storage_writer=through, **options), through)


def async_save(
    state_dict: dict[str, Any],
    path: Any,
    *,
    process_group: Any = None,
    planner: Any = None,
    timeout: float = 600.0,
    no_dist: bool = False,
    async_checkpointer_type: Any = None,
    async_stager: Any = None,
    **writer: Any,
) -> Any:
    """Copy a state dict and save it behind, as `torch.distributed.checkpoint.async_save` does.

    The default process group has to have a CPU backend, such as "cpu:gloo,cuda:nccl".

    Args:
        state_dict: see `save`.
        path: see `save`.
        process_group: see `save`.
        planner: see `save`.
        timeout: see `save`. In a process of its own the group is DCP's, and so is its time-out.
        no_dist: see `save`.
        async_checkpointer_type: DCP's: behind in a thread, or in a process.
        async_stager: DCP's: how the state dict is copied.
        writer: see `save`.

    Returns:
        What DCP gives: a Future, or with some stagers an AsyncSaveResponse. Its error is one of
        ours that names the rank.
    """
    call = _begin(path, process_group, no_dist, timeout)
    through = _writer(call, path, timeout, writer)
    options = {"process_group": call.group, "planner": planner, "no_dist": no_dist}
    if async_checkpointer_type is not None:
        options["async_checkpointer_type"] = async_checkpointer_type
    if async_stager is not None:
        options["async_stager"] = async_stager
    found = _named(
        call,
        lambda: call.dcp.async_save(state_dict, storage_writer=through, **options),
        through,
    )
    if isinstance(found, Future):
        return _naming(call, found, through)
    ended = _naming(call, found.upload_completion, through)
    return dataclasses.replace(found, upload_completion=ended)


def load(
    state_dict: dict[str, Any],
    path: Any,
    *,
    process_group: Any = None,
    planner: Any = None,
    timeout: float = 600.0,
    no_dist: bool = False,
    verify: bool = True,
) -> None:
    """Load into the tensors of a state dict, on any number of ranks and however it is sharded.

    Args:
        state_dict: what to fill; see `torch.distributed.checkpoint.load`.
        path: of the checkpoint: a path, an URL or a Location.
        process_group: of the ranks; all of them otherwise.
        planner: DCP's LoadPlanner otherwise.
        timeout: seconds that one rank may be behind another before it counts as lost.
        no_dist: load in this process alone.
        verify: check every piece of which something is needed against its digest.

    Raises:
        CorruptError: a piece is not what was saved.
        MissingError: there is no such checkpoint.
        StoreError: a rank failed, died or hung; the message names it.
    """
    from tensorkeep.distributed import torch as ours

    call = _begin(path, process_group, no_dist, timeout)
    reader: Any = ours.Reader(path, verify=verify)
    options = {"process_group": call.group, "planner": planner, "no_dist": no_dist}
    try:
        _named(call, lambda: call.dcp.load(state_dict, storage_reader=reader, **options))
    except TensorKeepError as error:
        if reader.error is not None:  # which DCP tells as an AssertionError
            raise reader.error from error
        raise


def _begin(path: Any, group: Any, no_dist: bool, timeout: float) -> _Call:
    cure = 'Run pip install "tensorkeep[torch]".'
    dcp = require("torch.distributed.checkpoint", "it is PyTorch's checkpoint", cure)
    import torch.distributed as dist

    where = str(getattr(path, "where", path))
    if no_dist or not dist.is_available() or not dist.is_initialized():
        return _Call(dcp, None, None, where)
    parent = dist.group.WORLD if group is None else group
    roll = Roll(parent)
    roll.mark("came")
    try:
        return _Call(dcp, bounded(parent, timeout), roll, where)
    except RuntimeError as error:
        raise roll.complaint(where, error) from error


def _writer(call: _Call, path: Any, timeout: float, options: dict[str, Any]) -> Any:
    from tensorkeep.distributed import torch as ours

    made: Any = ours.Writer(path, timeout=timeout, **options)
    if call.roll is not None:
        made.follow(call.roll)
    return made


def _named(call: _Call, run: Callable[[], Any], writer: Any = None) -> Any:
    """Run something of DCP's, and name the ranks that it fails for."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        return run()
    except BaseException as error:
        if writer is not None:
            writer.abandon()
        if isinstance(error, CheckpointException):
            raise named(error, call.where, alone=call.roll is None) from error
        if isinstance(error, RuntimeError) and call.roll is not None:
            # A collective was cut off, or timed out.
            raise call.roll.complaint(call.where, error) from error
        raise


def _naming(call: _Call, found: Future[Any], writer: Any) -> Future[Any]:
    ended: Future[Any] = Future()
    ended.set_running_or_notify_cancel()

    def done(future: Future[Any]) -> None:
        try:
            ended.set_result(_named(call, future.result, writer))
        except BaseException as error:
            ended.set_exception(error)

    found.add_done_callback(done)
    return ended
