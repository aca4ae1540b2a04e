"""Batches to a GPU: python -m benchmarks.data_cuda [--size 224] [--batch 256] [--steps 100]

Needs PyTorch with CUDA; `--device cpu` rehearses it without a GPU. Four ways to bring the same
batches to the GPU, alone and beside a training step of matrix products:

    plain     the loop gathers a batch and calls .to("cuda") on it
    threads   threads gather the batches ahead; the loop calls .to("cuda")
    ours      threads gather them and place them through page-locked memory on a stream beside
    loader    torch's DataLoader with as many processes, pin_memory=True, non_blocking=True

Every batch of ours is compared with what it has to be, also where the loop drops it at once while
the GPU is still to read it.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep.data.memory import using
from tensorkeep.data.placing import placer
from tensorkeep.data.sources import open as open_dataset
from tensorkeep.data.workers.threads import ahead

Rows = np.ndarray[Any, np.dtype[np.int64]]
Ways = dict[str, Callable[[list[Rows]], Iterator[dict[str, Any]]]]


class Images:
    """Images and labels in memory, gathered by their numbers: what a data set does."""

    def __init__(self, samples: int, size: int) -> None:
        rng = np.random.default_rng(0)
        self.images = np.empty((samples, 3, size, size), np.uint8)
        self.images[:] = rng.integers(0, 256, (1, 3, size, size), np.uint8)
        self.images[:, 0, 0, :4] = rng.integers(0, 256, (samples, 4), np.uint8)
        self.labels = rng.integers(0, 1000, samples)
        self.dataset = open_dataset({"image": self.images, "label": self.labels})

    def __call__(self, rows: Rows) -> dict[str, Any]:
        return self.dataset.gather(rows)


@dataclass
class Accelerator:
    """A GPU; or the CPU, where nothing has to be waited for."""

    torch: Any
    name: str

    def wait(self) -> None:
        if self.name != "cpu":
            self.torch.cuda.synchronize()

    def step(self, count: int) -> Callable[[Any], Any]:
        """Give a training step of so many matrix products, which begins with the images."""
        weights = self.torch.randn(4096, 4096, device=self.name) / 64
        if self.name != "cpu":
            weights = weights.half()

        def run(images: Any) -> Any:
            value = weights * (images.flatten()[0] / 255)
            for _ in range(count):
                value = value @ weights
            return value

        return run


def ways(images: Images, gpu: Accelerator, prefetch: int, workers: int) -> Ways:
    torch = gpu.torch
    place = placer("torch", gpu.name)

    def sent(batch: dict[str, Any], *, non_blocking: bool = False) -> dict[str, Any]:
        return {
            name: torch.as_tensor(value).to(gpu.name, non_blocking=non_blocking)
            for name, value in batch.items()
        }

    def plain(order: list[Rows]) -> Iterator[dict[str, Any]]:
        return (sent(images(rows)) for rows in order)

    def threads(order: list[Rows]) -> Iterator[dict[str, Any]]:
        return map(sent, ahead(images, order, prefetch=prefetch, workers=workers))

    def ours(order: list[Rows]) -> Iterator[dict[str, Any]]:
        def make(rows: Rows) -> dict[str, Any]:
            with using(place.memory):
                return place.place(images(rows))

        return map(place.hand_over, ahead(make, order, prefetch=prefetch, workers=workers))

    def loader(order: list[Rows]) -> Iterator[dict[str, Any]]:
        class Gathered(torch.utils.data.Dataset):  # type: ignore[name-defined,misc]
            def __getitem__(self, step: int) -> dict[str, Any]:
                return {name: torch.from_numpy(v) for name, v in images(order[step]).items()}

            def __len__(self) -> int:
                return len(order)

        batches = torch.utils.data.DataLoader(
            Gathered(), batch_size=None, num_workers=workers, pin_memory=gpu.name != "cpu",
            prefetch_factor=max(1, prefetch // workers), multiprocessing_context="fork",
        )  # fmt: skip
        return (sent(batch, non_blocking=True) for batch in batches)

    return {"plain": plain, "threads": threads, "ours": ours, "loader": loader}


def check(images: Images, gpu: Accelerator, make: Any, order: list[Rows]) -> None:
    """Compare every batch with what it has to be, at once and after the memory was given back."""
    torch = gpu.torch
    for rows, batch in zip(order, make(order), strict=True):
        expected = images(rows)
        for name, value in expected.items():
            if not torch.equal(batch[name].cpu(), torch.from_numpy(value)):
                sys.exit(f"WRONG: {name} is not what it was on the CPU")
    step = gpu.step(20 if gpu.name != "cpu" else 1)
    sums, wanted = [], []
    for rows, batch in zip(order, make(order), strict=True):
        step(batch["image"])  # keeps the GPU busy, so that it reads the batch later than we drop it
        sums.append([value.sum(dtype=torch.int64) for value in batch.values()])
        wanted.append([int(value.sum(dtype=np.int64)) for value in images(rows).values()])
        del batch
    if [[int(s) for s in row] for row in sums] != wanted:
        sys.exit("WRONG: a batch was written over while the GPU had still to read it")
    print(f"  every one of {2 * len(order)} batches is right", flush=True)


def measured(
    gpu: Accelerator, make: Any, order: list[Rows], step: Callable[[Any], Any] | None
) -> tuple[float, float]:
    """Give the seconds of all batches, and the median wait of the loop for one."""
    waits = []
    gpu.wait()
    begin = time.perf_counter()
    stream = iter(make(order))
    for _ in order:
        asked = time.perf_counter()
        batch = next(stream)
        waits.append(time.perf_counter() - asked)
        if step is not None:
            step(batch["image"])
            gpu.wait()  # as a step that looks at its loss does
    gpu.wait()
    seconds = time.perf_counter() - begin
    if close := getattr(stream, "close", None):
        close()
    return seconds, statistics.median(waits)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_cuda", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cpu rehearses it")
    parser.add_argument("--size", type=int, default=224, help="of an image: 3 x SIZE x SIZE bytes")
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--prefetch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--products", type=int, default=30, help="matrix products of a step")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    given = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is not installed: nothing to measure")
    import torch

    if given.device != "cpu" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU with CUDA here; --device cpu rehearses it")
    gpu = Accelerator(torch, given.device)
    kind = "the CPU" if given.device == "cpu" else torch.cuda.get_device_name(gpu.name)
    images = Images(given.samples, given.size)
    rng = np.random.default_rng(1)
    order = [rng.integers(0, given.samples, given.batch) for _ in range(given.steps)]
    size = images(order[0])["image"].nbytes
    print(f"{kind}, torch {torch.__version__}, batches of {given.batch} = {size / 1e6:.1f} MB,")
    print(f"prefetch={given.prefetch}, workers={given.workers}, {given.steps} steps", flush=True)
    all_ways = ways(images, gpu, given.prefetch, given.workers)
    check(images, gpu, all_ways["ours"], order)
    step = gpu.step(given.products)
    for make in all_ways.values():  # warm up
        measured(gpu, make, order[:8], step)
    tensor = torch.ones(1, device=gpu.name)
    alone, _ = min(
        measured(gpu, lambda order: iter([{"image": tensor}] * len(order)), order, step)
        for _ in range(given.rounds)
    )
    print(f"  a step alone takes {alone / given.steps * 1e3:.2f} ms\n")
    print("            samples/s   GB/s   loop waits   beside a step: samples/s   stall of a step")
    for name, make in all_ways.items():
        bare, wait = min(measured(gpu, make, order, None) for _ in range(given.rounds))
        both, _ = min(measured(gpu, make, order, step) for _ in range(given.rounds))
        count = given.steps * given.batch
        print(
            f"  {name:8}{count / bare:>11,.0f}{given.steps * size / bare / 1e9:>7.2f}"
            f"{wait * 1e3:>10.3f} ms{count / both:>25,.0f}"
            f"{(both - alone) / given.steps * 1e3:>15.3f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
