"""What the ranks do in the tests of distributed checkpoints, and a run to look at alone."""

from __future__ import annotations

import io
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which optimizers would import in every rank
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import tensorkeep.distributed.torch as tkd
from tensorkeep.errors import TensorKeepError

KINDS = (
    *("bool", "uint8", "int16", "int64", "float16", "bfloat16", "float64", "complex64"),
    *("float8_e4m3fn", "float8_e5m2"),
)


class Counter:
    """A Stateful object."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "seen": [self.count, None, "x"], "rate": float("inf")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["seen"] == [state["count"], None, "x"], state
        self.count = state["count"]


class Mlp(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 14)
        self.down = nn.Linear(14, 5)
        self.narrow = nn.Linear(5, 5, dtype=torch.bfloat16)
        self.register_buffer("seen", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.narrow(self.down(self.up(x).relu()).bfloat16()).float()
        return found


def training(ranks: int, *, tensor_parallel: bool, seed: int) -> tuple[nn.Module, Any]:
    """Give a sharded model and its optimizer after some steps."""
    torch.manual_seed(seed)
    model = Mlp()
    if tensor_parallel and ranks % 2 == 0:
        mesh = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("dp", "tp"))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, mesh["tp"], plan)
        mesh = mesh["dp"]
    else:
        mesh = init_device_mesh("cpu", (ranks,))
    for module in (model.narrow, model):
        fully_shard(module, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.ones(4, 6)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def placed(ranks: int, fill: bool) -> dict[str, Any]:
    """Give tensors of every placement and element type, and values that are none."""
    line = init_device_mesh("cpu", (ranks,))
    torch.manual_seed(5)
    made: dict[str, Any] = {}
    codes = torch.arange(96, dtype=torch.uint8).reshape(6, 16)
    for kind in KINDS:
        whole = codes % 2 == 1 if kind == "bool" else codes.view(getattr(torch, kind))
        made[kind] = _split(_given(whole, fill), line, Shard(0))
    uneven = torch.randn(5, 7)
    made["rows"] = _split(_given(uneven, fill), line, Shard(0))
    made["columns"] = _split(_given(uneven, fill), line, Shard(1))
    made["few"] = _split(_given(torch.randn(2, 3), fill), line, Shard(0))
    made["replica"] = _split(_given(torch.randn(3), fill), line, Replicate())
    made["plain"] = _given(torch.randn(2, 3), fill)
    made["strided"] = _given(torch.arange(12.0).reshape(3, 4), fill).T
    made["scalar"] = _given(torch.tensor(2.5), fill)
    made["empty"] = torch.zeros(0, 3)
    made["list"] = [_given(torch.ones(2), fill), {"deep": _given(torch.zeros(1), fill)}]
    return {"tensors": made, "$odd.key": {"a.b": _given(torch.full((2,), 3.0), fill)}}


VALUES: dict[str, Any] = {
    "int": 2**70,
    "float": float("nan"),
    "text": "$ünï",
    "none": None,
    "flags": [True, False],
    "tuple": (1, ("a", 2.5)),
    "raw": b"\x00\xff",
    "dtype": torch.bfloat16,
    "pair": (torch.ones(2), "beside a tensor"),
}


def _split(tensor: torch.Tensor, mesh: Any, placement: Any) -> DTensor:
    """Keep this rank's part; gloo moves not all of the types."""
    return distribute_tensor(tensor, mesh, [placement], src_data_rank=None)


def _gathered(tensor: DTensor) -> torch.Tensor:
    """Put a tensor together; gloo moves not all of the types."""
    found = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    parts: list[Any] = [None] * dist.get_world_size()
    data = io.BytesIO()
    torch.save(tensor.to_local().detach().clone(), data)
    dist.all_gather_object(parts, (*found, data.getvalue()))
    made = torch.empty(tensor.shape, dtype=tensor.dtype)
    for shape, offsets, local in parts:
        box = tuple(slice(o, o + n) for o, n in zip(offsets, shape, strict=True))
        made[box] = torch.load(io.BytesIO(local))
    return made


