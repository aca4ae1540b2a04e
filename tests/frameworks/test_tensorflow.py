"""TensorFlow tensors and variables go through a file as NumPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import UnsupportedError

pytestmark = pytest.mark.frameworks

DTYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("int4", "uint4", "float8_e5m2", "float8_e4m3fn"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_goes_through_numpy(tensorflow: Any, path: Path, name: str) -> None:
    kind = tk.dtype(name)
    codes = np.arange(12 * kind.numpy.itemsize, dtype=np.uint8) % np.uint8(2)
    tensor = tensorflow.constant(codes.view(kind.numpy).reshape(3, 4))
    assert tensor.dtype.name == name
    tk.save({"w": tensor.numpy()}, path)
    again = tensorflow.constant(tk.load(path)["w"])
    assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
    assert again.numpy().tobytes() == tensor.numpy().tobytes()


def test_variables_take_what_was_loaded(tensorflow: Any, path: Path) -> None:
    dense = [tensorflow.Variable(np.full((2, 2), i, np.float32)) for i in range(3)]
    tk.save([v.numpy() for v in dense], path)
    for variable in dense:
        variable.assign_add(variable + 1)
    for variable, value in zip(dense, tk.load(path), strict=True):
        variable.assign(value)
    assert [v.numpy().tolist() for v in dense] == [[[i, i], [i, i]] for i in range(3)]
    assert [v.tolist() for v in tk.load(path)] == [[[i, i], [i, i]] for i in range(3)]


@pytest.mark.parametrize("kind", ["constant", "Variable"])
def test_its_own_arrays_are_refused_with_a_cure(tensorflow: Any, path: Path, kind: str) -> None:
    value = getattr(tensorflow, kind)([1.0, 2.0])
    with pytest.raises(UnsupportedError, match=r"^a\.1: is a tensorflow\..*Keep its \.numpy\(\)"):
        tk.save({"a": [1, value]}, path)
    assert not path.exists()


def test_what_is_more_than_an_array_is_refused(tensorflow: Any, path: Path) -> None:
    sparse = tensorflow.sparse.from_dense(np.eye(2))
    ragged = tensorflow.ragged.constant([[1], [2, 3]])
    for value in (sparse, ragged):
        with pytest.raises(UnsupportedError, match=r"^a: is a tensorflow\."):
            tk.save({"a": value}, path)

    def inside(x: Any) -> Any:
        with pytest.raises(UnsupportedError, match=r"^a: is a tensorflow\."):
            tk.save({"a": x}, path)
        return x

    tensorflow.function(inside)(tensorflow.constant(1.0))
    assert not path.exists()
