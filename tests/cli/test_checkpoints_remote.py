"""`tensorkeep checkpoints` over a run in a bucket."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cli.running import Run
from tests.servers import Server

import tensorkeep as tk
from tensorkeep.stores.object import ObjectStore


@pytest.fixture
def address(s3: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    with tk.Checkpointer(bucket.url("run"), rng=False) as ck:
        for step in (100, 200, 300):
            ck.save(step, {"w": np.full(1000, step), "lr": 0.1}, metrics={"loss": 1 / step})
    return bucket.url("run")


def test_all_actions(run: Run, address: str, tmp_path: object) -> None:
    ran = run("checkpoints", address)
    assert (ran.code, ran.err) == (0, "")
    assert [row.split()[0] for row in ran.out.splitlines()] == ["STEP", "100", "200", "300"]
    ran = run("checkpoints", address, "verify", "200")
    assert (ran.code, ran.out.split()[:2]) == (0, ["ok", f"{address}/step-00000200:"])
    ran = run("checkpoints", address, "prune", "--keep", "last=1", "--dry-run")
    assert "2 checkpoints would be removed" in ran.out
    assert len(tk.checkpoints(address)) == 3
    ran = run("checkpoints", address, "prune", "--keep", "last=1")
    assert ran.code == 0
    assert [row.step for row in tk.checkpoints(address)] == [300]
    ran = run("checkpoints", address, "restore", "latest", "--to", f"{tmp_path}/w.npz")
    assert ran.code == 0
    assert tk.load(f"{tmp_path}/w.npz")["w"].tolist() == [300] * 1000
    ran = run("checkpoints", address, "repair")
    assert (ran.code, "all sound" in ran.out) == (0, True)
    store = ObjectStore(address)
    (key,) = (key for key in store.keys() if key.endswith(".safetensors"))
    store.replace(key, b"short")
    ran = run("checkpoints", address, "repair", "--dry-run")
    assert ran.code == 1
    assert "DAMAGED" in ran.out
    assert "is 5 bytes long" in ran.out


def test_a_step_is_no_run(run: Run, address: str) -> None:
    ran = run("checkpoints", f"{address}/step-00000100")
    assert ran.code == 2
    assert f"tensorkeep checkpoints {address} verify step-00000100" in ran.err


def test_two_are_compared(run: Run, address: str) -> None:
    ran = run("diff", f"{address}/step-00000100", f"{address}/step-00000300")
    assert ran.code == 1
    assert "w" in ran.out
