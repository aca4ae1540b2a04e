"""Children of test_distributed_jax: one process of JAX with forced CPU devices, or one of two."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest


def setup(devices: int) -> Any:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    return jax


def arrays(jax: Any, mesh: Any) -> dict[str, Any]:
    """Give arrays of many kinds, each sharded over the mesh in a way of its own."""
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as Spec

    def put(values: Any, *spec: Any) -> Any:
        values = np.asarray(values)
        sharding = NamedSharding(mesh, Spec(*spec))
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    rows = np.arange(64 * 16).reshape(64, 16)
    return {
        "rows": put(rows.astype(np.float32), "x"),
        "columns": put(rows.astype(jax.numpy.bfloat16), None, "y"),
        "grid": put(rows.astype(np.int16), "x", "y"),
        "both": put(rows.astype(np.int8), ("x", "y")),
        "replicated": put(rows.astype(np.float16)),
        "deep": put(rows.reshape(4, 8, 8, 4).astype(np.int32), None, "x", None, "y"),
        "bits": put(rows % 3 == 0, "y"),
        "scalar": put(np.float32(2.5)),
        "empty": put(np.zeros((0, 8), np.float32), None, "x"),
        "small": put(rows.astype(jax.numpy.int4), "x"),
    }


def expected(jax: Any) -> dict[str, Any]:
    import numpy as np

    rows = np.arange(64 * 16).reshape(64, 16)
    return {
        "rows": rows.astype(np.float32),
        "columns": rows.astype(jax.numpy.bfloat16),
        "grid": rows.astype(np.int16),
        "both": rows.astype(np.int8),
        "replicated": rows.astype(np.float16),
        "deep": rows.reshape(4, 8, 8, 4).astype(np.int32),
        "bits": rows % 3 == 0,
        "scalar": np.asarray(np.float32(2.5)),
        "empty": np.zeros((0, 8), np.float32),
        "small": rows.astype(jax.numpy.int4),
    }


def check(jax: Any, found: dict[str, Any]) -> None:
    import numpy as np

    for name, values in expected(jax).items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        for shard in found[name].addressable_shards:
            data = np.asarray(shard.data)
            assert data.tobytes() == np.ascontiguousarray(values[shard.index]).tobytes(), name


def tree(jax: Any, mesh: Any) -> dict[str, Any]:
    import numpy as np

    model = arrays(jax, mesh)
    return {
        "model": model,
        "tied": model["rows"],
        "again": jax.numpy.copy(model["rows"]),
        "step": 7,
        "host": np.arange(5),
        "local": jax.numpy.ones(3),
        "names": ["a", ("b", 2.5)],
    }


def other_meshes(jax: Any, count: int) -> list[Any]:
    shapes = [(1, 8), (8, 1), (2, 4), (4, 2)] if count == 8 else [(1, count), (count, 1)]
    return [jax.make_mesh(shape, ("x", "y")) for shape in shapes]


def one_process(folder: Path) -> None:
    jax = setup(8)
    import numpy as np
    from jax.sharding import NamedSharding, SingleDeviceSharding
    from jax.sharding import PartitionSpec as Spec

    import tensorkeep as tk
    from tensorkeep.distributed import jax as sharded
    from tensorkeep.formats.safetensors.manifest import read_manifest
    from tensorkeep.stores import locate
    from tensorkeep.testing import assert_equal_states

    mesh = jax.make_mesh((4, 2), ("x", "y"))
    state = tree(jax, mesh)
    sharded.save(state, folder / "step-7", metrics={"loss": 0.5}, metadata={"by": "me"})
    path = folder / "step-7"

    manifest = read_manifest(locate(folder / "step-00000007"))
    counts = {name: len(tensor.pieces) for name, tensor in manifest.sharded.items()}
    assert counts == {
        "model.rows": 4,
        "model.columns": 2,
        "model.grid": 8,
        "model.both": 8,
        "model.deep": 8,
        "model.bits": 2,
        "model.small": 4,
        "again": 4,
    }, counts
    assert manifest.sharded["model.both"].sharding == {
        "mesh": {"axes": ["x", "y"], "shape": [4, 2]},
        "spec": [["x", "y"]],
    }
    plain = tk.load(path, framework="numpy", verify=True)
    assert_equal_states(plain["model"], expected(jax))
    assert_equal_states(plain["tied"], expected(jax)["rows"])
    assert plain["names"] == ["a", ("b", 2.5)]
    check(jax, sharded.load(path)["model"])
    for other in other_meshes(jax, 8):
        found = sharded.load(path, mesh=other, verify=True)
        check(jax, found["model"])
        assert found["model"]["grid"].sharding == NamedSharding(other, Spec("x", "y"))
        assert found["step"] == 7

    other = jax.make_mesh((2, 2, 2), ("a", "b", "c"))
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(other, Spec("b"))),
        {k: v for k, v in state["model"].items() if k not in ("scalar", "empty")},
    )
    like = {
        "model": {**abstract, "scalar": NamedSharding(other, Spec()), "empty": None},
        "tied": None,
        "again": Spec("a", ("b", "c")),
        "step": 0,
        "host": np.zeros(5, int),
        "local": SingleDeviceSharding(jax.devices()[3]),
        "names": ["", ("", 0.0)],
    }
    found = sharded.load(path, like, mesh=other)
    check(jax, found["model"])
    assert found["tied"] is found["model"]["rows"]
    assert found["again"].sharding == NamedSharding(other, Spec("a", ("b", "c")))
    assert found["model"]["grid"].sharding.spec == Spec("b")
    assert found["local"].devices() == {jax.devices()[3]}
    assert (found["step"], found["host"].tolist()) == (7, [0, 1, 2, 3, 4])
    assert found["names"] == ["a", ("b", 2.5)]
    check(jax, sharded.load(path, jax.tree.map(lambda leaf: leaf, state))["model"])

    refused(jax, sharded, path, like, other)
    trained(jax, sharded, folder, mesh)
    with tk.Checkpointer(folder) as ck:
        restored = ck.restore()
        assert restored is not None
        assert restored.step == 8
    sys.stdout.write("fine")


def refused(jax: Any, sharded: Any, path: Path, like: Any, mesh: Any) -> None:
    from jax.sharding import PartitionSpec as Spec

    from tensorkeep.errors import ArgumentError, LossError, MismatchError, UnsupportedError

    changes: list[tuple[Any, Any, str]] = [
        ({"tied": jax.ShapeDtypeStruct((3,), "float32")}, MismatchError, "tied"),
        ({"tied": jax.ShapeDtypeStruct((64, 16), "int8")}, MismatchError, "tied"),
        ({"local": Spec("a")}, ArgumentError, "cannot lie so"),
        ({"more": Spec("a")}, MismatchError, "more"),
        ({"host": Spec()}, LossError, "narrow"),
    ]
    for change, kind, text in changes:
        with pytest.raises(kind, match=text):
            sharded.load(path, {**like, **change}, mesh=mesh)
    calls: list[tuple[Any, Any, str]] = [
        (lambda: sharded.load(path, {**like, "again": Spec("a")}), ArgumentError, "mesh"),
        (lambda: sharded.save({}, path.parent / "latest"), ArgumentError, "step-N"),
        (lambda: sharded.save({}, path), ArgumentError, "saved already"),
        (lambda: sharded.save({"a": object()}, path.parent / "step-9"), UnsupportedError, "a"),
    ]
    for call, kind, text in calls:
        with pytest.raises(kind, match=text):
            call()


def trained(jax: Any, sharded: Any, folder: Path, mesh: Any) -> None:
    """Save a training's state by Optax, and load it into an abstract one."""
    optax: Any = pytest.importorskip("optax")
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as Spec

    sharding = NamedSharding(mesh, Spec("x"))
    params = {"w": jax.device_put(jax.numpy.arange(32.0).reshape(8, 4), sharding)}
    state = {"params": params, "opt": optax.adam(1e-3).init(params), "key": jax.random.key(3)}
    sharded.save(state, folder / "step-8")
    found = sharded.load(folder / "step-8", state)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert found["opt"][0].mu["w"].sharding == state["opt"][0].mu["w"].sharding
    assert (jax.random.key_data(found["key"]) == jax.random.key_data(state["key"])).all()


