from __future__ import annotations

import importlib.util
import io
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from fractions import Fraction
from pathlib import Path
from typing import Any

import joblib
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.errors import (
    CorruptError,
    LossError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, assert_equal_states, states

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
PADDLE = Path(__file__).parents[1] / "data" / "paddle"


def at(data: bytes, key: str = "a.pkl") -> Location:
    return Location(MemoryStore({key: data}), key)


def dumped(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    joblib.dump(value, out, **options)
    return out.getvalue()


LARGE = np.arange(9000, dtype=np.float32).reshape(90, 100)
VALUE: dict[str, Any] = {
    "small": np.arange(6.0).reshape(2, 3),
    "large": LARGE,
    "again": [LARGE],
    "fortran": np.asfortranarray(LARGE),
    "swapped": LARGE.astype(">f4"),
    "both": np.asfortranarray(LARGE.astype(">i2")),
    "bfloat16": LARGE.astype(ml_dtypes.bfloat16),
    "bool": LARGE > 3,
    "empty": np.zeros((0, 3), np.int8),
    "text": np.array(["abc", "d"] * 4000),
    "short text": np.array([b"abc", b"d"]),
    "scalar": np.float32(2.5),
    "bytes": b"x" * 50_000,
    "bytearray": bytearray(b"y" * 50_000),
    "long text": "z" * 50_000,
    "containers": [(), {1, 2}, frozenset([3]), deque([1], 2), Counter("aab"), range(3)],
    "dicts": [OrderedDict([(1, 2)]), defaultdict(list, {"a": [1]}), {(1, "a"): None}],
    "numbers": [1, -(2**70), 1.5, True, None, 1 + 2j],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol(protocol: int) -> None:
    data = pickle.dumps(VALUE, protocol)
    assert formats.detect(at(data, "a.bin")).name == "pickle"
    assert_equal_states(tk.load(at(data)), VALUE)


@given(value=states())
def test_any_nesting(value: Any) -> None:
    assert_equal_states(tk.load(at(pickle.dumps([value]))), [value])


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_large_arrays_are_windows_on_the_file(protocol: int) -> None:
    store = CountingStore(MemoryStore({"a.pkl": pickle.dumps([LARGE] * 3 + [LARGE + 1], protocol)}))
    with tk.open(Location(store, "a.pkl")) as state:
        assert list(state) == ["0", "3"]
        assert store.bytes_read < 20_000
        before = store.bytes_read
        assert np.array_equal(state["3"][7], LARGE[7] + 1)
        assert store.bytes_read - before == LARGE[7].nbytes


def test_a_map_of_the_file_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": LARGE}))
    with tk.open(tmp_path / "a.pkl") as state:
        assert state["w"].source.mapped
    loaded = tk.load(tmp_path / "a.pkl")
    loaded["w"][:] = 0
    assert_equal_states(tk.load(tmp_path / "a.pkl"), {"w": LARGE})


def test_converting(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(VALUE))
    assert tk.convert(tmp_path / "a.pkl", tmp_path / "a.safetensors") == []
    assert_equal_states(tk.load(tmp_path / "a.safetensors"), VALUE)


# --- joblib -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_joblib(protocol: int) -> None:
    value = {k: v for k, v in VALUE.items() if k != "again"} | {"last": np.ones(3)}
    data = dumped(value, protocol=protocol)
    assert_equal_states(tk.load(at(data, "a.joblib")), value)
    with tk.open(at(data)) as state:
        assert state["large"].offset % 16 == 0


def test_joblib_leaves_arrays_in_the_file() -> None:
    store = CountingStore(MemoryStore({"a": dumped([LARGE, LARGE + 1])}))
    with tk.open(Location(store, "a")) as state:
        assert store.bytes_read < 20_000
        assert np.array_equal(state["1"].numpy(), LARGE + 1)


@pytest.mark.parametrize("method", ["zlib", "gzip", "bz2", "lzma", "xz"])
def test_compressed_joblib_is_refused(method: str) -> None:
    with pytest.raises(TensorKeepError, match="compressed"):
        tk.load(at(dumped(VALUE["small"], compress=(method, 3)), "a.joblib"))


def test_joblib_of_objects_is_refused() -> None:
    data = dumped({"o": np.array([1, "x"], object), "w": np.ones(2)})
    with pytest.raises(TensorKeepError):
        tk.load(at(data))


# --- what is no data ----------------------------------------------------------------------------


class Model:
    def __init__(self) -> None:
        self.weights = LARGE
        self.rate = 0.125


def test_objects_are_refused_by_name_and_their_data_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": Model(), "half": Fraction(1, 2)}))
    with tk.open(tmp_path / "a.pkl") as state:
        assert any("test_pickle.Model" in told for told in state.refused)
        assert any("fractions.Fraction" in told for told in state.refused)
        assert np.array_equal(state["model.weights"].numpy(), LARGE)
    with pytest.raises(UnsafeError, match=r"fractions\.Fraction"):
        tk.load(tmp_path / "a.pkl")
    with pytest.raises(LossError, match=r"fractions\.Fraction"):
        tk.convert(tmp_path / "a.pkl", tmp_path / "a.npz")
    assert_equal_states(tk.load(tmp_path / "a.pkl", names="*"), {"model.weights": LARGE})
    assert tk.convert(tmp_path / "a.pkl", tmp_path / "a.npz", lossy=True)
    assert np.array_equal(tk.load(tmp_path / "a.npz")["model"]["weights"], LARGE)


def test_arrays_that_hold_no_numbers() -> None:
    for array in (np.array([1, None], object), np.array(["2020"], "M8[D]"), np.zeros(1, "i4,f4")):
        with pytest.raises(TensorKeepError):
            tk.load(at(pickle.dumps({"a": array})))


def test_several_pickles_in_a_file() -> None:
    with pytest.raises(UnsupportedError, match="bytes follow its pickle"):
        tk.load(at(pickle.dumps(1) + pickle.dumps(2)))


def test_acceptance() -> None:
    for data in (pickle.dumps(VALUE), pickle.dumps([]), pickle.dumps(3), dumped(LARGE)):
        assert formats.detect(at(data, "x.bin")).name == "pickle"
    assert formats.detect(at(pickle.dumps([1], 0), "a.pkl")).name == "pickle"
    assert tk.load(at(pickle.dumps([1.5, "x"], 0))) == [1.5, "x"]
    assert tk.load(at(pickle.dumps([1.5, "x"], 1))) == [1.5, "x"]


# --- damage -------------------------------------------------------------------------------------

DAMAGED = {
    "protocol 2": pickle.dumps({"w": np.arange(3), "n": [1, "x"]}, 2),
    "protocol 5": pickle.dumps({"w": np.arange(3), "n": [1, "x"]}, 5),
    "joblib": dumped({"w": np.arange(3), "n": [1, "x"]}),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_every_truncation(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(TensorKeepError):
            tk.load(at(data[:length]))


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_every_flipped_bit(data: bytes) -> None:
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        try:
            tk.load(at(bytes(flipped)))
        except TensorKeepError:
            continue


def test_a_large_array_that_is_cut_short() -> None:
    data = pickle.dumps(LARGE, 4)
    with pytest.raises(CorruptError, match="a byte string of 36,000 bytes"):
        tk.load(at(data[:-100]))
    with pytest.raises(CorruptError, match="an array of 36,000 bytes starts at byte"):
        tk.load(at(dumped(LARGE)[:20_000]))


def test_a_shape_that_lies() -> None:
    data = pickle.dumps(np.zeros(20_000, np.uint8), 4)
    assert data.count(b"M\x20\x4e\x85") == 1
    with pytest.raises(CorruptError, match="20,000 bytes where its shape takes 20,001"):
        tk.load(at(data.replace(b"M\x20\x4e\x85", b"M\x21\x4e\x85")))


# --- Paddle -------------------------------------------------------------------------------------


def made() -> Any:
    spec = importlib.util.spec_from_file_location("make_paddle", PADDLE / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", ["state_dict", "protocol_2", "sliced"])
def test_paddle_state_dicts(file: str) -> None:
    arrays: dict[str, npt.NDArray[Any]] = made().ARRAYS
    loaded = tk.load(PADDLE / f"{file}.pdparams")
    assert_equal_states(dict(sorted(loaded.items())), dict(sorted(arrays.items())))
    with tk.open(PADDLE / f"{file}.pdparams") as state:
        assert state.metadata == {"StructuredToParameterName@@": made().NAMES}
        assert state.skeleton is None
        assert np.array_equal(state["linear.weight"][1:, 2], arrays["linear.weight"][1:, 2])


def test_paddle_tensors_in_a_nesting() -> None:
    arrays = made().ARRAYS
    assert_equal_states(
        tk.load(PADDLE / "nested.pdparams"),
        {
            "model": {"weight": arrays["linear.weight"]},
            "moments": [arrays["linear.bias"]],
            "lod": arrays["steps"],
            "epoch": 100,
            "LR_Scheduler": {"last_epoch": 3, "last_lr": 0.125},
        },
    )
    with tk.open(PADDLE / "nested.pdparams") as state:
        names = {"model.weight": "linear_0.w_0", "moments.0": "moment_0"}
        assert state.metadata == {"StructuredToParameterName@@": names}


class Evaluated:
    def __init__(self, text: str, names: dict[str, Any]) -> None:
        self.text, self.names = text, names

    def __reduce__(self) -> Any:
        return eval, (self.text, self.names)


@pytest.mark.parametrize(
    ("text", "names"),
    [("__import__('os').getcwd()", {"data": 1}), ("data", {"data": 1, "x": 2}), ("data", {})],
)
def test_only_what_paddle_evaluates_is_read(text: str, names: dict[str, Any]) -> None:
    with pytest.raises(TensorKeepError, match="would evaluate text as a program"):
        tk.load(at(pickle.dumps({"x": Evaluated(text, names)}), "a.pdparams"))


def test_slices_that_do_not_fit() -> None:
    module = made()
    saved = module.sliced()
    told = saved["UnpackBigParamInfor@@"]
    cases: list[tuple[Any, str]] = [
        ({**saved, "UnpackBigParamInfor@@": [1]}, "does not say which"),
        ({**saved, "UnpackBigParamInfor@@": {"w": {"slices": 3}}}, "does not say what 'w' is"),
        ({k: v for k, v in saved.items() if k != "linear.weight@@.0"}, "slice 'linear.weight@@.0'"),
        (
            {
                **saved,
                "UnpackBigParamInfor@@": {n: {**t, "OriginShape": (9,)} for n, t in told.items()},
            },
            r"do not make its shape \(9,\)",
        ),
    ]
    for value, problem in cases:
        with pytest.raises(CorruptError, match=problem):
            tk.load(at(pickle.dumps(value, 3), "a.pdparams"))
