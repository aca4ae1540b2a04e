"""A state and its graph stay together, whichever of the two was changed."""

from __future__ import annotations

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import State, Tensor, models
from tensorkeep.errors import ArgumentError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore


def network() -> State:
    x = models.input("x", "float32", ["N", 3])
    w = models.initializer(np.ones((3, 2), "float32"), "w")
    made: State = models.model({"y": models.node("MatMul", x, w)}, name="net")
    return made


def saved(state: State) -> State:
    location = Location(MemoryStore(), "m.onnx")
    tk.save(state, location)
    return tk.open(location)


def test_tensors_that_were_replaced_are_edited_saved_and_run() -> None:
    changed = network().replace(tensors={"w": Tensor.of(np.full((3, 2), 7, "float32"))})
    for state in (changed, models.rename(changed, {"x": "z"}), saved(changed)):
        assert state["w"].numpy().tolist() == [[7, 7]] * 3
        (name,) = (value.name for value in state.graph.inputs)  # type: ignore[union-attr]
        assert tk.run(state, {name: np.ones((1, 3), "float32")})["y"].tolist() == [[21, 21]]
    assert network()["w"].numpy().tolist() == [[1, 1]] * 3


def test_tensors_that_are_not_the_graphs_are_refused() -> None:
    net = network()
    for tensors in ({}, {"v": net["w"]}, {"w": net["w"], "v": net["w"]}):
        with pytest.raises(ArgumentError, match="not those that the model is made of"):
            saved(net.replace(tensors=tensors))
        with pytest.raises(ArgumentError, match="not those that the model is made of"):
            models.rename(net.replace(tensors=tensors), {"x": "z"})


def test_metadata_of_the_state_and_of_the_model_are_carried_on() -> None:
    net = models.set_metadata(network(), {"author": "someone", "note": "old"})
    changed = net.replace(
        metadata={**net.metadata, "note": "new", "epochs": 3, "tensorkeep": "mine"}
    )
    edited = models.set_metadata(models.rename(changed, {"x": "z"}), {"author": None})
    wanted = {"note": "new", "epochs": 3, "tensorkeep": "mine"}
    assert edited.metadata == wanted
    assert saved(edited).metadata == wanted


def test_a_model_without_tensors_keeps_what_it_was_made_from() -> None:
    x = models.input("x", "float32", [2])
    net = models.model({"y": models.node("Relu", x)}, name="net").replace(format="onnx-text")
    assert models.rename(net, {"x": "z"}).format == "onnx-text"
