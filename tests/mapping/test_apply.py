from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import frameworks
from tensorkeep.mapping import Mapped, apply, merge, parts, read_map, renaming
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten


def state(value: Any, **more: Any) -> State:
    tensors, skeleton = flatten(value, frameworks.to_array)
    return State(tensors, skeleton=skeleton, **more)


def no_cast(tensor: Tensor, dtype: tk.DType) -> Tensor:
    raise AssertionError("nothing was to be cast")


def mapped(given: State, rules: Any = (), **options: Any) -> Mapped:
    return apply(given, rules, cast=no_cast, **options)


W = np.arange(6, dtype=np.float32).reshape(2, 3)
NESTED = {"model": {"enc": {"w": W, "b": W[0]}, "dec": {"w": W + 1}}, "step": 3, "lr": [0.1]}


def test_choosing() -> None:
    taken = mapped(state(NESTED), include=["model.*"], exclude=["*.dec.*"])
    assert list(taken.state) == ["model.enc.w", "model.enc.b"]
    assert taken.lost == []
    assert taken.state.skeleton is None


def test_values_that_are_no_tensors_are_told() -> None:
    assert mapped(state(NESTED)).lost == ["its values that are no tensors: step, lr.0"]


def test_renaming_is_one_rule_after_the_other() -> None:
    rules = renaming([("model.*", "*"), ("enc.*", "encoder.*"), ("*.w", "*.weight")])
    assert list(mapped(state(NESTED), rules).state) == ["encoder.weight", "encoder.b", "dec.weight"]


def test_patterns_that_match_nothing() -> None:
    for options in ({"include": ["x.*"]}, {"exclude": ["x.*"]}):
        with pytest.raises(KeyError, match=r"no tensor called 'x.\*'.*It has model.enc.w"):
            mapped(state(NESTED), **options)
    with pytest.raises(KeyError, match=r"no tensor is called like 'x.\*'"):
        mapped(state(NESTED), renaming({"x.*": "*"}))
    with pytest.raises(KeyError, match="none of the rules is for any of its tensors"):
        mapped(state({"w": W}), read_map("gpt2-linear"))


def test_two_tensors_of_one_name() -> None:
    with pytest.raises(ValueError, match="two tensors would be called 'w'"):
        mapped(state(NESTED), renaming({"re:.*(w)": r"\1"}))


def test_tied_tensors_stay_tied_under_both_names() -> None:
    given = state({"emb": {"w": W}, "head": {"w": W}})
    assert len(given) == 1
    made = mapped(given, renaming({"head.*": "lm.*"})).state
    assert list(made) == ["emb.w"]
    assert made.skeleton == {"tree": {"emb.w": "$:emb.w", "lm.w": "$:emb.w"}}


def test_digests_follow_a_tensor_and_leave_one_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    tk.save({"a": W, "b": W * 2}, tmp_path / "m.safetensors")
    tk.save({"a": W, "b": W * 2}, path)
    for file in (path, tmp_path / "m.safetensors"):
        with tk.open(file) as given:
            stored = given.digests or given.checks
            rules = [*renaming({"a": "x"}), *read_map(transposing(tmp_path))]
            made = mapped(given, rules).state
            assert (made.digests or made.checks)["x"] == stored["a"]
            assert "b" not in made.digests
            assert np.array_equal(made["b"].numpy(), (W * 2).T)
            made.checks["b"]()  # of what it was made of


