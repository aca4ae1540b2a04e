from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tensorkeep.errors import CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.wire.lmdb import find_values, newest_commit, newest_meta

lmdb = pytest.importorskip("lmdb")


def write(path: Path, records: dict[bytes, bytes], **options: bool) -> bytes:
    with lmdb.open(str(path), map_size=1 << 26, **options) as environment:
        with environment.begin(write=True) as transaction:
            for key, value in records.items():
                transaction.put(key, value)
        with environment.begin(write=True) as transaction:
            transaction.delete(next(iter(records), b"none"))
    return (path / "data.mdb").read_bytes()


def find(data: bytes) -> dict[bytes, bytes]:
    meta = newest_meta(memoryview(data), "a")
    values = find_values(memoryview(data), meta, "a")
    assert meta.number == newest_commit(memoryview(data), "a")
    return {
        data[key : key + key_size]: data[start : start + size]
        for start, size, key, key_size in zip(*(part.tolist() for part in values), strict=True)
    }


def sample() -> dict[bytes, bytes]:
    rng = np.random.default_rng(0)
    sizes = [0, 1, 2, 2000, 2100, 4080, 4096, 20_000]
    return {
        b"k" * (1 + n % 400) + b"%05d" % n: rng.bytes(sizes[n % len(sizes)]) for n in range(900)
    }


def test_values_and_keys_are_those_the_library_gives(tmp_path: Path) -> None:
    records = sample()
    found = find(write(tmp_path / "a", records))
    del records[next(iter(records))]
    assert found == records
    assert list(found) == sorted(records)


def test_the_first_values_alone(tmp_path: Path) -> None:
    data = memoryview(write(tmp_path / "a", sample()))
    meta = newest_meta(data, "a")
    every, some = (find_values(data, meta, "a", first=first) for first in (False, True))
    assert 0 < len(some.starts) < len(every.starts) / 9
    for one, other in zip(every, some, strict=True):
        assert one[: len(other)].tolist() == other.tolist()


def test_none() -> None:
    with pytest.raises(CorruptError):
        newest_meta(memoryview(b""), "a")


def test_an_empty_one(tmp_path: Path) -> None:
    data = write(tmp_path / "a", {b"a": b"b"})
    assert find(data) == {}
    assert not len(find_values(memoryview(data), newest_meta(memoryview(data), "a"), "a").starts)


def test_another_order_of_keys_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "a", sample())
    meta = newest_meta(memoryview(data), "a")
    other = meta._replace(main=meta.main._replace(flags=4))
    with pytest.raises(UnsupportedError, match="duplicates or an order of their own"):
        find_values(memoryview(data), other, "a")


def test_bits(tmp_path: Path) -> None:
    """A flipped bit changes a key or a value, or is found; what is given lies inside."""
    data = write(tmp_path / "a", dict(list(sample().items())[:60]))
    rng = np.random.default_rng(1)
    for at in [*range(0, 160, 3), *rng.integers(8192, len(data), 200).tolist()]:
        changed = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        try:
            meta = newest_meta(memoryview(changed), "a")
            values = find_values(memoryview(changed), meta, "a")
        except TensorKeepError:
            continue
        assert (values.starts + values.sizes <= len(data)).all()
        assert (values.key_starts + values.key_sizes <= len(data)).all()
