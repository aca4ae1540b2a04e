"""Items in an object store: what is found below URLs, verified, converted and pruned there."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tests.servers.buckets import Bucket, Server

import tensorkeep as tk
from tensorkeep.bulk import find, run
from tensorkeep.bulk.converting import convert, plan
from tensorkeep.bulk.finding import means_many
from tensorkeep.bulk.pruning import prune
from tensorkeep.bulk.verifying import verify
from tensorkeep.errors import MissingError
from tensorkeep.stores import locate
from tensorkeep.stores.object import ObjectStore

STATE = {"w": np.arange(3000.0), "b": np.ones(3000)}


@pytest.fixture
def bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Give a bucket of states, one of them damaged, and of much that is none."""
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    for key in ("models/a.safetensors", "models/deep/b.npz", "models/deep/damaged.npz"):
        tk.save(STATE, bucket.url(key))
    tk.save(STATE, bucket.url("models/big.safetensors"), max_shard_size=30_000)
    store = locate(bucket.url("models/")).store
    assert isinstance(store, ObjectStore)
    source = store.get("deep/damaged.npz")
    data = bytearray(source.read(0, source.size))
    source.close()
    data[len(data) // 3] ^= 1
    assert store.replace("deep/damaged.npz", bytes(data))
    for key in ("config.json", "readme.txt", ".hidden/c.npz", "run/.tensorkeep/writer"):
        assert store.create(key, b"{}")
    return bucket


def test_objects_below_a_url(bucket: Bucket) -> None:
    url = bucket.url("models/")
    assert means_many(url)
    items = find([url])
    assert [item.name for item in items] == [
        *("a.safetensors", "big.safetensors.index.json", "deep/b.npz", "deep/damaged.npz")
    ]
    assert [item.where for item in items] == [url + item.name for item in items]
    assert items[1].size > STATE["w"].nbytes + STATE["b"].nbytes
    assert all(item.mark for item in items)
    summary = run(verify, items)
    assert [outcome.status for outcome in summary.outcomes] == ["done"] * 3 + ["damaged"]
    found = find([bucket.url("models/**/*.npz"), bucket.url("models/a.safetensors")])
    assert [item.name for item in found] == ["deep/b.npz", "deep/damaged.npz", "a.safetensors"]
    assert found[2].mark == items[0].mark
    for wrong in ("models/*.gguf", "nothing/"):
        with pytest.raises(MissingError, match="nothing"):
            find([bucket.url(wrong)])


def test_a_journal_knows_objects_by_their_etags(bucket: Bucket, tmp_path: object) -> None:
    journal = f"{tmp_path}/journal"
    url = bucket.url("models/deep/")
    assert run(verify, find([url]), journal=journal).counts["done"] == 1
    assert run(verify, find([url]), journal=journal).counts["skipped"] == 1
    tk.save({"w": np.ones(3)}, bucket.url("models/deep/b.npz"))
    assert run(verify, find([url]), journal=journal).counts["done"] == 1


def test_convert_from_a_store_to_another_place_in_it(bucket: Bucket) -> None:
    out = bucket.url("out")
    items = [item for item in find([bucket.url("models/")]) if "damaged" not in item.name]
    planned = plan(items, out, "npz")
    assert [item.target for item in planned] == [
        *(f"{out}/a.npz", f"{out}/big.npz", f"{out}/deep/b.npz")
    ]
    task = partial(convert, to="npz")
    for status in ("done", "skipped"):
        outcomes = run(task, planned).outcomes
        assert [outcome.status for outcome in outcomes] == [status] * 3
    assert tk.load(f"{out}/deep/b.npz")["w"].tolist() == STATE["w"].tolist()


def test_checkpoints_of_a_run_in_a_store(bucket: Bucket) -> None:
    url = bucket.url("run")
    with tk.Checkpointer(url) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, STATE)
    names = [f"step-{step:08}" for step in (1, 2, 3)]
    assert [item.name for item in find([f"{url}/"])] == names
    assert run(verify, find([f"{url}/"])).counts["done"] == 3
    outcome = run(partial(prune, keep="last=1"), [url]).outcomes[0]
    assert outcome.result["removed"] == [1, 2]
    assert [item.name for item in find([f"{url}/"])] == names[2:]