def test_damage_is_found_before_a_tensor_is_laid_out_anew(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tk.save({"b": W}, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with tk.open(path) as given:
        made = mapped(given, read_map(transposing(tmp_path))).state
        with pytest.raises(ValueError, match="the tensor 'b' is damaged"):
            made.checks["b"]()


def transposing(folder: Path) -> str:
    file = folder / "t.toml"
    file.write_text("tensorkeep-map = 1\n[[rule]]\nfrom = 'b'\naxes = [1, 0]\n")
    return str(file)


def from_text(folder: Path, text: str) -> Any:
    (folder / "m.toml").write_text(f"tensorkeep-map = 1\n{text}")
    return read_map(str(folder / "m.toml"))


def test_joining_and_splitting(tmp_path: Path) -> None:
    layers = {str(i): {"q": W + i, "k": W + 10 * i, "v": W * i} for i in range(3)}
    given = state({"h": layers, "w": W})
    join = from_text(tmp_path, "[[rule]]\nfrom = ['*.q', '*.k', '*.v']\nto = '*.qkv'\njoin = 0\n")
    made = mapped(given, join).state
    assert list(made) == ["h.0.qkv", "h.1.qkv", "h.2.qkv", "w"]
    assert np.array_equal(made["h.2.qkv"].numpy(), np.concatenate([W + 2, W + 20, W * 2]))
    split = from_text(tmp_path, "[[rule]]\nfrom = '*.qkv'\nto = ['*.q', '*.k', '*.v']\nsplit = 0\n")
    again = mapped(made, split).state
    assert list(again) == list(given)
    for name in given:
        assert np.array_equal(again[name].numpy(), given[name].numpy())
    with pytest.raises(ValueError, match=r"joins 3 tensors, but there is only h.1.q, h.1.k"):
        mapped(given, join, exclude=["h.1.v"])


def test_dropping_is_told(tmp_path: Path) -> None:
    drop = from_text(tmp_path, "[[rule]]\nfrom = '*.b'\ndrop = true\n")
    made = mapped(state({"x": {"w": W, "b": W[0]}}), drop)
    assert list(made.state) == ["x.w"]
    assert made.lost == [f"left out by {tmp_path}/m.toml: rule 1: x.b"]


def test_keras_and_torch_there_and_back() -> None:
    layers = {
        "dense.kernel": np.random.default_rng(0).random((4, 8)),
        "dense.bias": np.zeros(8),
        "conv.kernel": np.random.default_rng(1).random((3, 3, 2, 5)),
        "conv1.kernel": np.random.default_rng(2).random((3, 2, 5)),
        "conv3.kernel": np.random.default_rng(3).random((2, 3, 4, 2, 5)),
        "bn.gamma": np.ones(5),
        "bn.beta": np.zeros(5),
        "bn.moving_mean": np.zeros(5),
        "bn.moving_variance": np.ones(5),
        "embedding.embeddings": np.ones((7, 3)),
    }
    given = state(layers)
    there = mapped(given, read_map("keras-torch")).state
    assert {name: there[name].shape for name in there} == {
        "dense.weight": (8, 4),
        "dense.bias": (8,),
        "conv.weight": (5, 2, 3, 3),
        "conv1.weight": (5, 2, 3),
        "conv3.weight": (5, 2, 2, 3, 4),
        "bn.weight": (5,),
        "bn.bias": (5,),
        "bn.running_mean": (5,),
        "bn.running_var": (5,),
        "embedding.weight": (7, 3),
    }
    back = mapped(there, read_map("torch-keras")).state
    assert list(back) == list(layers)
    for name, array in layers.items():
        assert np.array_equal(back[name].numpy(), array), name


def test_keras_3_counts_its_variables() -> None:
    rng = np.random.default_rng(0)
    layers: dict[str, Any] = {
        "layers.dense.vars.0": rng.random((4, 8)),
        "layers.dense.vars.1": rng.random(8),
        "layers.dense_1.vars.0": rng.random((8, 2)),
        "layers.conv2d.vars.0": rng.random((3, 3, 2, 5)),
        "layers.conv2d.vars.1": rng.random(5),
        "layers.depthwise_conv2d.vars.0": rng.random((3, 3, 5, 2)),
        "layers.batch_normalization.vars.0": rng.random(5),
        "layers.batch_normalization.vars.1": rng.random(5),
        "layers.batch_normalization.vars.2": rng.random(5),
        "layers.batch_normalization.vars.3": rng.random(5),
        "layers.layer_normalization.vars.0": rng.random(5),
        "layers.layer_normalization.vars.1": rng.random(5),
        "layers.embedding.vars.0": rng.random((7, 3)),
        "layers.mha.query_dense.vars.0": rng.random((6, 2, 3)),
        "layers.mha.query_dense.vars.1": rng.random((2, 3)),
        "layers.mha.output_dense.vars.0": rng.random((2, 3, 6)),
        "layers.mha.output_dense.vars.1": rng.random(6),
        "layers.dropout.seed_generator.vars.0": np.zeros(2, np.uint32),
    }
    made = mapped(state(layers), read_map("keras-torch"))
    assert {name: made.state[name].shape for name in made.state} == {
        "layers.dense.weight": (8, 4),
        "layers.dense.bias": (8,),
        "layers.dense_1.weight": (2, 8),
        "layers.conv2d.weight": (5, 2, 3, 3),
        "layers.conv2d.bias": (5,),
        "layers.depthwise_conv2d.weight": (10, 1, 3, 3),
        "layers.batch_normalization.weight": (5,),
        "layers.batch_normalization.bias": (5,),
        "layers.batch_normalization.running_mean": (5,),
        "layers.batch_normalization.running_var": (5,),
        "layers.layer_normalization.weight": (5,),
        "layers.layer_normalization.bias": (5,),
        "layers.embedding.weight": (7, 3),
        "layers.mha.query.weight": (6, 6),
        "layers.mha.query.bias": (6,),
        "layers.mha.attention_output.weight": (6, 6),
        "layers.mha.attention_output.bias": (6,),
    }
    assert len(made.lost) == 1
    query = layers["layers.mha.query_dense.vars.0"].reshape(6, 6).T
    assert np.array_equal(made.state["layers.mha.query.weight"].numpy(), query)
    output = layers["layers.mha.output_dense.vars.0"].reshape(6, 6).T
    assert np.array_equal(made.state["layers.mha.attention_output.weight"].numpy(), output)


@pytest.mark.parametrize(
    ("map_name", "old", "new"),
    [
        ("plain", "module._orig_mod.layer.w", "layer.w"),
        ("plain", "net.module.w", "net.w"),
        ("huggingface-plain", "bert.encoder.LayerNorm.gamma", "encoder.LayerNorm.weight"),
        ("huggingface-plain", "model.layers.0.w", "layers.0.w"),
    ],
)
def test_prefixes(map_name: str, old: str, new: str) -> None:
    assert list(mapped(state({old: W}), read_map(map_name)).state) == [new]


def test_merging() -> None:
    a = state({"w": W, "tied": W}, metadata={"epoch": 3, "name": "a"}, where="a")
    b = state({"w": W * 2, "step": 4}, metadata={"epoch": 3, "name": "b"}, where="b")
    with pytest.raises(ValueError, match=r"both a and b have a tensor called 'w'.*prefix"):
        merge([a, b])
    with pytest.raises(ValueError, match="1 prefixes for 2 files"):
        merge([a, b], ["x"])
    made, lost = merge([a, b], ["x", "y"])
    assert list(made) == ["x.w", "y.w"]
    assert made.skeleton == {"tree": {"x.w": "$:x.w", "x.tied": "$:x.w", "y.w": "$:y.w"}}
    assert made.metadata == {"epoch": 3, "name": "a"}
    assert lost == ["step of b, which is no tensor", "the metadata 'name' of b, which differs"]
    assert list(merge([a, b], ["", "y"]).state) == ["w", "y.w"]


def test_splitting_by_the_first_part_of_names() -> None:
    found = parts(mapped(state(NESTED), include=["model.*"]).state)
    assert list(found) == ["model"]
    found = parts(state({"a": {"w": W}, "b": {"w": W}, "c": W * 2}))
    assert {part: list(made) for part, made in found.items()} == {
        "a": ["a.w"],
        "b": ["b.w"],
        "c": ["c"],
    }
