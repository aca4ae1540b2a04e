from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.models.editing.networks import convolutional, encoded, info, proto_of, state_of
from tests.models.editing.probe import probe

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, MismatchError, MissingError
from tensorkeep.graph import KINDS
from tensorkeep.models.editing import attach, merge, strip
from tensorkeep.models.opening import graph_of


def _arrays() -> dict[str, Any]:
    return {name: tensor.numpy() * 2 for name, tensor in state_of(convolutional()).items()}


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pt"])
def test_tensors_of_any_format_go_in(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    tk.save(_arrays(), path)
    with merge(state_of(convolutional()), path) as merged:
        for name, array in _arrays().items():
            np.testing.assert_array_equal(merged[name].numpy(), array)
        assert (
            graph_of(merged).model.graph.node
            == graph_of(state_of(convolutional())).model.graph.node
        )


def test_names_may_differ(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    tk.save({f"net.{name}": array for name, array in _arrays().items()}, path)
    merged = merge(state_of(convolutional()), path, rename={"net.*": "*"})
    assert merged["fc.b"].numpy().tolist() == _arrays()["fc.b"].tolist()
    with pytest.raises(ArgumentError, match="matches no tensor"):
        merge(state_of(convolutional()), path, rename={"x.*": "*"})


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state, path = state_of(convolutional()), tmp_path / "w.npz"

    def save(**changes: Any) -> None:
        arrays = {**_arrays(), **{k.replace("_", "."): v for k, v in changes.items()}}
        tk.save({k: v for k, v in arrays.items() if v is not None}, path)

    save(fc_b=np.zeros(11, "f4"))
    with pytest.raises(MismatchError, match=r"fc.b is float32 \(11,\), in the model .* \(10,\)"):
        merge(state, path)
    save(fc_b=np.zeros(10, "f8"))
    with pytest.raises(MismatchError, match=r"fc.b is float64"):
        merge(state, path, partial=True)
    save(other=np.zeros(1))
    with pytest.raises(MismatchError, match="the model has no other"):
        merge(state, path)
    save(fc_b=None)
    with pytest.raises(MismatchError, match=r"the weights have no fc.b"):
        merge(state, path)
    assert len(merge(state, path, partial=True)) == len(state)
    tk.save({"strange": np.zeros(1)}, path)
    with pytest.raises(MismatchError, match="none of the weights"):
        merge(state, path, partial=True)


@pytest.mark.parametrize("threshold", [1, "1KiB"])
def test_strip_and_attach_gives_the_same_bytes(tmp_path: Path, threshold: Any) -> None:
    for data in (convolutional().SerializeToString(), probe(), _listed()):
        state = state_of(data)
        bare = strip(state, threshold=threshold)
        assert list(bare) == list(state)
        assert encoded(attach(bare, state)) == data
        path = tmp_path / "bare.onnx"
        tk.save(bare, path)
        assert encoded(attach(path, state)) == data


def _listed() -> bytes:
    """A model of all types whose values stand in lists, as older exporters wrote them."""
    graph = onnx.GraphProto(name="g")
    values = {n: [1.0, 0.0, 1.0, 1.0] for n, kind in KINDS.items() if kind.name != "string"}
    for number, numbers in values.items():
        if number in (27, 28):
            continue  # which the library cannot list yet
        row = helper.make_tensor(f"t{number}", number, [4], numbers)
        assert not row.raw_data
        graph.initializer.append(row)
    graph.node.append(helper.make_node("Identity", ["t1"], ["y"]))
    graph.output.append(info("y", 4))
    return bytes(helper.make_model(graph, ir_version=13).SerializeToString())


def test_tensors_without_data_say_so(tmp_path: Path) -> None:
    bare = strip(state_of(convolutional()))
    assert bare.remarks["fc.w"] == "no data"
    assert bare["fc.w"].shape == (128, 10)
    with pytest.raises(MissingError, match="holds no data"):
        bare["fc.w"].numpy()


def test_attach_wants_all_that_is_missing() -> None:
    state = state_of(convolutional())
    bare = strip(state, threshold=1)
    some = tk.State({"fc.w": state["fc.w"]})
    with pytest.raises(MismatchError, match="the weights have no"):
        attach(bare, some)
    filled = attach(bare, some, partial=True)
    assert filled["fc.w"].numpy().any()
    more = tk.State({**dict(state.items()), "more": state["fc.b"]})
    with pytest.raises(MismatchError, match="the model has no more"):
        attach(bare, more)
    proto_of(attach(bare, state))
