"""The functions for what ONNX lacks give what PyTorch gives, gradients included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.models.ops.running import run_text

from tensorkeep.models import ops

pytestmark = pytest.mark.frameworks

RANDOM = np.random.default_rng(5)
HEAD = '<ir_version: 10, opset_import: ["" : 18]>\n'


def floats(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def close(one: Any, other: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(one, other.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
def test_losses(torch: Any, reduction: str) -> None:
    functional = torch.nn.functional
    x, t = floats(4, 3), RANDOM.dirichlet([1, 1, 1], 4).astype(np.float32)
    log = torch.log_softmax(torch.from_numpy(x), -1)
    shape = "float[4,3]" if reduction == "none" else "float"
    text = (
        f"{HEAD}g (float[4,3] X, float[4,3] T) => ({shape} Y) "
        f'{{ Y = NAME <reduction="{reduction}"> (X, T) }}'
    )

    def made(name: str, first: Any) -> Any:
        return run_text(text.replace("NAME", name), {"X": first, "T": t})[0]

    target = torch.from_numpy(t)
    close(
        made("KLDivergenceLoss", log.numpy()), functional.kl_div(log, target, reduction=reduction)
    )
    if reduction == "batchmean":
        return
    given = torch.from_numpy(x)
    close(made("SmoothL1Loss", x), functional.smooth_l1_loss(given, target, reduction=reduction))
    close(
        made("SigmoidCrossEntropyLoss", x),
        functional.binary_cross_entropy_with_logits(given, target, reduction=reduction),
    )


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Tanh", "LeakyRelu"])
def test_gradients(torch: Any, name: str) -> None:
    x = torch.from_numpy(floats(4, 5)).requires_grad_()
    forward = {
        "Softmax": lambda: torch.softmax(x, 1),
        "LogSoftmax": lambda: torch.log_softmax(x, 1),
        "Tanh": lambda: torch.tanh(x),
        "LeakyRelu": lambda: torch.nn.functional.leaky_relu(x, 0.01),
    }
    y = forward[name]()
    dy = floats(4, 5)
    y.backward(torch.from_numpy(dy))
    text = f"{HEAD}g (float[4,5] dY, float[4,5] Y) => (float[4,5] dX) {{ dX = {name}Grad (dY, Y) }}"
    close(run_text(text, {"dY": dy, "Y": y.detach().numpy()})[0], x.grad)


def test_gradient_of_overlapping_pools(torch: Any) -> None:
    x = torch.from_numpy(floats(2, 3, 7, 7)).requires_grad_()
    y = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    dy = floats(*y.shape)
    y.backward(torch.from_numpy(dy))
    text = (
        f"{HEAD}g (float[2,3,7,7] X, float[2,3,4,4] Y, float[2,3,4,4] dY) => (float[2,3,7,7] dX) "
        "{ dX = MaxPoolGrad <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (X, Y, dY) }"
    )
    given = {"X": x.detach().numpy(), "Y": y.detach().numpy(), "dY": dy}
    close(run_text(text, given)[0], x.grad)


def test_gradient_of_instance_normalization(torch: Any) -> None:
    x, scale, bias = _parameters(torch)
    y = torch.nn.functional.instance_norm(x, weight=scale, bias=bias)
    dy = floats(2, 3, 4, 5)
    y.backward(torch.from_numpy(dy))
    given = {"dY": dy, "X": x.detach().numpy(), "scale": scale.detach().numpy()}
    made = run_text(ops.example("InstanceNormalizationGrad"), given)
    for one, other in zip(made, (x, scale, bias), strict=True):
        close(one, other.grad, 1e-3)


def _parameters(torch: Any) -> Any:
    shapes: list[tuple[int, ...]] = [(2, 3, 4, 5), (3,), (3,)]
    return (torch.from_numpy(floats(*shape)).requires_grad_() for shape in shapes)


def test_matrices(torch: Any) -> None:
    x = floats(8, 5)
    q, r = run_text(ops.example("QR").replace("float[6,4]", "float[8,5]"), {"A": x})
    wanted_q, wanted_r = torch.linalg.qr(torch.from_numpy(x))
    sign = torch.sign(torch.diagonal(wanted_r))
    close(q, wanted_q * sign)
    close(r, wanted_r * sign[:, None])
    square = floats(4, 4)
    close(run_text(ops.example("Triu"), {"X": square})[0], torch.triu(torch.from_numpy(square), 1))
    close(run_text(ops.example("Tril"), {"X": square})[0], torch.tril(torch.from_numpy(square)))
    tail = np.array([-2, 0, 0.5, 3], np.float32)
    close(run_text(ops.example("Erfc"), {"X": tail})[0], torch.special.erfc(torch.from_numpy(tail)))