def two_processes(folder: Path, rank: int, port: str) -> None:
    jax = setup(4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    assert len(jax.devices()) == 8
    from tensorkeep.distributed import jax as sharded
    from tensorkeep.errors import StoreError

    mesh = jax.make_mesh((4, 2), ("x", "y"))
    sharded.save(tree(jax, mesh), folder / "step-1", timeout=60)
    for other in (mesh, jax.make_mesh((2, 4), ("x", "y"))):
        check(jax, sharded.load(folder / "step-1", mesh=other)["model"])
    failed(sharded, jax, mesh, folder, rank)
    state = tree(jax, mesh)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        sharded.save(state, folder / "step-3", timeout=1)
    except StoreError as error:
        sys.stdout.write(str(error))
    sys.stdout.flush()
    os._exit(0)


def failed(sharded: Any, jax: Any, mesh: Any, folder: Path, rank: int) -> None:
    """Have process 1 fail alone: both hear of it, and nothing is there."""
    from tensorkeep.errors import TensorKeepError

    state = {"w": tree(jax, mesh)["model"]["rows"], "bad": object() if rank else 3}
    with pytest.raises(TensorKeepError, match="bad" if rank else "rank 1 failed: bad"):
        sharded.save(state, folder / "step-2", timeout=60)


if __name__ == "__main__":
    if sys.argv[1] == "one":
        one_process(Path(sys.argv[2]))
    else:
        two_processes(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
