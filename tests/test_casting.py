from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.casting import cast
from tensorkeep.dtypes import DTYPES
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor

FLOATS = [kind for kind in DTYPES.values() if kind.kind == "float"]
floats = st.sampled_from(FLOATS)


@given(floats, floats, st.integers(0, 70), st.integers(0, 70))
def test_casting_is_what_numpy_does(given: object, to: object, count: int, start: int) -> None:
    values = np.random.default_rng(count).normal(size=count).astype(np.float32)
    source = Tensor.of(values.astype(given.numpy))  # type: ignore[attr-defined]
    made = cast(source, to)  # type: ignore[arg-type]
    try:
        expected = source.numpy().astype(to.numpy)  # type: ignore[attr-defined]
    except TypeError:
        expected = source.numpy().astype(np.float32).astype(to.numpy)  # type: ignore[attr-defined]
    assert made.dtype is to
    assert made.numpy().tobytes() == expected.tobytes()
    assert made[start:].tobytes() == expected[start:].tobytes()
    state = State({"w": source})
    location = Location(MemoryStore(), "a.npz")
    tk.save(state, location)
    loaded = tk.load(location, dtype=to.name)
    assert loaded["w"].tobytes() == expected.tobytes()


def test_what_does_not_fit_becomes_infinite() -> None:
    made = cast(Tensor.of(np.array([1e30, -1e30, 1.0])), DTYPES["float16"])
    assert made.numpy().tolist() == [np.inf, -np.inf, 1.0]


def test_only_what_is_read_is_cast() -> None:
    made = cast(Tensor.of(np.arange(1 << 20, dtype=np.float64)), DTYPES["float32"])
    assert made.source.read(4 * 1000 + 1, 4 * 1000 + 3) == np.float32(1000).tobytes()[1:3]
    assert b"".join(made.pieces(999)) == np.arange(1 << 20, dtype=np.float32).tobytes()


def test_packed_types_are_read_in_pieces() -> None:
    values = np.arange(1001) % 7
    for name in ("float4_e2m1fn", "float6_e2m3fn"):
        made = cast(Tensor.of(values.astype(np.float32)), DTYPES[name])
        whole = Tensor.of(values.astype(DTYPES[name].numpy))
        assert b"".join(made.pieces(97)) == bytes(whole.source.read(0, whole.nbytes))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="casts to a floating-point type, not to int8"):
        cast(Tensor.of(np.zeros(2)), DTYPES["int8"])
