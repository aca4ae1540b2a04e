"""Architectures: a model as JSON, with its weights beside it, in it, or left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.onnx_cases import node_cases

import tensorkeep as tk
from tensorkeep import models
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.formats.onnx.architecture import from_json, to_json
from tensorkeep.graph import Graph, fill_tensor
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message

WRITTEN_BY_HAND = {
    "tensorkeep": "architecture",
    "version": 1,
    "ir_version": 8,
    "opsets": {"": 17},
    "graph": {
        "name": "net",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 2]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 3]}],
        "weights": {
            "w": {"dtype": "float32", "shape": [2, 3], "values": [1, 2, 3, 4, 5, 6]},
            "b": {"dtype": "float32", "shape": [3], "values": [0.5, 0, -0.5]},
        },
        "nodes": [
            {
                "op": "Gemm",
                "inputs": ["x", "w", "b"],
                "outputs": ["y"],
                "attributes": {"alpha": 2.0, "transB": 0},
            }
        ],
    },
    "hyperparameters": {"layers": 1, "rate": 0.1},
}


def _network() -> tk.State:
    generator = np.random.default_rng(0)
    x = models.input("x", "float32", ["N", 40])
    w = models.initializer(generator.normal(size=(40, 30)).astype(np.float32), "w")
    shape = models.initializer(np.array([-1, 5, 6]), "shape")
    y = models.node("Reshape", models.node("MatMul", x, w), shape)
    return models.model({"y": y}, name="net")


def _as_raw(message: Message) -> Message:
    graph = Graph(message).copy()
    for place in graph.places().values():
        fill_tensor(place.message, graph.read(place))
    return graph.model


def test_what_is_written_by_hand_runs(tmp_path: Path) -> None:
    path = tmp_path / "net.arch.json"
    path.write_text(json.dumps(WRITTEN_BY_HAND), encoding="utf-8")
    with tk.open(path) as state:
        assert state.metadata["hyperparameters"] == {"layers": 1, "rate": 0.1}
        assert not models.check(state)
    y = tk.run(path, {"x": np.ones((2, 2), np.float32)})["y"]
    np.testing.assert_array_equal(y, [[10.5, 14, 17.5]] * 2)


@pytest.mark.parametrize("case", node_cases()[::23], ids=lambda case: case.name)
def test_models_come_back_whole(case: Any) -> None:
    model = _as_raw(Message.parse(MODEL, case.model.SerializeToString()))
    words = json.loads(json.dumps(to_json(model)))
    assert from_json(words, "here").encode() == model.encode()
    assert "more" not in words


def test_odd_things_are_kept_under_more() -> None:
    model = Message(MODEL, ir_version=10, producer_name="p")
    graph = model.make("graph", name="g", doc_string="d")
    node = graph.add("node", op_type="If", input=["c"], output=["y"], domain="d.e")
    node.add("metadata_props", key="k", value="v")
    body = Message(graph.schema, name="inner")
    body.add("node", op_type="Identity", input=["x"], output=["y"])
    node.add("attribute", name="then", type=5, g=body)
    node.add("attribute", name="empty", type=7)
    node.add("attribute", name="linked", type=2, ref_attr_name="outer")
    node.add("attribute", name="raw", type=3, s=b"\xff\x00")
    node.add("attribute", name="huge", type=1, f=float("inf"))
    node.add("attribute", name="mixed", type=6, floats=[1.5, float("nan")])
    graph.add("input", name="s").make("type").make("sequence_type")
    graph.add("quantization_annotation", tensor_name="x")
    model.add("functions", name="f", domain="d.e")
    model.add("opset_import", version=9)
    words = json.loads(json.dumps(to_json(model)))
    back = from_json(words, "here")
    assert set(words["more"]) == {"functions", "opsetImport"}
    # NaN has one spelling in text, and is not equal to itself.
    assert back.encode() == model.encode()


def test_weights_lie_beside_it_in_it_or_nowhere(tmp_path: Path) -> None:
    state = _network()
    path = tmp_path / "net.arch.json"
    tk.save(state, path, metadata={"author": "me"})
    beside = tmp_path / "net.arch.safetensors"
    np.testing.assert_array_equal(tk.load(beside)["w"], state["w"].numpy())
    words = json.loads(path.read_text())["graph"]["weights"]
    assert words["w"]["file"] == beside.name
    assert words["shape"]["values"] == [-1, 5, 6]
    with tk.open(path) as again:
        np.testing.assert_array_equal(again["w"].numpy(), state["w"].numpy())
        assert again.metadata["author"] == "me"
        tk.save(again, tmp_path / "back.onnx")
    assert tk.diff(path, tmp_path / "back.onnx").equal

    tk.save(state, tmp_path / "bare.arch.json", tensors=False)
    assert [p.name for p in tmp_path.glob("bare*")] == ["bare.arch.json"]
    with tk.open(tmp_path / "bare.arch.json") as bare:
        assert bare["w"].shape == (40, 30)
        with pytest.raises(MissingError, match="holds no data"):
            bare["w"].numpy()
        filled = models.attach(bare, beside, partial=True)
        x = np.ones((1, 40), np.float32)
        np.testing.assert_array_equal(tk.run(filled, x)["y"], tk.run(state, x)["y"])


def test_it_is_saved_in_place(tmp_path: Path) -> None:
    path = tmp_path / "net.arch.json"
    for _ in range(2):
        tk.save(_network(), path)
        with tk.open(path) as state:
            assert state["w"].numpy().shape == (40, 30)
    with tk.open(path) as state:
        tk.save(state, path)
    np.testing.assert_array_equal(tk.load(path)["w"], _network()["w"].numpy())


def test_hyperparameters_are_words_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "net.arch.json"
    tk.save(_network(), path, metadata={"hyperparameters": {"rate": 0.1, "sizes": [3, 4]}})
    assert json.loads(path.read_text())["hyperparameters"] == {"rate": 0.1, "sizes": [3, 4]}
    with tk.open(path) as state:
        assert state.metadata["hyperparameters"] == {"rate": 0.1, "sizes": [3, 4]}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("version",), 2, "version 2"),
        (("graph",), [], "not an object"),
        (("graph", "nodes", 0, "op"), 3, "operator"),
        (("graph", "nodes", 0, "inputs"), "x", "not a list"),
        (("graph", "nodes", 0, "kind"), 1, "not known here: 'kind'"),
        (("graph", "nodes", 0, "attributes", "alpha"), True, "no attribute is"),
        (("graph", "nodes", 0, "attributes", "alpha"), [1, "a"], "no attribute is"),
        (("graph", "nodes", 0, "attributes", "alpha"), 1 << 80, ""),
        (("graph", "inputs", 0, "dtype"), "float33", "no element type"),
        (("graph", "inputs", 0, "shape"), [1.5], "no size, name or null"),
        (("graph", "weights", "w", "shape"), [2, 4], "takes 32 bytes, not 24"),
        (("graph", "weights", "w", "shape"), [-1], "its shape is"),
        (("graph", "weights", "w", "values"), ["a"] * 6, "not all numbers"),
        (("graph", "weights", "w", "raw"), "%%", "base64"),
        (("graph", "nodes", 0, "attributes", "alpha"), 1e39, r"json: graph.* is no float"),
        (("graph", "nodes", 0, "attributes", "alpha"), [1, 1e39], "is no float"),
        (("graph", "weights", "w", "values"), [1e39] * 6, "too large for float32"),
        (("hyperparameters",), math.inf, "hyperparameters: "),
        (("opsets",), 17, "to be an object"),
        (("opsets",), {"": "a"}, ""),
        (("ir_version",), "new", ""),
        (("more",), {"nothing": 1}, ""),
    ],
)
def test_wrong_words_are_told(tmp_path: Path, path: tuple[Any, ...], value: Any, told: str) -> None:
    words = json.loads(json.dumps(WRITTEN_BY_HAND))
    place = words
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file = tmp_path / "net.arch.json"
    text = json.dumps(words).replace("Infinity", "1e999")
    file.write_text(text, encoding="utf-8")
    with pytest.raises((CorruptError, UnsupportedError), match=told or "net.arch.json"):
        tk.open(file)


def test_any_damage_is_told_or_harmless(tmp_path: Path) -> None:
    text = json.dumps(WRITTEN_BY_HAND)
    generator = np.random.default_rng(1)
    file = tmp_path / "net.arch.json"
    for _ in range(400):
        letters = list(text)
        for _ in range(generator.integers(1, 4)):
            at = int(generator.integers(len(letters)))
            letters[at : at + int(generator.integers(3))] = generator.choice(list('{}[]",:0-e'))
        file.write_text("".join(letters), encoding="utf-8")
        try:
            with tk.open(file) as state:
                for tensor in state.values():
                    tensor.read()
        except TensorKeepError:
            pass


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="tensors cannot be"):
        tk.save(_network(), tmp_path / "net.arch.json", tensors="")
    (tmp_path / "mine.safetensors").write_bytes(b"precious")
    with pytest.raises(ArgumentError, match="is there already"):
        tk.save(_network(), tmp_path / "net.arch.json", tensors="mine.safetensors")
    assert (tmp_path / "mine.safetensors").read_bytes() == b"precious"


def test_files_outside_its_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    folder = tmp_path / "in"
    folder.mkdir()
    words = json.loads(json.dumps(WRITTEN_BY_HAND))
    words["graph"]["weights"]["w"] = {
        "dtype": "float32",
        "shape": [2, 3],
        "file": "../secret.bin",
        "offset": 0,
        "length": 24,
    }
    (folder / "net.arch.json").write_text(json.dumps(words), encoding="utf-8")
    with pytest.raises(TensorKeepError, match="secret"):
        tk.open(folder / "net.arch.json")


def test_saved_over_itself_it_leaves_no_file_behind(tmp_path: Path) -> None:
    state, path = _network(), tmp_path / "net.arch.json"
    tk.save(state, path)
    for threshold, files in (("1KiB", 2), ("1KiB", 2), ("1GiB", 1)):
        tk.convert(path, path, threshold=threshold)
        assert len(list(tmp_path.iterdir())) == files
        np.testing.assert_array_equal(tk.load(path)["w"], state["w"].numpy())
    tk.save(state, path)
    tk.convert(path, path, tensors=False)  # what is not written is not removed either
    assert {found.name for found in tmp_path.iterdir()} == {path.name, "net.arch.safetensors"}


def test_the_largest_float_and_what_cannot_be_written(tmp_path: Path) -> None:
    path, words = tmp_path / "net.arch.json", json.loads(json.dumps(WRITTEN_BY_HAND))
    words["graph"]["nodes"][0]["attributes"] = {"alpha": 3.4028235e38}
    path.write_text(json.dumps(words), encoding="utf-8")
    with tk.open(path) as state:
        assert state.graph is not None
        assert state.graph.model.graph.node[0].attribute[0].f == np.finfo(np.float32).max
        state.metadata["hyperparameters"] = {"rate": math.nan}
        with pytest.raises(UnsupportedError, match="cannot be written as JSON"):
            tk.save(state, path)


@pytest.mark.parametrize("depth", [33, 34, 150])
def test_graphs_within_graphs(tmp_path: Path, depth: int) -> None:
    graph: dict[str, Any] = {"nodes": []}
    for _ in range(depth):
        attributes = {"then_branch": {"graph": graph}}
        graph = {"nodes": [{"op": "If", "outputs": ["y"], "attributes": attributes}]}
    words = {**WRITTEN_BY_HAND, "graph": graph}
    path = tmp_path / "net.arch.json"
    path.write_text(json.dumps(words), encoding="utf-8")
    if depth > 33:
        with pytest.raises(CorruptError, match="graphs nest too deeply"):
            tk.open(path)
    else:
        tk.convert(path, tmp_path / "net.onnx")
        assert tk.diff(path, tmp_path / "net.onnx").equal
