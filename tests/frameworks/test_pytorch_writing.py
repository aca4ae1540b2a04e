"""What is written as a PyTorch file is what torch reads, restricted and mapped too."""

from __future__ import annotations

import collections
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import tensorkeep as tk
from tensorkeep.dtypes import DTYPES, FLOAT4_E2M1FN, STRING, DType
from tensorkeep.testing import SHAPES, assert_equal_states, sample, states
from tensorkeep.tree.vocabulary import is_plain

pytestmark = pytest.mark.frameworks


class Pair(NamedTuple):
    left: Any
    right: Any


def both(torch: Any, path: Path) -> list[Any]:
    """Load a file restricted, by reading and by mapping."""
    return [torch.load(path, weights_only=True, mmap=mapped) for mapped in (False, True)]


def bits(torch: Any, tensor: Any) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def check(torch: Any, found: Any, kind: DType, shape: tuple[int, ...], canonical: bytes) -> None:
    """Compare a tensor with what it was saved from: its type, or bytes where torch has no such."""
    if kind is FLOAT4_E2M1FN and shape and shape[-1] % 2 == 0:
        wanted, seen = torch.float4_e2m1fn_x2, (*shape[:-1], shape[-1] // 2)
    elif kind.packed or kind is STRING:
        wanted, seen = torch.uint8, (len(canonical),)
    else:
        wanted, seen = getattr(torch, str(kind)), shape
    assert found.dtype is wanted
    assert tuple(found.shape) == seen
    assert bits(torch, found) == canonical
    assert found.is_contiguous()
    assert not found.requires_grad


@pytest.mark.parametrize("kind", DTYPES.values(), ids=str)
def test_every_type_and_shape(torch: Any, tmp_path: Path, kind: DType) -> None:
    tensors = {str(shape): sample(kind, shape) for shape in SHAPES}
    tk.save(tk.State(tensors), tmp_path / "a.pt")
    for found in both(torch, tmp_path / "a.pt"):
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            check(torch, found[name], kind, tensor.shape, bytes(tensor.read()))


def test_a_module_and_its_optimizer(torch: Any, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.125)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    tk.save(saved, tmp_path / "a.pt")
    for found in [*both(torch, tmp_path / "a.pt"), tk.load(tmp_path / "a.pt")]:
        assert type(found["model"]) is OrderedDict
        other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        other.load_state_dict(found["model"])
        for name, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
        stepped = torch.optim.AdamW(other.parameters())
        stepped.load_state_dict(found["optimizer"])
        assert stepped.param_groups[0]["lr"] == 0.125
        averages = [o.state_dict()["state"][0]["exp_avg"] for o in (stepped, optimizer)]
        assert torch.equal(*averages)
        assert found["epoch"] == 3


def test_tied_tensors_stay_tied(torch: Any, tmp_path: Path) -> None:
    weight = torch.arange(1000.0)
    tk.save({"a": weight, "b": [weight]}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 8000
    for found in both(torch, tmp_path / "a.pt"):
        found["a"][0] = 7
        assert found["b"][0][0] == 7


def test_what_torch_has_no_reader_for_becomes_what_is_nearest(torch: Any, tmp_path: Path) -> None:
    value = {
        "pair": Pair(np.ones(1), 2),
        "deque": collections.deque([1, 2], maxlen=3),
        "default": collections.defaultdict(list, {1: [2]}),
        "frozen": frozenset([1]),
        "range": range(1, 5),
        "long": b"x" * 5000,
        "scalar": np.float32(2.5),
        "text": np.array(["a", "bc"]),
    }
    tk.save(value, tmp_path / "a.pt", metadata={"epoch": 3})
    for found in both(torch, tmp_path / "a.pt"):
        assert type(found["pair"]) is tuple
        assert found["pair"][1] == 2
        assert found["deque"] == [1, 2]
        assert found["default"] == {1: [2]}
        assert found["frozen"] == {1}
        assert found["range"] == (1, 5, 1)
        assert bits(torch, found["long"]) == b"x" * 5000
        assert found["scalar"] == torch.tensor(2.5)
        assert found["text"].dtype is torch.uint8
    assert_equal_states(tk.load(tmp_path / "a.pt"), value)
    with tk.open(tmp_path / "a.pt") as state:
        assert state.metadata == {"epoch": 3}


def test_what_torch_has_a_reader_for(torch: Any, tmp_path: Path) -> None:
    value = {
        "size": torch.Size([2, 0]),
        "dtype": torch.bfloat16,
        "device": torch.device("cuda:1"),
        "cpu": torch.device("cpu"),
        "bytes": b"a\xff\0",
        "none": b"",
        "bytearray": bytearray(b"\xfe"),
        "complex": 1 - 2j,
        "ordered": OrderedDict([((1, "a", None), 1), (2.5, "x")]),
        "counter": collections.Counter("aab"),
        "set": {1, "x", (2, 3)},
        "numbers": [0, 255, 256, 65535, 65536, -1, 2**31, -(2**31) - 1, 2**70, -(2**70), 0.5],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "text": ["", "ünï", "$x", "\0", "\U0001d11e"],
        "many": list(range(2500)),
        "map": {i: str(i) for i in range(2500)},
        "$key": {"$": None, "nested": {"": [True, False]}},
    }
    tk.save(value, tmp_path / "a.pt")
    for found in [*both(torch, tmp_path / "a.pt"), tk.load(tmp_path / "a.pt")]:
        assert_equal_states(found, value)
        assert type(found["size"]) is torch.Size
        assert type(found["counter"]) is collections.Counter


def nearest(torch: Any, value: Any) -> Any:
    """Give what torch should read for a value; arrays as their canonical bytes."""
    if isinstance(value, np.ndarray | np.generic):
        tensor = tk.Tensor.of(value)
        return str(tensor.dtype), tensor.shape, bytes(tensor.read())
    if isinstance(value, dict):
        kind = OrderedDict if type(value) is OrderedDict else dict
        return kind((key, nearest(torch, item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(nearest(torch, item) for item in value)
    return value


def compare(torch: Any, found: Any, wanted: Any) -> None:
    if isinstance(found, torch.Tensor):
        name, shape, canonical = wanted
        check(torch, found, DTYPES[name], shape, canonical)
        return
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for one, other in zip(found.values(), wanted.values(), strict=True):
            compare(torch, one, other)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            compare(torch, one, other)
    else:
        assert repr(found) == repr(wanted)
        assert is_plain(wanted) or isinstance(wanted, bytes | complex)


@given(value=states())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_nesting(torch: Any, tmp_path: Path, value: Any) -> None:
    tk.save(value, tmp_path / "a.pt", durable=False)
    for found in both(torch, tmp_path / "a.pt"):
        compare(torch, found, nearest(torch, value))


_WITHOUT_TORCH = """
    import sys
    sys.modules["torch"] = None  # importing it fails
    import numpy as np, tensorkeep as tk
    tk.save({"layer": {"w": np.arange(6, dtype="float32").reshape(2, 3)}, "step": 7}, sys.argv[2])
    theirs = tk.load(sys.argv[1])
    print(theirs["w"].tolist(), theirs["step"], theirs["b"].dtype)
    print(tk.load(sys.argv[2])["layer"]["w"].sum())
"""


def test_without_torch(torch: Any, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.pt", tmp_path / "ours.pt"
    saved = {"w": torch.arange(4.0), "b": torch.ones(2, dtype=torch.bfloat16), "step": 3}
    torch.save(saved, theirs)
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(_WITHOUT_TORCH)]
    files = [str(theirs), str(ours)]
    printed = subprocess.run(
        [*command, *files], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert printed == "[0.0, 1.0, 2.0, 3.0] 3 bfloat16\n15.0\n"
    for found in both(torch, ours):
        assert found["step"] == 7
        assert torch.equal(found["layer"]["w"], torch.arange(6.0).reshape(2, 3))
