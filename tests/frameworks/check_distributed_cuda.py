"""Check distributed checkpoints of tensors on a GPU, by hand.

    python -m tests.frameworks.check_distributed_cuda

Needs PyTorch with CUDA. One rank; NCCL and gloo.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import tensorkeep as tk
import tensorkeep.distributed.torch as tkd

KINDS = (
    *("bool", "uint8", "int64", "float16", "bfloat16", "float64", "complex64"),
    *("float8_e4m3fn", "float8_e5m2"),
)


def bits(tensor: Any) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(
        (torch.view_as_real(flat) if flat.is_complex() else flat).view(torch.uint8).numpy()
    )


def made(fill: bool) -> dict[str, Any]:
    mesh = init_device_mesh("cuda", (1,))
    codes = torch.arange(96, dtype=torch.uint8, device="cuda").reshape(6, 16)
    found: dict[str, Any] = {
        kind: (codes % 2 == 1 if kind == "bool" else codes.view(getattr(torch, kind))).clone()
        for kind in KINDS
    }
    torch.manual_seed(3)
    found["strided"] = torch.randn(300, 200, device="cuda").T
    found["conjugate"] = torch.randn(30, dtype=torch.complex64, device="cuda").conj()
    found["scalar"] = torch.tensor(2.5, device="cuda")
    found["sharded"] = distribute_tensor(
        torch.randn(40 << 10, 1024, device="cuda"), mesh, [Shard(0)]
    )
    if not fill:
        found = {name: torch.zeros_like(value) for name, value in found.items()}
    return found


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        one, other = (getattr(v, "to_local", lambda v=v: v)() for v in (found[name], value))
        assert bits(one) == bits(other.resolve_conj()), name


def main() -> None:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29533")
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1)
    torch.cuda.set_device(0)
    say = sys.stdout.write
    say(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    with tempfile.TemporaryDirectory() as folder:
        state: dict[str, Any] = {"tensors": made(True), "step": 3}
        began = time.perf_counter()
        tkd.save(state, f"{folder}/step-1", timeout=60)
        say(f"saved in {time.perf_counter() - began:.2f} s\n")
        found: dict[str, Any] = {"tensors": made(False), "step": 0}
        began = time.perf_counter()
        tkd.load(found, f"{folder}/step-1", timeout=60)
        say(f"loaded in {time.perf_counter() - began:.2f} s\n")
        same(found["tensors"], state["tensors"])
        same(tk.load(f"{folder}/step-1", verify=True)["tensors"], state["tensors"])
        del state["tensors"]["conjugate"]  # whose conjugation DCP's stagers forget
        stagers: list[Any] = [None]
        if hasattr(dcp, "staging") and hasattr(dcp.staging, "DefaultStager"):
            stagers.append(dcp.staging.DefaultStager(dcp.staging.StagingOptions()))
        for step, stager in enumerate(stagers, 2):
            saving = tkd.async_save(state, f"{folder}/step-{step}", timeout=60, async_stager=stager)
            getattr(saving, "upload_completion", saving).result(60)
            same(tk.load(f"{folder}/step-{step}", verify=True)["tensors"], state["tensors"])
            say(f"saved behind ({type(stager).__name__})\n")
        dcp.save(state, checkpoint_id=f"{folder}/step-9", storage_writer=tkd.Writer())
        same(tk.load(f"{folder}/step-9", verify=True)["tensors"], state["tensors"])
    say("all is well\n")
    os._exit(0)


if __name__ == "__main__":
    main()
