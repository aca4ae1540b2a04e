"""Models that PyTorch wrote give what PyTorch gives, and take its tensors."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.running import run, session

pytestmark = pytest.mark.frameworks


@pytest.fixture
def network(torch: Any) -> Any:
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.fixture
def state(torch: Any, network: Any) -> tk.State:
    file = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, 16, 16),),
        file,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        dynamo=False,
    )
    return tk.State.of_graph(Graph(Message.parse(MODEL, file.getvalue())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_gives_what_pytorch_gives(torch: Any, network: Any, state: tk.State) -> None:
    x = torch.randn(10, 3, 16, 16)
    expected = network(x).detach().numpy()
    for given in (x, x.numpy(), x.clone().requires_grad_(), torch.nn.Parameter(x)):
        np.testing.assert_allclose(run(state, {"x": given})["y"], expected, rtol=1e-4, atol=1e-6)
    got = run(state, x, batch_size=3)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    moved = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    np.testing.assert_allclose(run(state, moved)["y"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_half_precision_is_cast_when_asked(torch: Any, state: tk.State) -> None:
    x = torch.randn(2, 3, 16, 16).to(torch.bfloat16)
    with session(state) as loaded:
        with pytest.raises(tk.TensorKeepError, match=r"not bfloat16\[2, 3, 16, 16\]"):
            loaded.run(x)
        got = loaded.run(x, cast=True)["y"]
        np.testing.assert_array_equal(got, loaded.run(x.float())["y"])
