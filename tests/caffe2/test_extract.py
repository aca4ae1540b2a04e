"""What is asked of a sorted database for some names, and what is given of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorkeep.caffe2 import save
from tensorkeep.caffe2.extract import Extraction, extract
from tensorkeep.errors import MissingError
from tensorkeep.source import Source
from tensorkeep.stores.lmdb import LmdbDatabase


class Counting(LmdbDatabase):
    """A database that counts what is asked of it."""

    asked = given = 0

    def records(self, prefix: str = "", start: str | None = None) -> Iterator[tuple[str, Source]]:
        self.asked += 1
        for record in super().records(prefix, start):
            self.given += 1
            yield record


def fill(path: Path, keys: list[str], size: int = 10) -> None:
    with LmdbDatabase(path, "new") as database:
        for key in keys:
            database.put(key, [bytes(size)])
        database.commit()


def find(database: LmdbDatabase, names: list[str], add_prefix: str = "") -> list[str]:
    extraction = Extraction(names, add_prefix=add_prefix)
    return [key for key, _ in extraction._find(database, names)]


def test_names_that_begin_alike(tmp_path: Path) -> None:
    keys = ["a", "a!b", "a!b#%0", "a#$", "a#%", "a#%0", "a#%b", "a#%b#%1", "a#&", "ab", "b#%0", "é"]
    fill(tmp_path / "db", keys)
    with LmdbDatabase(tmp_path / "db") as database:
        assert find(database, ["a"]) == ["a", "a#%", "a#%0", "a#%b", "a#%b#%1"]
        assert find(database, ["é", "a!b", "a#%b"]) == ["a!b", "a!b#%0", "a#%b", "a#%b#%1", "é"]
        assert find(database, ["p/ab", "b", "p/b"], "p/") == ["ab", "b#%0"]
        assert find(database, ["A", "aa", "zz"]) == []
        assert sorted(find(database, keys)) == sorted(keys)


@pytest.mark.parametrize("count", [1, 5, 100, 900])
def test_some_names_of_many(tmp_path: Path, count: int) -> None:
    draw = random.Random(count)
    names = [f"blob_{i}" for i in range(1000)]
    fill(tmp_path / "db", [f"{name}#%{i}" for name in names for i in range(3)])
    wanted = draw.sample(names, count)
    with Counting(tmp_path / "db") as database:
        found = find(database, wanted)
        assert sorted(found) == sorted(f"{name}#%{i}" for name in wanted for i in range(3))
        assert database.asked <= 1 + count
        assert database.given <= 3 * count + 33 * (count + 1)


def test_many_names_are_found_in_one_go(tmp_path: Path) -> None:
    names = [f"blob_{i:04}" for i in range(1000)]
    fill(tmp_path / "db", [f"{name}#%0" for name in names])
    with Counting(tmp_path / "db") as database:
        assert len(find(database, names[::2])) == 500
        assert database.asked == 1


def test_large_records_are_not_passed_over(tmp_path: Path) -> None:
    fill(tmp_path / "db", [f"k{i}#%0" for i in range(100, 200)], size=50_000)
    with Counting(tmp_path / "db") as database:
        assert find(database, ["k100", "k150", "k199"]) == ["k100#%0", "k150#%0", "k199#%0"]
        assert database.given <= 6


@pytest.mark.parametrize("kind", ["leveldb", "lmdb", "rocksdb", "sqlite"])
def test_blobs_of_every_size(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    blobs = {f"b{i}": bytes([i % 256]) * (i * 37 % 6000) for i in range(400)}
    save(blobs, path)
    wanted = random.Random(1).sample(sorted(blobs), 120)
    found = extract(path, wanted)
    assert {name: blob.value for name, blob in found.items()} == {
        name: blobs[name] for name in wanted
    }
    with pytest.raises(MissingError, match="'b400'"):
        extract(path, ["b3", "b400"])
