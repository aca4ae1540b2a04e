"""Make torch_1.pt and torch_1_legacy.pt beside this file, with PyTorch 1.13.1.

    pip install torch==1.13.1 'numpy<2' && python tests/data/pytorch/make_torch_1.py

The values are such that the tests can tell them without PyTorch.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent


def state() -> dict[str, Any]:
    """Give a training state of whole numbers."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.5)
    weight.grad = torch.full((2, 3), 2.0)
    optimizer.step()
    return {
        "model": OrderedDict(
            w=base, tied=base, t=base.t(), row=base[1], wide=base[:1].expand(2, 4)
        ),
        "types": {
            str(kind)[6:]: torch.tensor([0, 1, 2]).to(kind)
            for kind in (
                *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
                *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
                *(torch.complex64, torch.complex128),
            )
        },
        "parameter": weight,
        "optimizer": optimizer.state_dict(),
        "sparse": torch.sparse_coo_tensor([[0, 2], [1, 0]], [3.0, 4.0], (3, 2)),
        "quantized": torch.quantize_per_tensor(torch.tensor([0.0, 0.5, 1.0]), 0.5, 1, torch.quint8),
        "step": 7,
        "name": "run",
        "shape": torch.Size([2, 3]),
    }


if __name__ == "__main__":
    torch.save(state(), HERE / "torch_1.pt")
    torch.save(state(), HERE / "torch_1_legacy.pt", _use_new_zipfile_serialization=False)
