"""JAX's containers, Flax's and Optax's among them, are kept by their fields and come back whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import MismatchError

pytestmark = pytest.mark.frameworks


def optional(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture
def checkpointer(tmp_path: Path) -> Any:
    with tk.Checkpointer(tmp_path) as made:
        yield made


def same(jax: Any, left: Any, right: Any) -> bool:
    def bits(value: Any) -> tuple[str, bytes]:
        kind = getattr(value, "dtype", None)
        if kind is not None and jax.dtypes.issubdtype(kind, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        return str(np.asarray(value).dtype), np.asarray(value).tobytes()

    rows = [list(map(bits, jax.tree.leaves(value))) for value in (left, right)]
    return rows[0] == rows[1]


def make(jax: Any, kind: str) -> dict[str, Any]:
    """Give the state of a training, by Optax alone or with Flax's TrainState."""
    optax = optional("optax")
    params = {"w": jax.numpy.full((4, 2), 0.1), "b": jax.numpy.zeros(2)}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    key = jax.random.key(3)
    if kind == "optax":
        return {"params": params, "opt": tx.init(params), "key": key}
    trees = optional("flax.training.train_state")
    return {"train": trees.TrainState.create(apply_fn=apply, params=params, tx=tx), "key": key}


def apply(params: Any, x: Any) -> Any:
    return x @ params["w"] + params["b"]


def step(jax: Any, kind: str, state: dict[str, Any]) -> dict[str, Any]:
    optax = optional("optax")
    key, sub = jax.random.split(state["key"])
    x = jax.random.normal(sub, (3, 4))

    def loss(params: Any) -> Any:
        return ((apply(params, x) - 1) ** 2).mean()

    if kind != "optax":
        train = state["train"]
        update = jax.jit(lambda t: t.apply_gradients(grads=jax.grad(loss)(t.params)))
        return {"train": update(train), "key": key}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    updates, opt = tx.update(jax.grad(loss)(state["params"]), state["opt"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "opt": opt, "key": key}


@pytest.mark.parametrize("kind", ["optax", "flax"])
def test_a_training_ends_as_if_never_stopped(jax: Any, checkpointer: Any, kind: str) -> None:
    state = make(jax, kind)
    for _ in range(3):
        state = step(jax, kind, state)
    checkpointer.save(3, state)
    for _ in range(3):
        state = step(jax, kind, state)
    restored = checkpointer.restore(like=make(jax, kind)).state
    assert [type(value) for value in restored.values()] == [type(v) for v in state.values()]
    for _ in range(3):
        restored = step(jax, kind, restored)
    assert same(jax, restored, state)


def test_it_comes_back_as_dicts_without_an_example(jax: Any, checkpointer: Any) -> None:
    checkpointer.save(1, make(jax, "flax"))
    found = checkpointer.restore().state
    assert set(found["train"]) == {"step", "params", "opt_state"}
    assert np.asarray(found["key"]["threefry2x32"]).tolist() == [0, 3]


def test_frozen_dicts_and_dataclasses_keep_their_kind(jax: Any, checkpointer: Any) -> None:
    flax = optional("flax")
    optional("flax.struct")

    class Fields:
        mean: Any
        name: str = flax.struct.field(pytree_node=False, default="a")

    carry: Any = flax.struct.dataclass(Fields)

    @jax.tree_util.register_dataclass
    @dataclass
    class Plain:
        count: Any
        rest: list[Any]

    def build(value: float) -> dict[str, Any]:
        ones = jax.numpy.full(2, value)
        frozen = flax.core.freeze({"a": {"b": ones}})
        return {"frozen": frozen, "carry": carry(ones), "plain": Plain(ones, [ones * 2, 3])}

    checkpointer.save(1, build(1.0))
    found = checkpointer.restore(like=build(0.0)).state
    assert [type(v) for v in found.values()] == [type(flax.core.freeze({})), carry, Plain]
    assert found["carry"].name == "a"
    assert found["plain"].rest[1] == 3
    assert same(jax, found, build(1.0))


def test_modules_of_nnx_go_on(jax: Any, checkpointer: Any) -> None:
    nnx, optax = optional("flax.nnx"), optional("optax")

    base: Any = nnx.Module

    class Model(base):  # type: ignore[misc]
        def __init__(self, rngs: Any) -> None:
            self.layer = nnx.Linear(2, 3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def build(seed: int) -> tuple[Any, Any]:
        model = Model(nnx.Rngs(seed))
        return model, nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    def train(model: Any, optimizer: Any) -> None:
        x = jax.numpy.ones((4, 2))
        grads = nnx.grad(lambda m: (m.dropout(m.layer(x)) ** 2).sum())(model)
        optimizer.update(model, grads)

    first = build(0)
    train(*first)
    checkpointer.save(1, {"model": nnx.state(first[0]), "optimizer": nnx.state(first[1])})
    train(*first)
    second = build(9)
    like = {"model": nnx.state(second[0]), "optimizer": nnx.state(second[1])}
    found = checkpointer.restore(like=like).state
    for part, name in zip(second, like, strict=True):
        nnx.update(part, found[name])
    train(*second)
    assert same(jax, nnx.state(second[0]), nnx.state(first[0]))


def test_a_key_of_another_kind_does_not_fit(jax: Any, checkpointer: Any) -> None:
    checkpointer.save(1, {"key": jax.random.key(1)})
    with pytest.raises(MismatchError, match=r"key\.rbg"):
        checkpointer.restore(like={"key": jax.random.key(1, impl="rbg")})


def test_a_container_that_differs_is_refused(jax: Any, checkpointer: Any) -> None:
    checkpointer.save(1, {"train": 3, "key": jax.random.key(1)})
    with pytest.raises(MismatchError, match="a int was saved"):
        checkpointer.restore(like=make(jax, "flax"))