def _given(tensor: torch.Tensor, fill: bool) -> torch.Tensor:
    return tensor.clone() if fill else torch.zeros_like(tensor)


def whole(value: Any) -> Any:
    """Give a nesting with whole tensors."""
    if isinstance(value, DTensor):
        return _gathered(value)
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {str(key): whole(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(child) for child in value)
    return value


def save_all(rank: int, ranks: int, folder: str) -> Any:
    """Save a model sharded in two ways, and odd tensors; give what they are as wholes."""
    found = {}
    for name in ("fsdp", "tp"):
        model, optimizer = training(ranks, tensor_parallel=name == "tp", seed=1)
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optim": moments, "counter": Counter(3)}
        if name == "fsdp":
            dcp.save(state, checkpoint_id=f"{folder}/{name}/step-1", storage_writer=tkd.Writer())
        else:
            tkd.save(state, f"{folder}/{name}/step-1", timeout=30)
        found[name] = whole({"model": weights, "optim": moments})
    state = {**placed(ranks, True), "values": dict(VALUES)}
    tkd.save(state, f"{folder}/odd/step-1", timeout=30)
    found["odd"] = whole(state)
    found["failures"] = _refused(rank, ranks, folder)
    _save_cached(rank, ranks, folder)
    _save_behind(folder, 1)
    return found if rank == 0 else None


def _refused(rank: int, ranks: int, folder: str) -> list[str]:
    """Save what cannot be kept."""
    found = []
    for state in ({"a": {"b": object()}}, {"a": torch.zeros(3).to_sparse()}):
        try:
            tkd.save({"w": torch.ones(4), **state}, f"{folder}/refused/step-1", timeout=30)
        except TensorKeepError as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def _save_cached(rank: int, ranks: int, folder: str) -> None:
    """Save three times with one cached plan."""
    mesh = init_device_mesh("cpu", (ranks,))
    for step in (1, 2, 3):
        state = {
            "w": distribute_tensor(torch.full((6, 2), float(step)), mesh, [Shard(0)]),
            "step": step,
        }
        planner = dcp.DefaultSavePlanner(enable_plan_caching=True)
        writer = tkd.Writer()
        dcp.save(
            state,
            checkpoint_id=f"{folder}/cached/step-{step}",
            storage_writer=writer,
            planner=planner,
        )


def _save_behind(folder: str, step: int, **how: Any) -> None:
    """Save behind, while the values change."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    tensor = distribute_tensor(torch.full((6, 2), float(step)), mesh, [Shard(0)])
    state = {"w": tensor, "step": step}
    saved = tkd.async_save(state, f"{folder}/behind/step-{step}", timeout=60, **how)
    tensor.to_local().fill_(-1)
    getattr(saved, "upload_completion", saved).result(60)


def save_behind(rank: int, ranks: int, folder: str) -> None:
    """Save behind, in a process."""
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

    _save_behind(folder, 2, async_checkpointer_type=AsyncCheckpointerType.PROCESS)
    _save_behind(folder, 3, async_checkpointer_type=AsyncCheckpointerType.PROCESS)


def load_all(rank: int, ranks: int, folder: str) -> Any:
    """Load at another number of ranks what `save_all` saved."""
    found = {}
    for name in ("fsdp", "tp"):
        model, optimizer = training(ranks, tensor_parallel=name == "fsdp", seed=2)
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optim": moments, "counter": Counter()}
        if name == "fsdp":
            dcp.load(state, checkpoint_id=f"{folder}/{name}/step-1", storage_reader=tkd.Reader())
        else:
            tkd.load(state, f"{folder}/{name}/step-1", verify=ranks != 3)
        assert state["counter"].count == 3
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state["optim"])
        weights, moments = get_state_dict(model, optimizer)
        found[name] = whole({"model": weights, "optim": moments})
    state = {**placed(ranks, False), "values": dict.fromkeys(VALUES)}
    tkd.load(state, f"{folder}/odd/step-1")
    found["odd"] = whole(state)
    return found if rank == 0 else None


class Slow(dcp.DefaultSavePlanner):  # type: ignore[misc]
    """A planner that sleeps at some point, in one rank."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def create_local_plan(self) -> Any:
        if self.where == "plan":
            time.sleep(30)
        return super().create_local_plan()

    def resolve_data(self, item: Any) -> Any:
        if self.where == "write":
            time.sleep(30)
        return super().resolve_data(item)


def hang(rank: int, ranks: int, folder: str, where: str) -> Any:
    """Save; the last rank hangs."""
    mesh = init_device_mesh("cpu", (ranks,))
    state = {"w": distribute_tensor(torch.ones(6, 2), mesh, [Shard(0)])}
    tkd.save(state, f"{folder}/step-1", timeout=20)
    slow = rank == ranks - 1
    if slow and where == "before":
        time.sleep(8)
    began = time.monotonic()
    try:
        planner = Slow(where) if slow else None
        tkd.save(state, f"{folder}/step-2", timeout=2, planner=planner)
    except TensorKeepError as error:
        return str(error), time.monotonic() - began
    return "no error", 0.0


def train(rank: int, ranks: int, folder: str, first: int, last: int) -> Any:
    """Save a step after another, until this is killed or another rank is."""
    mesh = init_device_mesh("cpu", (ranks,))
    for step in range(first, last):
        state = {"w": _split(torch.full((256, 64), float(step)), mesh, Shard(0)), "step": step}
        try:
            tkd.save(state, f"{folder}/step-{step}", timeout=5, durable=False)
        except TensorKeepError as error:
            return str(error)
        if rank == 0:
            note = Path(folder, ".saved.new")  # so that a kill leaves the old one or this
            note.write_text(str(step))
            note.replace(Path(folder, ".saved"))
    return "all saved"


def save_remote(rank: int, ranks: int, url: str, environment: dict[str, str]) -> Any:
    """Save to a bucket and load from it."""
    os.environ.update(environment)
    mesh = init_device_mesh("cpu", (ranks,))
    for step in (1, 2):
        state = {
            "model": {"w": distribute_tensor(torch.full((50, 30), float(step)), mesh, [Shard(1)])},
            "step": step,
        }
        tkd.save(state, f"{url}/step-{step}", timeout=60)
    weight = distribute_tensor(torch.zeros(50, 30), mesh, [Shard(0)])
    found: dict[str, Any] = {"model": {"w": weight}, "step": 0}
    tkd.load(found, f"{url}/step-00000002")
    return found["step"], bool((weight.to_local() == 2).all())


def save_old(rank: int, ranks: int, folder: str) -> Any:
    """Save a ShardedTensor by rows, and load it by columns."""
    from torch.distributed._shard.sharded_tensor import Shard as Local
    from torch.distributed._shard.sharded_tensor import init_from_local_shards

    place = f"rank:{rank}/cpu"
    wide, tall = torch.full((2, 6), float(rank)), torch.zeros(4, 3)
    rows = Local.from_tensor_and_offsets(wide, [2 * rank, 0], rank)
    columns = Local.from_tensor_and_offsets(tall, [0, 3 * rank], rank)
    for local in (rows, columns):
        assert str(local.metadata.placement) == place
    tkd.save({"t": init_from_local_shards([rows], 4, 6)}, f"{folder}/step-1", timeout=30)
    tkd.load({"t": init_from_local_shards([columns], 4, 6)}, f"{folder}/step-1", timeout=30)
    return tall.tolist()


def hang_bare(rank: int, ranks: int, folder: str) -> list[str]:
    """Save with a bare writer; the last rank hangs."""
    told: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            Path(folder, "told").touch()

    logging.getLogger("tensorkeep").addHandler(Handler())
    planner = Slow("write") if rank == ranks - 1 else None
    try:
        writer = tkd.Writer(f"{folder}/step-1", timeout=0.5)
        w = distribute_tensor(torch.ones(3), init_device_mesh("cpu", (ranks,)), [Shard(0)])
        dcp.save({"w": w}, storage_writer=writer, planner=planner)
    except RuntimeError:
        return told
    return ["no error"]
