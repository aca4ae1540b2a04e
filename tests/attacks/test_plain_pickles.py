"""Plain pickles, Paddle's and joblib's, made to run code or to fill the memory."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore

KEYS = ["a.pkl", "a.pdparams", "a.joblib"]
LARGE = np.zeros(20_000, np.uint8)


def at(data: bytes, key: str = "a.pkl") -> Location:
    return Location(MemoryStore({key: data}), key)


class Call:
    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_runs(key: str, protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for call in (
        Call(os.mkdir, str(marker)),
        Call(subprocess.check_call, ["touch", str(marker)]),
        Call(exec, f"open({str(marker)!r}, 'w')"),
        Call(getattr, "os", "system"),
        Call(map, os.mkdir, [str(marker)]),
        Call(__import__, "antigravity"),
        Call(np.load, str(marker)),
        Call(np.memmap, str(marker), "uint8", "w+", 0, 10),
        Call(np.fromfile, "/etc/hostname", "uint8"),
        Call(joblib.load, str(marker)),
        Call(open, str(marker), "w"),
    ):
        data = pickle.dumps({"w": LARGE, "x": call}, protocol)
        with tk.open(at(data, key)) as state:
            assert any("'x' would need" in told for told in state.refused)
            assert np.array_equal(state["w"].numpy(), LARGE)
        with pytest.raises(UnsafeError, match="holds what is not data, and nothing that a file"):
            tk.load(at(data, key))
    assert not marker.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("key", KEYS)
def test_evaluating_is_refused(key: str, tmp_path: Path) -> None:
    data = pickle.dumps(Call(eval, f"open({str(tmp_path / 'ran')!r}, 'w')"))
    with pytest.raises(CorruptError, match="would evaluate text as a program"):
        tk.load(at(data, key))
    assert not (tmp_path / "ran").exists()


BOMBS = {
    "lists of lists": b"\x80\x02"
    b"]q\x00"
    + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(30))
    + b".",
    "a length beyond the file": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
    "a text beyond the file": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.",
    "a frame beyond the file": b"\x80\x04\x95" + b"\xff" * 8 + b"]",
    "a million marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
    "many lists": b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b".",
    "the same bytes a thousand times": (
        b"\x80\x03B"
        + (20_000).to_bytes(4, "little")
        + bytes(20_000)
        + b"q\x000"
        + b"("
        + b"cbuiltins\nbytearray\nh\x00\x85R" * 30_000
        + b"l."
    ),
    "a range beyond any": b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\n\x8a\x08"
    + b"\xff" * 7
    + b"\x7f\x85R\x85R.",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bombs(data: bytes) -> None:
    begin = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(TensorKeepError):
            tk.load(at(data))
        assert tracemalloc.get_traced_memory()[1] < 700 << 20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - begin < 30


# --- joblib -------------------------------------------------------------------------------------


def wrapped(**fields: Any) -> bytes:
    """What joblib writes for LARGE, with other fields."""
    from joblib.numpy_pickle import NumpyArrayWrapper

    told = {"shape": LARGE.shape, "order": "C", "dtype": LARGE.dtype, "subclass": np.ndarray}
    wrapper = NumpyArrayWrapper(np.ndarray, (1,), "C", LARGE.dtype)
    wrapper.__dict__ = told | {"allow_mmap": True, "numpy_array_alignment_bytes": 16} | fields
    return pickle.dumps(wrapper, 3)[:-1] + b"\x01\xff" + LARGE.tobytes() + b"."


def test_an_honest_wrapper() -> None:
    assert np.array_equal(tk.load(at(wrapped())), LARGE)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"shape": (2**50,)}, "an array of 1,125,899,906,842,624 bytes starts at"),
        ({"shape": (-1,)}, "without a shape"),
        ({"shape": [1]}, "without a shape"),
        ({"shape": (2**58, 2**58, 2**58)}, "bytes starts at"),
        ({"numpy_array_alignment_bytes": -1}, "aligns an array to -1"),
        ({"numpy_array_alignment_bytes": "x"}, "aligns an array to 'x'"),
        ({"numpy_array_alignment_bytes": 2**40}, "aligns an array to 1099511627776"),
        ({"dtype": None}, "NumPy array of no type"),
        ({"dtype": np.dtype("O")}, "a NumPy array of type 'O8'"),
        ({"subclass": np.matrix}, r"'?the whole'? is an array of the class numpy\.\S*matrix"),
    ],
)
def test_wrappers_that_lie(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(TensorKeepError, match=problem):
        tk.load(at(wrapped(**fields)))


def test_a_wrapper_that_is_filled_twice() -> None:
    out = io.BytesIO()
    joblib.dump(LARGE, out)
    data = out.getvalue()
    with pytest.raises(TensorKeepError):
        tk.load(at(data[:-1] + b"}b."))
    with pytest.raises(TensorKeepError):
        tk.load(at(b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81."))
    with pytest.raises(TensorKeepError):
        tk.load(at(b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81Nb."))


# --- byte strings that stay in the file, where they do not belong -------------------------------


SPAN = b"B" + (20_000).to_bytes(4, "little") + bytes(20_000)


@pytest.mark.parametrize(
    "data",
    [
        b"}" + SPAN + b"K\x01s.",  # a key
        b"cbuiltins\nset\n](" + SPAN + b"e\x85R.",
        b"(" + SPAN + b"\x91.",
        b"(" + SPAN + SPAN + b"\x93.",  # a name to import
        SPAN + b")R.",  # a function
        b"cbuiltins\nlist\n" + SPAN + b"R.",  # arguments
        b"cbuiltins\ndict\n" + SPAN + b"\x85R.",
        b"cbuiltins\ncomplex\n" + SPAN + b"\x85R.",
        b"]" + SPAN + b"b.",
        SPAN + b"]a.",
        SPAN + b"Q.",
    ],
)
def test_byte_strings_out_of_place(data: bytes) -> None:
    with pytest.raises(TensorKeepError):
        tk.load(at(b"\x80\x04" + data))


def test_byte_strings_as_arguments() -> None:
    found = tk.load(at(b"\x80\x04cbuiltins\nbytearray\n" + SPAN + b"\x85R."))
    assert found == bytearray(20_000)
