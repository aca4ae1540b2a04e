"""Files that PyTorch 1.13 wrote; see make_torch_1.py beside them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import dtypes

DATA = Path(__file__).parents[1] / "data" / "pytorch"
files = pytest.mark.parametrize("name", ["torch_1.pt", "torch_1_legacy.pt"])
BASE = np.arange(12, dtype=np.float32).reshape(3, 4)


@files
def test_a_training_state(name: str) -> None:
    found = tk.load(DATA / name)
    model = found["model"]
    assert type(model) is OrderedDict
    assert model["w"] is model["tied"]
    assert np.array_equal(model["w"], BASE)
    assert np.array_equal(model["t"], BASE.T)
    assert np.array_equal(model["row"], BASE[1])
    assert np.array_equal(model["wide"], [BASE[0]] * 2)
    assert np.array_equal(found["parameter"], np.zeros((2, 3)))
    (moments,) = found["optimizer"]["state"].values()
    assert np.array_equal(moments["momentum_buffer"], np.full((2, 3), 2.0))
    (group,) = found["optimizer"]["param_groups"]
    assert (group["lr"], group["params"], group["foreach"]) == (0.5, [0], None)
    assert (found["step"], found["name"], tuple(found["shape"])) == (7, "run", (2, 3))


@files
def test_every_type_of_then(name: str) -> None:
    types = tk.load(DATA / name)["types"]
    assert len(types) == 12
    for kind, array in types.items():
        expected = np.array([0, 1, 2]).astype(dtypes.dtype(kind).numpy)
        assert array.dtype == expected.dtype
        assert array.tobytes() == expected.tobytes()
    assert types["bfloat16"].dtype == ml_dtypes.bfloat16


@files
def test_sparse_and_quantized_tensors(name: str) -> None:
    found = tk.load(DATA / name)
    assert found["sparse"]["indices"].tolist() == [[0, 2], [1, 0]]
    assert found["sparse"]["values"].tolist() == [3, 4]
    assert tuple(found["sparse"]["size"]) == (3, 2)
    assert found["quantized"]["int_repr"].tolist() == [1, 2, 3]
    assert (found["quantized"]["scale"], found["quantized"]["zero_point"]) == (0.5, 1)


@files
def test_nothing_of_it_is_refused_or_lost(name: str, tmp_path: Path) -> None:
    with tk.open(DATA / name) as state:
        assert state.refused == ()
    assert tk.convert(DATA / name, tmp_path / "new.pt") == []
    assert tk.diff(DATA / name, tmp_path / "new.pt").equal
