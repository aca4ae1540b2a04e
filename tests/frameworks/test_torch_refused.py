"""Tensors that are more, or less, than values with a shape are refused by place, with a cure."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep.errors import UnsupportedError

pytestmark = pytest.mark.frameworks


def _quietly(build: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that these are prototypes or deprecated
        return build()


def _fake(torch: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(3)


def _masked(torch: Any) -> Any:
    return torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False]))


def _subclass(torch: Any) -> Any:
    return torch.ones(3).as_subclass(type("Image", (torch.Tensor,), {}))


def _dtensor(torch: Any) -> Any:
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        return distribute_tensor(torch.ones(4), mesh, [Replicate()])
    finally:
        destroy_process_group()


REFUSED: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "coo": (lambda torch: torch.eye(3).to_sparse(), "layout sparse_coo", "to_dense"),
    "csr": (lambda torch: torch.eye(3).to_sparse_csr(), "layout sparse_csr", "to_dense"),
    "mkldnn": (lambda torch: torch.ones(3).to_mkldnn(), "layout mkldnn", "to_dense"),
    "quantized": (
        lambda torch: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        "quantized",
        "int_repr",
    ),
    "nested": (
        lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "nested",
        "unbind",
    ),
    "jagged": (
        lambda torch: torch.nested.nested_tensor(
            [torch.ones(2), torch.ones(3)], layout=torch.jagged
        ),
        "NestedTensor",
        "unbind",
    ),
    "masked": (_masked, "MaskedTensor", "get_mask"),
    "fake": (_fake, "FakeTensor", "FakeTensorMode"),
    "distributed": (_dtensor, "DTensor", "full_tensor"),
    "subclass": (_subclass, "Image", "as_subclass"),
    "meta": (lambda torch: torch.ones(3, device="meta"), "meta device", "materialized"),
    "lazy": (
        lambda torch: torch.nn.UninitializedParameter(),
        "UninitializedParameter",
        "Run the model",
    ),
    "complex32": (
        lambda torch: torch.zeros(4, dtype=torch.uint8).view(torch.complex32),
        "torch.complex32",
        "view_as_real",
    ),
    "int4": (
        lambda torch: torch.zeros(4, dtype=torch.uint8).view(torch.int4),
        "torch.int4",
        "view.torch.uint8.",
    ),
    "bits8": (
        lambda torch: torch.zeros(4, dtype=torch.uint8).view(torch.bits8),
        "torch.bits8",
        "view.torch.uint8.",
    ),
    "float4 scalar": (
        lambda torch: torch.zeros((), dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "float4_e2m1fn_x2 and shape ..,",
        "view.torch.uint8.",
    ),
    "model": (lambda torch: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear", "state_dict"),
    "optimizer": (
        lambda torch: torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1),
        "torch.optim.sgd.SGD",
        "state_dict",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_place_with_a_cure(torch: Any, tmp_path: Path, case: str) -> None:
    build, problem, cure = REFUSED[case]
    bad = _quietly(lambda: build(torch))
    path = tmp_path / "state.safetensors"
    with pytest.raises(UnsupportedError, match=rf"^model\.1\.w: .*{problem}.*{cure}"):
        tk.save({"model": [torch.ones(1), {"w": bad}]}, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "functionalize"])
def test_values_inside_a_transformation_are_refused(
    torch: Any, tmp_path: Path, transform: str
) -> None:
    path = tmp_path / "state.safetensors"

    def inside(x: Any) -> Any:
        with pytest.raises(UnsupportedError, match=r"^w: .*Save outside vmap"):
            tk.save({"w": x}, path)
        return x.sum()

    x = torch.ones(2, 3)
    match transform:
        case "vmap":
            torch.func.vmap(inside)(x)
        case "grad":
            torch.func.grad(inside)(x)
        case "jvp":
            _quietly(lambda: torch.func.jvp(inside, (x,), (x,)))
        case "functionalize":
            torch.func.functionalize(inside)(x)
    assert not path.exists()
