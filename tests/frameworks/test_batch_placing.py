"""Batches become tensors of PyTorch and JAX: sharing memory on the CPU, and refused with a cure."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.batches.workers.worker_jobs import make

from tensorkeep.data.placing import placer
from tensorkeep.data.workers.processes import Processes
from tensorkeep.errors import ArgumentError, LossError, UnsupportedError

pytestmark = pytest.mark.frameworks


def test_torch_shares_the_memory_of_a_batch(torch: Any) -> None:
    batch = {"x": np.arange(6.0).reshape(2, 3), "y": np.array([1, 2]), "z": np.ones((2, 0), bool)}
    place = placer("torch")
    found = place.hand_over(place.place(batch))
    assert list(found) == ["x", "y", "z"]
    assert [found[name].dtype for name in found] == [torch.float64, torch.int64, torch.bool]
    found["x"][0, 0] = 17
    assert batch["x"][0, 0] == 17
    assert place.place({}) == {}


def test_torch_takes_arrays_of_any_kind(torch: Any) -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    batch: dict[str, Any] = {
        "flipped": grid[:, ::-1],
        "turned": grid.T,
        "still": np.broadcast_to(np.float32(2), (2, 2)),
        "big": grid.astype(">f4"),
        "half": grid.astype(ml_dtypes.bfloat16),
        "scalar": np.float32(2.5),
        "tensor": torch.arange(3),
    }
    found = placer("torch", "cpu").place(batch)
    for name, value in batch.items():
        assert isinstance(found[name], torch.Tensor), name
        assert found[name].tolist() == np.asarray(value).tolist(), name
    assert found["half"].dtype is torch.bfloat16
    assert found["turned"].data_ptr() == grid.ctypes.data


def test_text_stays_with_numpy(torch: Any) -> None:
    text = np.array(["a", b"b"], object)
    found = placer("torch").place({"text": text, "fixed": np.array(["a", "b"])})
    assert found["text"] is text
    assert found["fixed"].tolist() == ["a", "b"]


def test_what_torch_cannot_hold_is_named(torch: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"the field 'when' of a batch: .*fields="):
        placer("torch").place({"when": np.array(["2020-01-01"], "datetime64[D]")})
    with pytest.raises(UnsupportedError, match="the field 'x' of a batch is a list, which makes"):
        placer("torch").place({"x": [1]})  # type: ignore[dict-item]


def test_devices_are_tried_at_once(torch: Any) -> None:
    with pytest.raises(ArgumentError, match="cannot place tensors on 'nowhere'"):
        placer("torch", "nowhere")
    with pytest.raises(ArgumentError, match=r"cannot be placed on 'cuda'\. Say framework="):
        placer(None, "cuda")
    with pytest.raises(ArgumentError, match="no framework is called 'mxnet'"):
        placer("mxnet")
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentError, match="cannot place tensors on 'cuda'"):
            placer("torch", "cuda")


def test_jax_refuses_to_narrow(jax: Any) -> None:
    place = placer("jax")
    found = place.place({"x": np.arange(4, dtype=np.float32), "text": np.array(["a"], object)})
    assert isinstance(found["x"], jax.Array)
    assert found["x"].tolist() == [0, 1, 2, 3]
    assert found["text"].tolist() == ["a"]
    with pytest.raises(LossError, match=r"the field 'y' of a batch: JAX would narrow int64 .*x64"):
        place.place({"y": np.arange(3)})
    with pytest.raises(ArgumentError, match="JAX has no device 'moon'"):
        placer("jax", "moon")


def test_a_tensor_holds_the_memory_that_a_worker_filled(torch: Any) -> None:
    place = placer("torch")
    held = []
    with Processes(make, 1) as pool:
        tasks = [("large", number) for number in range(40)]
        for number, batch in enumerate(pool.ahead(tasks, prefetch=2)):
            tensor = place.place(batch)["x"]
            if number % 7 == 3:
                held.append((number, tensor.reshape(-1, 100).T[::3]))
            del batch, tensor
    for number, tensor in held:
        assert (tensor == number).all()


def test_a_jax_array_holds_the_memory_that_a_worker_filled(jax: Any) -> None:
    place = placer("jax")
    held = []
    with Processes(make, 1) as pool:
        for number, batch in enumerate(pool.ahead([("large", n) for n in range(30)], prefetch=2)):
            held.append((number, place.place({"x": batch["x"]})["x"]))
            del batch
            held = held[-5:]
    for number, array in held:
        assert (np.asarray(array) == number).all()
