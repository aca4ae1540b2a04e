"""Torch distributed checkpoints as this torch writes them, from one process and from two."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep.testing import assert_equal_states

pytestmark = pytest.mark.frameworks

KINDS = [
    *("bool", "uint8", "uint16", "int64", "float16", "bfloat16", "float64", "complex64"),
    *("float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn_x2"),
]


def test_one_process(torch: Any, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    codes = torch.arange(16, dtype=torch.uint8)
    kinds = {k: codes.bool() if k == "bool" else codes.view(getattr(torch, k)) for k in KINDS}
    saved = {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "kinds": kinds,
        "strided": torch.arange(12.0).reshape(3, 4).T,
        "view": torch.arange(100.0)[10:20],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "tuple": (torch.ones(2), [1, "x"]),
        "step": 7,
        "text": "ünï",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is one process
        dcp.save(saved, checkpoint_id=tmp_path / "c")
    found = tk.load(tmp_path / "c", framework="torch", verify=True)
    for name in kinds:
        assert found["kinds"][name].dtype == kinds[name].dtype
        same = found["kinds"][name].view(torch.uint8) == kinds[name].view(torch.uint8)
        assert bool(same.all())
    saved["optimizer"]["state"] = {str(k): v for k, v in saved["optimizer"]["state"].items()}
    for part in (found, saved):
        del part["kinds"]
    assert_equal_states(found, saved)


_RANK = """
    import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.checkpoint.state_dict import get_state_dict
    rank, folder = int(sys.argv[1]), sys.argv[2]
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": state}, checkpoint_id=f"{folder}/c")
    if rank == 0:
        torch.save(plain, f"{folder}/plain.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # all is written; torch's own threads abort some interpreters' exits
"""


def test_two_processes_that_shard_a_model(torch: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_RANK)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    ended = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], ended
    found = tk.load(tmp_path / "c", framework="torch", verify=True)
    for name, value in torch.load(tmp_path / "plain.pt").items():
        assert torch.equal(found["model"][name], value)
        moment = found["optim"]["state"][name]["exp_avg"]
        assert moment.shape == value.shape
    with tk.open(tmp_path / "c") as state:
        assert state.remarks["model.0.weight"] == "in 2 chunks"
    tk.convert(tmp_path / "c", tmp_path / "whole.pt")
    again = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert torch.equal(again["model"]["2.weight"], found["model"]["2.weight"])
