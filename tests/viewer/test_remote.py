"""The viewer over files and runs in a bucket, and files of a web server."""

from __future__ import annotations

import numpy as np
import pytest
from tests.servers import FileServer, Server
from tests.stores.objects import read, store_of
from tests.viewer.conftest import Serving

import tensorkeep as tk


@pytest.fixture
def address(s3: Server, monkeypatch: pytest.MonkeyPatch, http: FileServer) -> str:
    """Give where a file and a run are; the file is at the web server, too."""
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    tk.save({"w": np.arange(6.0).reshape(2, 3)}, bucket.url("a.safetensors"))
    http.files["a.safetensors"] = read(store_of(bucket), "a.safetensors") or b""
    with tk.Checkpointer(bucket.url("run"), rng=False) as checkpointer:
        for step in (100, 200):
            checkpointer.save(step, {"w": np.full((2, 3), step, "float32")})
    return bucket.url("")


def test_files_and_a_run(serving: Serving, address: str, http: FileServer) -> None:
    base = address.rstrip("/")
    targets = [
        f"{base}/a.safetensors",
        f"{base}/run",
        f"{base}/run/step-00000100",
        http.url("a.safetensors"),
        tk.remote(f"{base}/run"),
        http.url("none.safetensors"),
    ]
    client = serving(*targets)
    things = client.api("things").json["things"]
    assert [thing["kind"] for thing in things] == ["state", "run", "state", "state", "run", ""]
    assert [thing["name"] for thing in things[:4]] == [
        "a.safetensors",
        "run",
        "step-00000100",
        "a.safetensors",
    ]
    assert things[1]["steps"] == 2
    for id in ("0", "3"):
        assert client.api(f"things/{id}/tensors/0/window").binary[1].tolist() == list(range(6))
    for id in ("1@200", "4@200"):
        assert client.api(f"things/{id}/tensors/0/window").binary[1].tolist() == [200] * 6
    assert [step["step"] for step in client.api("runs/1").json["steps"]] == [100, 200]
    assert client.job("runs/4/verify?step=100")["result"]["sound"]
