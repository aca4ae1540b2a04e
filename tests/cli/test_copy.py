from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import Run
from tests.servers.buckets import Server

import tensorkeep as tk


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    tk.save({"w": np.ones(1000), "b": np.zeros(10)}, path)
    return path


def test_copy(run: Run, weights: Path, tmp_path: Path) -> None:
    ran = run("copy", weights, f"{tmp_path}/new/")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{tmp_path}/new/a.safetensors: 1 file, 8.46 kB copied\n"
    ran = run("copy", weights, tmp_path / "new")
    assert ran.out.endswith("1 file, 0 B copied, 8.46 kB there already\n")
    ran = run("copy", weights, tmp_path / "new", "--json")
    (file,) = json.loads(ran.out)["files"]
    assert file == {
        "name": "a.safetensors",
        "transferred": 0,
        "shared": 0,
        "skipped": weights.stat().st_size,
    }


def test_a_dry_run(run: Run, weights: Path, tmp_path: Path) -> None:
    ran = run("copy", "--dry-run", weights, tmp_path / "b.safetensors")
    assert ran.out.splitlines()[1].split() == ["b.safetensors", "8.46", "kB", "copied"]
    assert not (tmp_path / "b.safetensors").exists()


def test_other_content(run: Run, weights: Path, tmp_path: Path) -> None:
    tk.save({"w": np.ones(3)}, tmp_path / "b.safetensors")
    ran = run("copy", weights, tmp_path / "b.safetensors")
    assert ran.code == 2
    assert "is there already, with other content" in ran.err
    assert "--overwrite" in ran.err
    assert run("copy", weights, tmp_path / "b.safetensors", "--overwrite").code == 0
    assert (tmp_path / "b.safetensors").read_bytes() == weights.read_bytes()


def test_damage(run: Run, weights: Path, tmp_path: Path) -> None:
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ran = run("copy", weights, tmp_path / "b.safetensors")
    assert ran.code == 2
    assert "the tensor 'w' is damaged" in ran.err
    assert not (tmp_path / "b.safetensors").exists()
    assert run("copy", weights, tmp_path / "b.safetensors", "--no-verify").code == 0


def test_a_run_to_a_bucket(
    run: Run, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    with tk.Checkpointer(tmp_path / "run") as ck:
        ck.save(1, {"w": np.ones(1000)})
        ck.save(2, {"w": np.zeros(1000)})
    ran = run("copy", tmp_path / "run", bucket.url("backup"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{bucket.url('backup')}: 2 checkpoints, ")
    assert tk.verify(bucket.url("backup/step-00000002")).ok
