"""A training of PyTorch's with everything that has a state; a script for processes of their own.

    python -m tests.frameworks.torch_training FOLDER STEPS [stateful] [background] [fenced]

goes on from what FOLDER holds up to STEPS, and prints a digest of everything that was trained.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch

import tensorkeep as tk

SAMPLES, BATCH = 40, 8


class Sampler:
    """Draws an order for every epoch, and knows how far it has come."""

    def __init__(self) -> None:
        self.epoch, self.position = 0, 0

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng(self.epoch).permutation(SAMPLES)
        while self.position < SAMPLES:
            self.position += 1
            yield int(order[self.position - 1])
        self.epoch, self.position = self.epoch + 1, 0

    def __len__(self) -> int:
        return SAMPLES

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


class Data:
    """Images that are augmented by the global random generators of three libraries."""

    def __init__(self) -> None:
        self.images = torch.randn(SAMPLES, 1, 6, 6, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> Any:
        image = self.images[i] * float(np.random.uniform(0.5, 2))
        return (image.flip(0) if random.random() < 0.5 else image) + 0.1 * torch.randn(1, 6, 6)


def batches(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


class Training:
    """All that a training needs, made anew."""

    def __init__(self, stateful: bool) -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        nn = torch.nn
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)]
        self.model = nn.Sequential(*layers, nn.Linear(64, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, amsgrad=True)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.05, total_steps=40)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)
        self.data: Any
        self.loader: Any
        self.noise = torch.Generator().manual_seed(9)
        # Each time that a loader is begun it draws a seed, from the global generator without this.
        own: Any = {"batch_size": BATCH, "generator": torch.Generator().manual_seed(2)}
        if stateful:
            torchdata = import_module("torchdata.stateful_dataloader")
            samplers = import_module("torchdata.stateful_dataloader.sampler")
            order = samplers.RandomSampler(Data(), generator=torch.Generator().manual_seed(3))
            self.data = self.loader = torchdata.StatefulDataLoader(Data(), sampler=order, **own)
        else:
            self.data = Sampler()
            self.loader = torch.utils.data.DataLoader(Data(), sampler=self.data, **own)

    def state(self) -> dict[str, Any]:
        names = ("model", "optimizer", "scheduler", "scaler", "data", "noise")
        return {name: getattr(self, name) for name in names}

    def step(self, images: Any, checkpointer: tk.Checkpointer | None) -> Any:
        if checkpointer is not None:
            checkpointer.fence()  # the averages of BatchNorm change with the forward pass
        target = torch.rand(len(images), 3, generator=self.noise)
        with torch.autocast("cpu", torch.bfloat16):
            loss = (self.model(images).float() - target).square().mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return loss.detach()

    def run(self, start: int, stop: int, checkpointer: tk.Checkpointer | None = None) -> None:
        images = batches(self.loader)
        for step in range(start + 1, stop + 1):
            loss = self.step(next(images), checkpointer)
            if checkpointer is not None:
                checkpointer.step(step, self.state, metrics={"loss": loss})

    def digest(self) -> str:
        names = ("model", "optimizer", "scheduler", "scaler")
        kept = {name: self.state()[name].state_dict() for name in names}
        found = hashlib.sha256(repr([kept.pop("scheduler"), kept.pop("scaler")]).encode())
        moments = kept["optimizer"]["state"]
        rows = [*kept["model"].values(), *(t for row in moments.values() for t in row.values())]
        for tensor in [*rows, torch.rand(3), torch.rand(2, generator=self.noise)]:
            found.update(tensor.numpy().tobytes())
        found.update(repr((random.random(), np.random.rand())).encode())
        return found.hexdigest()


def go_on(folder: str, steps: int, *, stateful: bool = False, **options: bool) -> str:
    training = Training(stateful)
    with tk.Checkpointer(folder, every_steps=1, keep="last=2", **options) as checkpointer:  # type: ignore[arg-type]
        restored = checkpointer.restore(like=training.state())
        training.run(restored.step if restored else 0, steps, checkpointer)
    return training.digest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = dict.fromkeys(sys.argv[3:], True)
    sys.stdout.write(go_on(sys.argv[1], int(sys.argv[2]), **options))
