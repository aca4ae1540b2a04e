"""A Checkpointer in stores of other makers, as far as they can do what it needs."""

from __future__ import annotations

import pytest
from tests.checkpoint.bucket_runs import Run, state
from tests.servers import Server

import tensorkeep as tk
from tensorkeep import testing
from tensorkeep.errors import ArgumentError, StoreError


def _run(server: Server, monkeypatch: pytest.MonkeyPatch) -> Run:
    bucket = server.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return Run(bucket)


def test_azure(azure: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(azure, monkeypatch)
    run.save(1, 2, 3, keep="last=2")
    run.check([2, 3])
    with tk.Checkpointer(run.url, rng=False) as ck:
        with pytest.raises(ArgumentError, match="saved already"):
            ck.save(3, state(4))
        ck.save(3, state(4), overwrite=True)
        assert ck.save(5, state(5)).shared > 80_000
        restored = ck.restore()
    assert restored is not None
    testing.assert_equal_states(restored.state, state(5))
    run.check([2, 3, 5], {3: 4})


def test_one_that_cannot_create_only_is_refused(
    rclone_s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(rclone_s3, monkeypatch)
    there = tk.remote(f"{run.url}/", **run.bucket.options, whole=True)
    with pytest.raises(StoreError, match="told not to"):
        tk.Checkpointer(there, rng=False)
    assert list(run.store.keys()) == []
