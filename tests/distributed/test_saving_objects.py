"""Many processes save one checkpoint to an object store, by the same protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.distributed.ranks import RANKS, expected, parts_of, skeleton
from tests.distributed.sharding import CUTS, TREE, grid, matrices, save_sharded
from tests.servers import Bucket, Proxy, Server

import tensorkeep as tk
from tensorkeep.distributed import SharedSave, consolidate, new_token
from tensorkeep.errors import CorruptError, StoreError
from tensorkeep.formats.safetensors.manifest import read_manifest
from tensorkeep.stores import locate
from tensorkeep.testing import assert_equal_states


@pytest.fixture
def bucket(s3: Server) -> Bucket:
    return s3.bucket()


def at(bucket: Bucket, key: str) -> Any:
    return tk.remote(bucket.url(key), **bucket.options)


def begin(bucket: Bucket, step: int, **options: Any) -> list[SharedSave]:
    token = new_token()
    options = {"timeout": 0.3, **options}
    path = at(bucket, f"run/step-{step}")
    ranks = [SharedSave(path, rank=rank, ranks=RANKS, token=token, **options) for rank in range(4)]
    ranks[0].open()
    return ranks


def put_all(ranks: list[SharedSave], step: int) -> None:
    for rank, save in enumerate(ranks):
        save.put(parts_of(rank, step), objects={"step": step} if rank == 3 else {})


def newest(bucket: Bucket) -> int:
    return max(row.step for row in tk.checkpoints(at(bucket, "run/")) if row.ok)


def test_saving_loading_and_restoring(bucket: Bucket) -> None:
    ranks = begin(bucket, 7)
    put_all(ranks, 7)
    manifest = ranks[0].commit(skeleton=skeleton, metrics={"loss": 0.5})
    assert manifest.data == ranks[0].token
    path = at(bucket, "run/step-00000007")
    assert_equal_states(tk.load(path), expected(7))
    assert_equal_states(tk.load(path, verify=True), expected(7))
    assert tk.verify(path).ok
    with tk.Checkpointer(at(bucket, "run/")) as ck:
        restored = ck.restore()
        assert restored is not None
        assert (restored.step, restored.metrics) == (7, {"loss": 0.5})
        assert_equal_states(restored.state, expected(7))
        ck.save(8, restored.state)
    assert newest(bucket) == 8


def test_ranks_that_are_missing_or_fail(bucket: Bucket) -> None:
    ranks = begin(bucket, 1)
    put_all(ranks, 1)
    ranks[0].commit(skeleton=skeleton)
    ranks = begin(bucket, 2)
    ranks[0].put(parts_of(0, 2))
    with pytest.raises(StoreError, match="ranks 1, 2, 3 of 4 did not finish"):
        ranks[0].commit()
    ranks = begin(bucket, 2, timeout=60.0)
    ranks[3].fail("the GPU fell off")
    with pytest.raises(StoreError, match="rank 3 failed: the GPU fell off"):
        ranks[0].commit()
    assert newest(bucket) == 1


def test_a_stale_coordinator_cannot_commit(bucket: Bucket) -> None:
    stale = begin(bucket, 1)
    put_all(stale, 1)
    stale[0].commit(skeleton=skeleton)
    stale = begin(bucket, 1, overwrite=True)
    put_all(stale, 2)
    fresh = begin(bucket, 1, overwrite=True)
    with pytest.raises(StoreError):
        stale[0].commit(skeleton=skeleton)
    put_all(fresh, 5)
    fresh[0].commit(skeleton=skeleton)
    assert_equal_states(tk.load(at(bucket, "run/step-00000001"), verify=True), expected(5))


def test_opening_and_slices_cost_few_requests(s3: Server, bucket: Bucket) -> None:
    array = np.arange(64 * 4096, dtype=np.float32).reshape(64, 4096)
    save_sharded(at(bucket, "run/step-1"), {"w": array}, {"w": grid(array.shape, (1, 8))}, ranks=8)
    with Proxy(s3.port) as proxy:
        location = at(bucket.through(proxy), "run/step-00000001")
        with tk.open(location) as state:
            opened = proxy.count()
            assert opened <= 6
            assert state["w"].shape == array.shape
            assert proxy.count() == opened
            assert (state["w"][3:9, 700] == array[3:9, 700]).all()
            assert proxy.count() == opened + 1
            assert (state["w"].numpy() == array).all()
            assert proxy.count() <= opened + 8


def test_consolidating_from_and_to(bucket: Bucket, tmp_path: Path) -> None:
    save_sharded(at(bucket, "run/step-1"), matrices(), CUTS, skeleton=TREE)
    model = {name.partition(".")[2]: array for name, array in matrices().items()}
    consolidate(at(bucket, "run/step-00000001"), tmp_path / "out")
    assert_equal_states(tk.load(tmp_path / "out" / "model.safetensors"), model)
    consolidate(at(bucket, "run/step-00000001"), at(bucket, "out/model.safetensors"))
    assert_equal_states(tk.load(at(bucket, "out/model.safetensors"), verify=True), model)


def test_copies_stay_valid(bucket: Bucket, tmp_path: Path) -> None:
    save_sharded(at(bucket, "run/step-1"), matrices(), CUTS, skeleton=TREE)
    tk.copy(at(bucket, "run/step-00000001"), tmp_path / "step-00000001")
    assert_equal_states(
        tk.load(tmp_path / "step-1", verify=True), tk.load(at(bucket, "run/step-00000001"))
    )
    manifest = read_manifest(locate(tmp_path / "step-00000001"))
    piece = manifest.sharded["model.grid"].pieces[1]
    path = tmp_path / "step-00000001" / manifest.key(piece.file)
    data = bytearray(path.read_bytes())
    data[piece.start] ^= 1
    path.write_bytes(data)
    assert [name for name, _ in tk.verify(tmp_path / "step-1").damaged] == ["model.grid"]
    with pytest.raises(CorruptError):
        tk.copy(tmp_path / "step-00000001", at(bucket, "again/step-00000001"))
