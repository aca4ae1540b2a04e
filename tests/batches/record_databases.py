"""Small databases of records, and the checks of what is read of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorkeep.data.sources.records import RecordsDataset
from tensorkeep.stores import open_database

ENGINES = ["minidb", "lmdb", "leveldb", "rocksdb", "sqlite"]
Records = Sequence[bytes]


def make(path: Path, records: Records, kind: str = "minidb") -> str:
    for library, name in (("leveldb", "plyvel"), ("rocksdb", "rocksdict"), ("lmdb", "lmdb")):
        if kind == library:
            pytest.importorskip(name)
    with open_database(kind, path, "new") as database:
        for i, record in enumerate(records):
            database.put(f"{i:08}", (record,), size=len(record))
        database.commit()
    return str(path)


def images(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.integers(0, 256, (3, 11, 10), np.uint8),
            "label": np.int32(rng.integers(0, 300)),
        }
        for _ in range(count)
    ]


def check(dataset: RecordsDataset, samples: Sequence[dict[str, Any]], rows: Any = None) -> None:
    rows = np.arange(len(samples))[::-1] if rows is None else np.array(rows)
    batch = dataset.gather(rows)
    wanted = {name: [samples[row][name] for row in rows] for name in samples[0]}
    assert list(batch) == list(wanted)
    for name, values in batch.items():
        assert len(values) == len(rows)
        assert values.flags.writeable
        for value, expected in zip(values, wanted[name], strict=True):
            np.testing.assert_array_equal(value, expected)
            if not isinstance(expected, bytes):
                assert value.dtype == np.asarray(expected).dtype
    for sample, row in zip(dataset.samples(rows), rows, strict=True):
        assert sample.keys() == samples[row].keys()
        for name, value in sample.items():
            np.testing.assert_array_equal(value, samples[row][name])
