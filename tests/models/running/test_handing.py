"""How weights reach ONNX Runtime: from files, from memory, and never in one large message."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.models.running.making import model, plainly, save, tensor, value

import tensorkeep as tk
from tensorkeep.errors import CorruptError, MissingError, UnsafeError, UnsupportedError
from tensorkeep.models.running import run, session
from tensorkeep.models.running.handing import MOST, hand_over

SIZE = 3000
W = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
X = np.ones(SIZE, np.float32)
VECTOR = value("x", (SIZE,))
RESULT = value("y", (SIZE,))


def _add(weight: Any = None, name: str = "w") -> Any:
    initializer = tensor(name, W) if weight is None else weight
    return model([helper.make_node("Add", ["x", name], ["y"])], [VECTOR], [RESULT], [initializer])


def _in_branch() -> Any:
    then = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["z"])],
        "then",
        [],
        [value("z", (SIZE,))],
        [tensor("w", W)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["q"])], "else", [], [value("q", (SIZE,))]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    return model([node], [VECTOR], [RESULT], [tensor("c", np.array(True))])


def _in_attribute() -> Any:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor("v", W)),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    return model(nodes, [VECTOR], [RESULT])


def _in_function() -> Any:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor("v", W)),
        helper.make_node("Add", ["a", "w"], ["b"]),
    ]
    function = helper.make_function(
        "own", "Shift", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]
    )
    node = helper.make_node("Shift", ["x"], ["y"], domain="own")
    return model([node], [VECTOR], [RESULT], functions=[function])


def _sparse() -> Any:
    made = _add()
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            tensor("w", W[:2000]), tensor("", np.arange(2000, dtype=np.int64)), [SIZE]
        )
    )
    del made.graph.initializer[:]
    return made


MODELS: dict[str, Callable[[], Any]] = {
    "initializer": _add,
    "branch": _in_branch,
    "attribute": _in_attribute,
    "function": _in_function,
    "sparse": _sparse,
}


@pytest.fixture(params=MODELS)
def made(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def test_one_file(made: Any, tmp_path: Path) -> None:
    expected = plainly(made, {"x": X})["y"]
    path = save(made, tmp_path / "m.onnx")
    for large in (0, 1000, 1 << 20):
        with session(path, large=large) as loaded:
            np.testing.assert_array_equal(loaded.run(X)["y"], expected)


def test_files_beside_it(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plainly(made, {"x": X})["y"]
    path = tmp_path / "m.onnx"
    with tk.open(save(made, tmp_path / "one.onnx")) as state:
        tk.save(state, path, external=True, threshold=1)
    assert path.stat().st_size < 2500
    assert (tmp_path / "m.onnx.data").exists()
    for place in (tmp_path, tmp_path.parent):
        monkeypatch.chdir(place)
        for large in (0, 1000, 1 << 20):
            with session(os.path.relpath(path), large=large) as loaded:
                np.testing.assert_array_equal(loaded.run(X)["y"], expected)


def test_from_memory(made: Any, tmp_path: Path) -> None:
    """From a text form, whose tensors are in no file."""
    expected = plainly(made, {"x": X})["y"]
    with tk.open(save(made, tmp_path / "one.onnx")) as state:
        tk.save(state, tmp_path / "m.onnx.json")
    with session(tmp_path / "m.onnx.json", large=1000) as loaded:
        np.testing.assert_array_equal(loaded.run(X)["y"], expected)


@pytest.mark.parametrize("ending", ["m.onnx", "m.onnx.json"])
def test_a_message_over_the_limit(made: Any, ending: str, tmp_path: Path) -> None:
    """What cannot be handed over in another way goes through a file of its own for a moment."""
    expected = plainly(made, {"x": X})["y"]
    with tk.open(save(made, tmp_path / "one.onnx")) as state:
        tk.save(state, tmp_path / ending)
    with session(tmp_path / ending, large=1000, most=2500) as loaded:
        np.testing.assert_array_equal(loaded.run(X)["y"], expected)
    with pytest.raises(UnsupportedError, match=r"would be a message of .* reads 100"):
        session(tmp_path / ending, large=1000, most=100)


def test_no_message_holds_large_tensors(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with tk.open(save(_add(), tmp_path / "one.onnx")) as state:
        tk.save(state, path, external=True)
    with tk.open(path) as state, hand_over(state, large=1000) as handed:
        assert len(handed.message) < 500
        assert not handed.arrays
        entries = {
            e.key: e.value
            for e in onnx.load_from_string(handed.message).graph.initializer[0].external_data
        }
    assert entries == {
        "location": os.path.realpath(path.with_name("m.onnx.data")).lstrip("/"),
        "offset": "0",
        "length": str(W.nbytes),
    }
    with tk.open(path) as state:
        fresh = state.replace(tensors={"w": tk.Tensor.of(W)})
        with hand_over(fresh, large=1000) as handed:
            assert len(handed.message) < 500
            assert np.shares_memory(handed.arrays["w"][0].view(np.float32), W)


def test_weights_stay_mapped_after_all_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with tk.open(save(_add(), tmp_path / "one.onnx")) as state:
        tk.save(state, path, external=True)
    with session(path, large=1000) as loaded:
        for file in tmp_path.iterdir():
            file.unlink()
        np.testing.assert_array_equal(loaded.run(X)["y"], X + W)


def test_a_file_that_was_replaced_is_not_read(tmp_path: Path) -> None:
    """What was opened is what is run, whatever its name means by now."""
    path = tmp_path / "m.onnx"
    with tk.open(save(_add(), tmp_path / "one.onnx")) as state:
        tk.save(state, path, external=True)
    with tk.open(path) as state:
        state["w"].read()
        (tmp_path / "new").write_bytes((-W).tobytes())
        os.replace(tmp_path / "new", tmp_path / "m.onnx.data")
        np.testing.assert_array_equal(run(state, X)["y"], X + W)
    with tk.open(path) as state:
        np.testing.assert_array_equal(run(state, X)["y"], X - W)


def test_links_to_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "model").mkdir()
    secret = tmp_path / "secret" / "w.bin"
    secret.write_bytes(W.tobytes())
    weight = tensor("w", W)
    _put_outside(weight, "w.bin")
    path = save(_add(weight), tmp_path / "model" / "m.onnx")
    for link in (os.symlink, os.link):
        link(secret, path.with_name("w.bin"))
        with pytest.raises(UnsafeError):
            run(path, X)
        path.with_name("w.bin").unlink()
    _entry(weight, "location").value = "../secret/w.bin"
    with pytest.raises(UnsafeError):
        run(save(_add(weight), path), X)
    _entry(weight, "location").value = os.fspath(secret)
    with pytest.raises(UnsafeError):
        run(save(_add(weight), path), X)


def test_files_that_are_missing_or_too_short(tmp_path: Path) -> None:
    weight = tensor("w", W)
    _put_outside(weight, "w.bin")
    path = save(_add(weight), tmp_path / "m.onnx")
    with pytest.raises(MissingError, match=r"w: is in 'w.bin': there is no such file"):
        run(path, X)
    (tmp_path / "w.bin").write_bytes(W.tobytes()[:-1])
    with pytest.raises(CorruptError, match="cut short"):
        run(path, X)
    bare = TensorProto(name="w", data_type=1, dims=[SIZE])
    with pytest.raises(MissingError, match="holds no data"):
        run(save(_add(bare), path), X)


@pytest.mark.parametrize("shift", range(8))
def test_any_alignment(shift: int, tmp_path: Path) -> None:
    weight = tensor("w", W)
    _put_outside(weight, "w.bin", shift)
    (tmp_path / "w.bin").write_bytes(bytes(shift) + W.tobytes())
    path = save(_add(weight), tmp_path / "m.onnx")
    with tk.open(path) as state, hand_over(state, large=1000) as handed:
        assert bool(handed.arrays) == (shift % 4 != 0)
    with session(path, large=1000) as loaded:
        np.testing.assert_array_equal(loaded.run(X)["y"], X + W)


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize(
    "numpy",
    [
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.int4,
        np.float16,
        np.float64,
        np.int64,
        np.bool_,
    ],
)
def test_weights_of_any_type(numpy: Any, outside: bool, tmp_path: Path) -> None:
    weights = (np.arange(SIZE) % 7).astype(numpy)
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    made = model(nodes, [VECTOR], [RESULT], [tensor("w", weights)], opset=21)
    name = "m.onnx" if outside else "m.onnx.json"
    with tk.open(save(made, tmp_path / "one.onnx")) as state:
        options: dict[str, Any] = {"external": True} if outside else {}
        tk.save(state, tmp_path / name, **options)
    with session(tmp_path / name, large=1000) as loaded:
        np.testing.assert_array_equal(loaded.run(X)["y"], X + weights.astype(np.float32))


def test_fusions_still_see_the_weights(tmp_path: Path) -> None:
    """ONNX Runtime folds a BatchNormalization into the Conv before it."""
    rng = np.random.default_rng(0)
    shapes = {"w": (64, 64, 3, 3), "b": (64,), "s": (64,), "t": (64,), "m": (64,), "v": (64,)}
    tensors = [tensor(n, rng.random(s, np.float32)) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "s", "t", "m", "v"], ["y"]),
    ]
    made = model(nodes, [value("x", ("N", 64, 8, 8))], [value("y", ("N", 64, 6, 6))], tensors)
    x = rng.random((2, 64, 8, 8), np.float32)
    path = save(made, tmp_path / "m.onnx")
    for large in (0, 200, 64 << 10):
        with session(path, large=large) as loaded:
            np.testing.assert_array_equal(loaded.run(x)["y"], plainly(made, {"x": x})["y"])


@pytest.mark.slow
def test_a_model_beyond_the_limit_of_protobuf(tmp_path: Path) -> None:
    """Three tensors of 800 MB each, holes in a file, or one value that takes no memory."""
    rows = 200 << 20 >> 2 << 2
    weights = []
    for place, name in enumerate("abc"):
        weight = TensorProto(name=name, data_type=1, dims=[rows, 1])
        _put_outside(weight, "w.bin", place * 4 * rows, 4 * rows)
        weights.append(weight)
    nodes = [helper.make_node("Gather", [n, "i"], [f"{n}g"], axis=0) for n in "abc"]
    nodes.append(helper.make_node("Sum", ["ag", "bg", "cg"], ["y"]))
    indices_of = value("i", ("N",), TensorProto.INT64)
    made = model(nodes, [indices_of], [value("y", ("N", 1))], weights)
    path = save(made, tmp_path / "m.onnx")
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(12 * rows)
        for place in range(3):
            file.seek(place * 4 * rows + 4 * 1000)
            file.write(np.array([10.0**place], np.float32).tobytes())
    indices = np.array([1000, 0, rows - 1])
    with tk.open(path) as state:
        assert state.nbytes > MOST
        with session(state) as loaded:
            assert loaded.run(indices)["y"].reshape(-1).tolist() == [111, 0, 0]
        twos = tk.Tensor.of(np.broadcast_to(np.float32(2), (rows, 1)))
        with session(state.replace(tensors={**state, "b": twos})) as loaded:
            assert loaded.run(indices)["y"].reshape(-1).tolist() == [103, 2, 2]


def _put_outside(weight: Any, location: str, offset: int = 0, length: int | None = None) -> None:
    length = W.nbytes if length is None else length
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        weight.external_data.add(key=key, value=str(text))


def _entry(weight: Any, key: str) -> Any:
    return next(entry for entry in weight.external_data if entry.key == key)
