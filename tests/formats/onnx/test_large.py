"""Models with large tensors: what is read of them, the memory that they take, and 2 GiB."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.formats.onnx import models

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError
from tensorkeep.formats.onnx import writing
from tensorkeep.source import Source
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing.faults import CountingStore

MIB = 1 << 20


def stack(count: int, size: int) -> bytes:
    """Make a model of some nodes and tensors of a number of float32."""
    tensors = [numpy_helper.from_array(np.full(size, i, np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("Add", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    return models.encode(helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)))


def test_opening_reads_the_structure() -> None:
    data = stack(50, 1 << 18)
    store = CountingStore(MemoryStore({"m.onnx": data}))
    with tk.open(Location(store, "m.onnx")) as state:
        assert len(state) == 50
        assert len(data) > 50 * MIB
        assert store.bytes_read < 200_000
        before = store.bytes_read
        assert state["w7"].numpy()[5] == 7
        assert store.bytes_read - before == 4 << 18
        before = store.bytes_read
        assert state["w9"][1000:1002].tolist() == [9, 9]
        assert store.bytes_read - before < 1000


def test_opening_does_not_read_files_beside_it(tmp_path: Path) -> None:
    with tk.open(models.at(stack(3, 1 << 18))) as state:
        store = MemoryStore()
        tk.save(state, Location(store, "m.onnx"), external=True)
    counting = CountingStore(store)
    with tk.open(Location(counting, "m.onnx")) as state:
        assert {key for key, _, _ in counting.ranges} == {"m.onnx"}
        assert state["w2"][5] == 2
        assert [key for key, _, _ in counting.ranges if key != "m.onnx"] == ["m.onnx.data"]


@pytest.mark.parametrize("external", [False, True])
def test_memory_is_flat(tmp_path: Path, external: bool) -> None:
    """A model of 128 MiB is saved, moved and re-saved with a few of them."""
    (tmp_path / "m.onnx").write_bytes(stack(16, 2 * MIB))
    tracemalloc.start()
    try:
        tk.convert(tmp_path / "m.onnx", tmp_path / "n.onnx", external=external, durable=False)
        with tk.open(tmp_path / "n.onnx") as state:
            tk.save(state, tmp_path / "o.onnx", external=not external, durable=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB
    for name in ("n.onnx", "o.onnx"):
        with tk.open(tmp_path / name) as state:
            assert state["w7"].numpy()[5] == 7


class _Zeros(Source):
    """Zeros that take no memory."""

    def _read(self, start: int, stop: int) -> memoryview:
        return memoryview(bytes(stop - start))


def large_state(nbytes: int, count: int = 3) -> tk.State:
    size = nbytes // 4 // count
    return tk.State(
        {f"w{i}": Tensor(dtypes.FLOAT32, (size,), _Zeros(4 * size, "zeros")) for i in range(count)}
    )


def test_the_limit_of_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would take more in one file goes into a second one by itself."""
    monkeypatch.setattr(writing, "LARGEST", MIB)
    state = large_state(2 * MIB)
    with pytest.raises(ArgumentError, match=r"would take 2,\d{3},\d{3} bytes in one file"):
        tk.save(state, tmp_path / "m.onnx", external=False)
    with pytest.raises(ArgumentError, match=r"without the tensors outside.*Lower the threshold"):
        tk.save(state, tmp_path / "m.onnx", external=True, threshold="1GiB")
    assert list(tmp_path.iterdir()) == []
    tk.save(state, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 10_000
    assert (tmp_path / "m.onnx.data").stat().st_size >= 2 * MIB - 12
    assert len(onnx.load(tmp_path / "m.onnx").graph.initializer) == 3
    tk.save(large_state(MIB // 2), tmp_path / "m.onnx")  # fits again
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.slow
def test_more_than_2_gib(tmp_path: Path) -> None:
    state = large_state(5 << 29, 5)
    tracemalloc.start()
    try:
        tk.save(state, tmp_path / "m.onnx", checksums=False, durable=False)
        with tk.open(tmp_path / "m.onnx") as found:
            assert found.nbytes > 2 << 30
            assert found["w4"][-1] == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB
    assert (tmp_path / "m.onnx").stat().st_size < 10_000
    onnx.checker.check_model(tmp_path / "m.onnx")


_CHILD = """
import sys, numpy as np, tensorkeep as tk
path, options = sys.argv[1], eval(sys.argv[2])
for step in range(1, 10**6):
    tk.save({"step": step, "w": np.full(200_000, step, np.int32)}, path, **options)
    print(step, flush=True)
"""
_OPTIONS = [
    "dict(external=True, durable=False)",
    "dict(external='w.data', durable=False)",
    "dict(external='m.onnx.safetensors', per_tensor=True)",
]


@pytest.mark.parametrize("number", range(6))
def test_a_kill_leaves_a_whole_model(tmp_path: Path, number: int) -> None:
    """Whatever instant it comes at: the model and its data file are of the same save."""
    draw, path, options = random.Random(number), tmp_path / "m.onnx", _OPTIONS[number % 3]
    command = [sys.executable, "-c", _CHILD, str(path), options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        announced = [child.stdout.readline()]
        time.sleep(draw.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        announced += child.stdout.read().splitlines()
    last = max(int(line) for line in announced if line.strip())
    found = tk.load(path, verify=True)
    assert found["step"] in (last, last + 1)
    assert (found["w"] == found["step"]).all()
    values = {t.name: t for t in onnx.load(path).graph.initializer}
    assert (numpy_helper.to_array(values["w"]) == found["step"]).all()
    tk.save({"step": 0, "w": np.zeros(2000, np.int32)}, path, **eval(options))
    assert tk.load(path, verify=True)["step"] == 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
