"""What all tests share: reproducible hypothesis runs, and permissions that bind even root."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.servers.fixtures import azure as azure
from tests.servers.fixtures import http as http
from tests.servers.fixtures import rclone_s3 as rclone_s3
from tests.servers.fixtures import s3 as s3

settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("quick", parent=settings.get_profile("default"), max_examples=15)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_MANY = 12  # cases of a function of which `--sample` leaves some out
_NOBODY = 65534
_HAS_LEVELDB = importlib.util.find_spec("plyvel") is not None


def pytest_configure() -> None:
    """Be interruptible also where a shell started this behind, with Ctrl-C ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a second run, on another Python, do with a part of the large matrices of cases."""
    parser.addoption(
        "--sample", type=int, default=1, help="of a function's many cases run one in this many"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Draw the sample that was asked for, and leave LevelDB out where it cannot be installed."""
    _draw(config, items)
    if _HAS_LEVELDB:
        return
    skip = pytest.mark.skip(reason="plyvel, LevelDB's library, has no build for this Python")
    for item in items:
        if "leveldb" in item.nodeid.lower():
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Keep the tests themselves out of each collection of garbage: they stay."""
    gc.collect()
    gc.freeze()


def _draw(config: pytest.Config, items: list[pytest.Item]) -> None:
    step = config.getoption("--sample")
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    out = {
        item
        for rows in cases.values()
        if len(rows) > _MANY
        for place, item in enumerate(rows)
        if place % step
    }
    if out:
        config.hook.pytest_deselected(items=[item for item in items if item in out])
        items[:] = [item for item in items if item not in out]


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """Give a folder of a user without rights, and be that user for the length of a test."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, _NOBODY, _NOBODY)
            os.seteuid(_NOBODY)
            if not os.access(folder, os.W_OK, effective_ids=True):
                pytest.skip("the system's folder for temporary files is closed to other users")
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)
