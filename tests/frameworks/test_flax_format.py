"""Files that Flax writes, and what Flax reads of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states

pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module")
def serialization() -> Any:
    return pytest.importorskip("flax.serialization", reason="Flax (flax) is not installed")


def saved(value: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.msgpack"))
    return store.data["a.msgpack"]


STATE: dict[str, Any] = {
    "bf": np.ones(3, ml_dtypes.bfloat16),
    "c": 1 + 2j,
    "empty": np.zeros((0, 3)),
    "f8": np.ones(3, ml_dtypes.float8_e4m3fn),
    "i4": np.arange(-3, 4).astype(ml_dtypes.int4),
    "layer": {"b": np.arange(3), "w": np.arange(6, dtype="f4").reshape(2, 3)},
    "none": None,
    "on": True,
    "raw": b"abc" * 500,
    "scalar": np.float32(2.5),
    "step": 2**40,
    "text": "ü" * 40,
    "zero": np.array(1.5),
}


def test_the_bytes_are_those_of_flax(serialization: Any) -> None:
    assert saved(STATE) == serialization.to_bytes(STATE)
    assert saved(STATE) == serialization.msgpack_serialize(STATE)
    lists = {"l": [np.ones(2), 3]}
    assert saved(lists) == serialization.msgpack_serialize(lists)
    assert_equal_states(serialization.msgpack_restore(saved(STATE)), STATE)
    assert_equal_states(serialization.from_bytes(STATE, saved(STATE)), STATE)


def test_what_flax_writes_is_read(serialization: Any, tmp_path: Path) -> None:
    state = STATE | {"l": [np.ones(2), (np.zeros(3), 4)]}
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(state))
    listed = {"0": np.ones(2), "1": {"0": np.zeros(3), "1": 4}}
    assert_equal_states(tk.load(tmp_path / "a.msgpack"), STATE | {"l": listed})


def test_jax_arrays(serialization: Any, jax: Any) -> None:
    import jax.numpy as jnp

    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    assert saved(dict(sorted(params.items()))) == serialization.msgpack_serialize(params)
    store = MemoryStore({"a.msgpack": saved(params)})
    found = tk.load(Location(store, "a.msgpack"), framework="jax")
    assert isinstance(found["w"], jax.Array)
    restored = serialization.from_bytes(params, saved(params))
    assert np.array_equal(restored["w"], params["w"])


def test_chunks(serialization: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorkeep.formats.flax import writing

    monkeypatch.setattr(writing, "_LARGEST", 1000)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 1000)
    state = {"big": np.arange(5000.0).reshape(50, 100), "small": np.ones(125)}
    assert saved(state) == serialization.to_bytes({k: v.copy() for k, v in state.items()})
    assert_equal_states(serialization.msgpack_restore(saved(state)), state)
    store = MemoryStore({"a": serialization.msgpack_serialize(state)})
    assert_equal_states(tk.load(Location(store, "a")), state)


def test_a_train_state(serialization: Any, tmp_path: Path) -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    params = {"dense": {"kernel": np.ones((4, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    state = {"params": params, "opt": optax.adam(1e-3).init(params), "step": 3}
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(state))
    found = tk.load(tmp_path / "a.msgpack")
    assert found["step"] == 3
    assert found["opt"]["0"]["mu"]["dense"]["kernel"].shape == (4, 3)
    tk.save(found, tmp_path / "b.msgpack")
    assert (tmp_path / "b.msgpack").read_bytes() == (tmp_path / "a.msgpack").read_bytes()
    again = serialization.from_bytes(state, (tmp_path / "b.msgpack").read_bytes())
    assert type(again["opt"]) is type(state["opt"])
