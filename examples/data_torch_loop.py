"""Train with PyTorch on batches of tensors; DataLoader works too, and resumes to the batch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

import tensorkeep as tk
from tensorkeep.integrations import torch_data

STEPS = 45


def write(file: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((640, 4), dtype=np.float32)
    y = x @ np.float32([1, -2, 3, 0.5])
    tk.data.write(({"x": a, "y": b} for a, b in zip(x, y, strict=True)), file)


def train(data: Path, folder: Path, stop_at: int = 0) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    # device="cuda" places batches there beside what the GPU computes.
    with (
        tk.Batches(data, 32, shuffle=True, framework="torch") as batches,
        tk.Checkpointer(folder, every_steps=15) as checkpointer,
    ):
        state = {"model": model, "optimizer": optimizer, "data": batches}
        restored = checkpointer.restore(like=state)
        step = restored.step if restored else 0
        if restored:
            print(f"resumed at step {step}: epoch {batches.epoch}, sample {batches.sample}")
        while step < STEPS:
            for batch in batches:
                loss = torch.nn.functional.mse_loss(model(batch["x"])[:, 0], batch["y"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                checkpointer.step(step, state)
                if step in (stop_at, STEPS):
                    return model
    return model


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "train.safetensors"
        write(data)
        expected = train(data, folder / "whole")
        train(data, folder / "parts", stop_at=31)
        found = train(data, folder / "parts")
        print(f"the same weights as without the stop: {torch.equal(found.weight, expected.weight)}")

        # A DataLoader whose workers make whole batches, each of them every second one.
        batches = tk.Batches(data, 32, shuffle=True)
        loader = torch.utils.data.DataLoader(
            torch_data.iterable(batches), batch_size=None, num_workers=2
        )
        print(f"batches of a DataLoader: {len(list(loader))}")

        # One with a sampler of its own: what it asks for at once is gathered at once.
        loader = torch.utils.data.DataLoader(
            torch_data.dataset(data), batch_size=32, shuffle=True, collate_fn=torch_data.collate
        )
        print(f"shape of a batch: {tuple(next(iter(loader))['x'].shape)}")


if __name__ == "__main__":
    main()
