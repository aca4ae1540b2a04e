"""What all tests share: reproducible hypothesis runs, and permissions that bind even root."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_NOBODY = 65534
_HAS_LEVELDB = importlib.util.find_spec("plyvel") is not None


def pytest_configure() -> None:
    """Be interruptible also where a shell started this behind, with Ctrl-C ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave LevelDB out where its library cannot be installed, which is told in the summary."""
    if _HAS_LEVELDB:
        return
    skip = pytest.mark.skip(reason="plyvel, LevelDB's library, has no build for this Python")
    for item in items:
        if "leveldb" in item.nodeid.lower():
            item.add_marker(skip)


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
