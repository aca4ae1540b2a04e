"""Every format of the table, against the public checks; a new one is covered by its row alone."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tensorkeep import api, dtypes, testing
from tensorkeep.format import Format
from tensorkeep.formats import FORMATS, WRITTEN
from tensorkeep.formats.table import ROWS, WHOLE_STORES
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor


def _cases() -> list[Any]:
    """Every format with its defaults, and without checksums where it can."""
    cases = []
    for name, format in WRITTEN.items():
        assert format.encode is not None
        cases.append(pytest.param(format, {}, id=name))
        if "checksums" in inspect.signature(format.encode).parameters:
            cases.append(pytest.param(format, {"checksums": False}, id=f"{name}-bare"))
    return cases


every = pytest.mark.parametrize(("format", "options"), _cases())
every_format = pytest.mark.parametrize("format", WRITTEN.values(), ids=WRITTEN)


@every
def test_every_type_and_shape_comes_back(format: Format, options: dict[str, Any]) -> None:
    testing.check_round_trip(format, **options)


@every
def test_equal_states_give_equal_bytes(format: Format, options: dict[str, Any]) -> None:
    testing.check_determinism(format, **options)


@every
def test_no_other_format_accepts_it(format: Format, options: dict[str, Any]) -> None:
    testing.check_acceptance(format, **options)


@every
def test_opening_reads_headers_only(format: Format, options: dict[str, Any]) -> None:
    if format.lazy:  # text is parsed whole
        testing.check_laziness(format, **options)
        testing.check_slices(format, **options)


@every
def test_truncations(format: Format, options: dict[str, Any]) -> None:
    assert testing.check_truncations(format, **options) > 50


@every
def test_bit_flips(format: Format, options: dict[str, Any]) -> None:
    assert testing.check_bit_flips(format, **options) > 400


DAMAGED = {
    "no tensors": {"step": 1000, "rate": 0.125, "name": "plain"},
    "nothing": {},
    "types the format has to note": {
        "c": np.ones(1, np.complex128),
        "s": np.array(["ab", "ü"]),
        "i": testing.sample(dtypes.INT4, (3,)).numpy(),
        "t": (np.float32(2.5), b"\0\xff"),
    },
    "tied": dict.fromkeys(("a", "b"), np.arange(3, dtype=np.int16)),
}


@every_format
@pytest.mark.parametrize("value", DAMAGED.values(), ids=DAMAGED)
def test_damage_to_other_states(format: Format, value: dict[str, Any]) -> None:
    if (fitted := testing.fitting(format, value)) is not None:
        testing.check_truncations(format, fitted)
        testing.check_bit_flips(format, fitted, every=7)


@every_format
def test_damage_to_metadata(format: Format) -> None:
    metadata = {"epoch": 3, "note": "ünï", "nested": {"a": [1.5, None, True]}}
    if "metadata" not in _losses(format, metadata):
        testing.check_truncations(format, metadata=metadata)
        testing.check_bit_flips(format, metadata=metadata, every=7)


def _losses(format: Format, metadata: dict[str, Any]) -> str:
    state = State({"w": Tensor.of(np.ones(1, np.float32))}, metadata=metadata)
    return "metadata" if format.losses(state) else ""


@every_format
def test_metadata_comes_back(format: Format) -> None:
    metadata = {"epoch": 3, "note": "ünï", "tensorkeep": "mine", "nested": {"a": [1.5, None, -0.0]}}
    if "metadata" in _losses(format, metadata):
        return
    files = testing.encoded(format, {"w": np.ones(2)}, metadata=metadata)
    with api.open(testing.placed(format, files)) as state:
        testing.assert_equal_states(state.metadata, metadata)


@every_format
@given(value=testing.states())
def test_any_nesting_comes_back(format: Format, value: Any) -> None:
    if (value := testing.fitting(format, value)) is None:
        return
    files = testing.encoded(format, value)
    location = testing.placed(format, files)
    testing.assert_equal_states(api.load(location), value)
    testing.assert_equal_states(api.load(location, copy=True), value)


@every_format
@given(array=testing.arrays())
def test_any_array_comes_back(format: Format, array: Any) -> None:
    for value in ({"a": array}, array):
        if (fitted := testing.fitting(format, value)) is not None:
            files = testing.encoded(format, fitted)
            found = api.load(testing.placed(format, files))
            testing.assert_equal_states(found, fitted)


_DIGEST = """
import hashlib, numpy as np
from tensorkeep import testing
from tensorkeep.formats import WRITTEN
for name, format in sorted(WRITTEN.items()):
    value = {f"{i}": np.arange(i, dtype="int16") for i in range(20)}
    value = testing.fitting(format, {"state": value, "set": ["x", {"y": 1}]}, value, value["7"])
    files = testing.encoded(format, value)
    print(name, {k: hashlib.sha256(data).hexdigest() for k, data in files.items()})
"""


def test_other_processes_give_the_same_bytes() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == len(WRITTEN)


def test_the_table() -> None:
    assert list(FORMATS) == sorted(FORMATS)
    suffixes = [suffix for format in FORMATS.values() for suffix in format.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    for name, format in FORMATS.items():
        assert format.name == name
        row = ROWS[name]
        assert (row.suffixes, row.read_only) == (format.suffixes, format.encode is None)
        assert format.whole_stores == (name == WHOLE_STORES)
        assert format.safe_by
        assert all(suffix.startswith(".") for suffix in format.suffixes)
        assert format.holds


def test_a_check_fails_on_a_format_that_loses_bits() -> None:
    """The checks themselves: a format that drops the sign of zero has to be caught."""
    safetensors = FORMATS["safetensors"]
    with pytest.raises(AssertionError, match=r"w\.0"):
        testing.assert_equal_states({"w": (0.0,)}, {"w": (-0.0,)}, "w")
    files = testing.encoded(safetensors, {"w": np.zeros(4, np.float32)}, checksums=False)
    ((key, data),) = files.items()
    changed = Location(MemoryStore({key: data[:-1] + b"\x80"}), key)
    with pytest.raises(AssertionError, match=r"state\.w"):
        testing.assert_equal_states(api.load(changed), {"w": np.zeros(4, np.float32)})
