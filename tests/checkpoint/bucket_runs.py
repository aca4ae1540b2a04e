"""Runs of a Checkpointer in a bucket, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.servers import Bucket, Proxy

import tensorkeep as tk
from tensorkeep import testing
from tensorkeep.checkpoint.bucket import BucketFolder
from tensorkeep.stores.object import ObjectStore

MANIFEST = "MANIFEST.json"


def state(number: int) -> dict[str, Any]:
    """Make the state of a number; the frozen part is the same in all."""
    return {
        "frozen": {"table": np.arange(20_000, dtype=np.int32), "bias": np.ones(40)},
        "model": {"w": np.full(1500, number, np.int32), "v": np.full(300, number, np.float32)},
        "n": number,
    }


@dataclass(frozen=True)
class Run:
    """The checkpoints of one run, in a bucket of their own."""

    bucket: Bucket
    prefix: str = "run"

    @property
    def url(self) -> str:
        return self.bucket.url(self.prefix)

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(self.url, **self.bucket.options)

    @property
    def bucket_store(self) -> ObjectStore:
        return ObjectStore(self.bucket.url(), **self.bucket.options)

    @property
    def folder(self) -> BucketFolder:
        """The folder of one who does not save, unless it is locked."""
        return BucketFolder(self.store)

    def through(self, proxy: Proxy, **options: Any) -> tk.Location:
        """Give the same by way of a proxy."""
        behind = self.bucket.through(proxy)
        return tk.remote(f"{behind.url(self.prefix)}/", **behind.options, **options)

    def save(self, *numbers: int, **options: Any) -> None:
        with tk.Checkpointer(self.url, rng=False, **options) as ck:
            for number in numbers:
                ck.save(number, state(number), metrics={"loss": 1 / number}, overwrite=True)

    def steps(self) -> list[int]:
        return [row.step for row in tk.checkpoints(self.url)]

    def keys(self) -> list[str]:
        return [key for key in self.store.keys() if not key.startswith(".tensorkeep/")]

    def data_of(self, step: int) -> set[str]:
        """Name the folders of data that a step has."""
        name = f"step-{step:08}/"
        keys = (key.removeprefix(name) for key in self.keys() if key.startswith(name))
        return {key.split("/")[0] for key in keys if "/" in key}

    def file_of(self, step: int, name: str) -> str:
        """Give the key of a file of a step, of which there is one save."""
        (data,) = self.data_of(step)
        return f"step-{step:08}/{data}/{name}"

    def damage(self, step: int, name: str = "model.safetensors") -> None:
        """Change the last byte of a file."""
        store = self.store
        source = store.get(self.file_of(step, name))
        data = bytearray(source.read(0, source.size))
        data[-1] ^= 1
        store.replace(self.file_of(step, name), bytes(data))

    def check(self, steps: list[int], numbers: dict[int, int] | None = None) -> None:
        """Check that these steps are there, whole and to the last byte, and nothing else is."""
        rows = tk.checkpoints(self.url)
        assert [row.step for row in rows] == steps
        for row in rows:
            assert row.ok, row
            expected = state((numbers or {}).get(row.step, row.step))
            testing.assert_equal_states(tk.load(row.path, verify=True), expected)
            assert len(self.data_of(row.step)) == 1
        assert {key.split("/")[0] for key in self.keys()} == {f"step-{s:08}" for s in steps}
