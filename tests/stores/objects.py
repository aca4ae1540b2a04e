"""What the tests of objects in buckets share."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.servers import Bucket
from tests.servers.buckets import UNSIGNED

from tensorkeep.errors import MissingError
from tensorkeep.store import Store
from tensorkeep.stores.object import ObjectStore

ROOT = Path(__file__).parents[2]
MB = 1 << 20


def store_of(bucket: Bucket, prefix: str = "", **options: Any) -> ObjectStore:
    """Give the store of a bucket, or of what lies below a prefix of it."""
    return ObjectStore(bucket.url(prefix), **{**bucket.options, **options})


def put(store: Store, key: str, data: bytes) -> None:
    """Put the bytes of one key, and commit."""
    store.put(key, [data], size=len(data))
    store.commit()


def read(store: Store, key: str) -> bytes | None:
    """Give the bytes of a key, or None where there is none."""
    try:
        with contextlib.closing(store.get(key)) as source:
            return bytes(source.read(0, source.size))
    except MissingError:
        return None


def ask(bucket: Bucket, method: str, target: str = "", body: bytes = b"") -> bytes:
    """Ask a server that does not check signatures, past all of our own code."""
    connection = http.client.HTTPConnection("127.0.0.1", bucket.port, timeout=30)
    try:
        connection.request(method, f"/{bucket.name}{target}", body, UNSIGNED)
        answer = connection.getresponse()
        found = answer.read()
    finally:
        connection.close()
    if answer.status == 404:
        return b""
    assert answer.status < 300, (answer.status, found[:300])
    return found


def raw(bucket: Bucket, key: str) -> bytes:
    """Give the bytes of an object, empty where there is none, past all of our own code."""
    return ask(bucket, "GET", f"/{quote(key)}")


def unfinished(bucket: Bucket) -> list[str]:
    """List the keys of uploads that were begun, and neither completed nor aborted."""
    return re.findall(r"<Upload>.*?<Key>(.*?)</Key>", ask(bucket, "GET", "?uploads").decode())


def python(script: str, *arguments: str, bucket: Bucket) -> subprocess.Popen[str]:
    """Start a process that has the bucket's address and login in its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **bucket.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    """Wait for a process to end well, and give what it printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out
