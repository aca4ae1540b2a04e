from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.checkpoint.bucket_runs import Run
from tests.checkpoint.slow_disk import Disk
from tests.servers import Server


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.free.set()


@pytest.fixture
def run(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a run in a fresh bucket, which the environment tells how to reach."""
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return Run(bucket)
