"""What optimizers, schedulers and scalers of PyTorch's keep goes through a file and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tensorkeep as tk
from tensorkeep.errors import UnsupportedError

pytestmark = pytest.mark.frameworks

SUFFIXES = (".safetensors", ".json")

OPTIMIZERS: dict[str, Callable[[Any, Any], Any]] = {
    "Adam": lambda torch, weights: torch.optim.Adam(weights, lr=0.05, amsgrad=True),
    "SGD": lambda torch, weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, nesterov=True),
}
SCHEDULERS: dict[str, Callable[[Any, Any], Any]] = {
    "MultiStepLR": lambda lr, adam: lr.MultiStepLR(adam, [2, 4, 4, 7], gamma=0.5),
    "OneCycleLR": lambda lr, adam: lr.OneCycleLR(adam, 0.1, total_steps=20),
    "CosineAnnealingWarmRestarts": lambda lr, adam: lr.CosineAnnealingWarmRestarts(adam, 3, 2),
    "ReduceLROnPlateau": lambda lr, adam: lr.ReduceLROnPlateau(adam, patience=1, cooldown=1),
}


class Training:
    """A model with all that is kept beside it, and ten losses that a plateau is among."""

    def __init__(self, torch: Any, optimizer: str, scheduler: str) -> None:
        self.torch = torch
        self.model = torch.nn.Linear(3, 1)
        self.optimizer = OPTIMIZERS[optimizer](torch, self.model.parameters())
        self.scheduler = SCHEDULERS[scheduler](torch.optim.lr_scheduler, self.optimizer)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        self.plateau = scheduler == "ReduceLROnPlateau"

    @property
    def parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])

    def run(self, steps: range) -> list[Any]:
        """Train, and give what each step left: the rate, the scale and the weights."""
        seen: list[Any] = []
        for step in steps:
            batch = self.torch.linspace(-1, 1, 6).reshape(2, 3) * (step + 1)
            loss = (self.model(batch) - step).square().mean()
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step(*[1.0] * self.plateau)
            weights = [weight.tolist() for weight in self.model.parameters()]
            seen.append((self.scheduler.get_last_lr(), self.scaler.get_scale(), weights))
        return seen


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_as_it_would_have(
    torch: Any, tmp_path: Path, optimizer: str, scheduler: str, suffix: str
) -> None:
    torch.manual_seed(1)
    first, second = (Training(torch, optimizer, scheduler) for _ in range(2))
    first.run(range(5))
    saved = first.state_dict()
    tk.save(saved, tmp_path / f"state{suffix}")
    loaded = tk.load(tmp_path / f"state{suffix}", verify=True)
    assert loaded["scheduler"] == saved["scheduler"]
    assert _types(loaded) == _types(saved)
    second.load_state_dict(loaded)
    assert second.run(range(5, 10)) == first.run(range(5, 10))


def _types(value: Any) -> Any:
    """Spell out what containers and leaves a state is made of."""
    if isinstance(value, dict):
        return type(value), {(type(key), key): _types(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value), list(map(_types, value))
    return type(value)


# --- dtypes, devices and sizes ------------------------------------------------------------------


def values(torch: Any) -> dict[str, Any]:
    return {
        "dtypes": [found for found in vars(torch).values() if isinstance(found, torch.dtype)],
        "devices": [
            torch.device(text) for text in ("cpu", "cpu:0", "cuda", "cuda:1", "meta", "xpu:127")
        ],
        "sizes": [torch.ones(2, 3).shape, torch.Size([]), torch.Size([-1, 2**62])],
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_they_come_back_as_torchs_own(torch: Any, tmp_path: Path, suffix: str) -> None:
    saved = values(torch)
    tk.save(saved, tmp_path / f"state{suffix}")
    loaded = tk.load(tmp_path / f"state{suffix}")
    assert loaded == saved
    assert _types(loaded) == _types(saved)
    assert all(one is other for one, other in zip(loaded["dtypes"], saved["dtypes"], strict=True))


def test_they_come_back_as_text_and_tuples_without_torch(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    tk.save([torch.bfloat16, torch.device("cuda:1"), torch.Size([2, 3])], path)
    code = (
        "import sys, tensorkeep as tk; found = tk.load(sys.argv[1])\n"
        "print(found, type(found[2]).__name__, 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "['bfloat16', 'cuda:1', (2, 3)] tuple False"


@pytest.mark.parametrize("kind", ["dtype", "device"])
@pytest.mark.parametrize("text", ["float1024", "nn", "load", "hub", "abacus", "uint8x", "export"])
def test_names_that_torch_has_not_stay_text(
    torch: Any, tmp_path: Path, kind: str, text: str
) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"tensorkeep": 1, "state": {"$torch": [kind, text]}}))
    assert tk.load(path) == text


def test_a_device_that_torch_miscounts_is_refused(torch: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"is a torch.device.*Use str\(\.\.\.\)"):
        tk.save({"d": torch.device("cuda:128")}, tmp_path / "state.json")
