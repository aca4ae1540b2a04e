from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.viewer.asking import Client
from tests.viewer.runs_made import make_run

import tensorkeep as tk
from tensorkeep.viewer.server import Server, serve

Serving = Callable[..., Client]


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Give what serves some things until the end of the test."""
    servers: list[Server] = []

    def start(*targets: Any, **options: Any) -> Client:
        servers.append(serve(targets, **options))
        return Client(servers[-1])

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file of two tensors, metadata and a nesting."""
    path = tmp_path / "model.safetensors"
    nesting = {
        "encoder": {"w": np.arange(12, dtype="float32").reshape(3, 4), "b": np.zeros(3)},
        "step": 7,
    }
    tk.save(nesting, path, metadata={"by": "us", "epoch": 3})
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Give a folder of three checkpoints."""
    folder = tmp_path / "run"
    with tk.Checkpointer(folder, rng=False) as checkpointer:
        for step in (100, 200, 300):
            checkpointer.save(step, {"w": np.full((2, 3), step, "float32")})
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of two real trainings: "damaged" at step 11, and "diverging"."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "damaged", damaged=11)
    make_run(folder / "diverging", diverging=True)
    return folder
