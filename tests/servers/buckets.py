"""What a test is given of a server: fresh buckets, and how to reach them."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

KEY_ID, SECRET = "the-key-id", "the-secret-of-the-tests"
REGION = "us-east-1"
# Says who asks, which is enough where signatures are not checked.
UNSIGNED = {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/{REGION}/s3/"}

# The account that every installation of Azurite has, as its documentation says.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class HasPort(Protocol):
    """Something that listens on a port of 127.0.0.1."""

    @property
    def port(self) -> int: ...


@dataclass(frozen=True)
class Bucket:
    """A fresh bucket or container, and all that is needed to reach it."""

    kind: str  # "s3" or "az"
    name: str
    port: int

    def url(self, key: str = "") -> str:
        """Give the address of a key, or of the bucket."""
        return f"{self.kind}://{self.name}/{key}" if key else f"{self.kind}://{self.name}"

    @property
    def endpoint(self) -> str:
        path = f"/{AZURE_ACCOUNT}" if self.kind == "az" else ""
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def options(self) -> dict[str, Any]:
        """What `tensorkeep.remote` takes."""
        if self.kind == "az":
            return {
                "account_name": AZURE_ACCOUNT,
                "account_key": AZURE_KEY,
                "endpoint": self.endpoint,
            }
        return {
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "region": REGION,
            "endpoint": self.endpoint,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables, for a process or `monkeypatch.setenv`."""
        if self.kind == "az":
            return {
                "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
                "AZURE_STORAGE_ENDPOINT": self.endpoint,
                "AZURE_ALLOW_HTTP": "true",
            }
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def through(self, proxy: HasPort) -> Bucket:
        """Give the same bucket by way of a proxy in front of its server."""
        return replace(self, port=proxy.port)


@dataclass(frozen=True)
class Server:
    """A running server; `bucket()` makes a fresh one for each test."""

    kind: str
    port: int
    make: Callable[[int, str], None]  # a bucket of this name
    ranges: bool = True  # whether it answers a request for a part with that part
    home: Path | None = None  # the folder of its buckets, where they are folders
    _names: Iterator[str] = field(default_factory=lambda: names())

    def bucket(self) -> Bucket:
        """Make a bucket that nobody else uses."""
        name = next(self._names)
        self.make(self.port, name)
        return Bucket(self.kind, name, self.port)

    def folder(self, bucket: Bucket) -> Path:
        """Give the folder that a bucket is, where they are folders."""
        assert self.home is not None
        return self.home / bucket.name


def names() -> Iterator[str]:
    """Give the names of buckets, in the order in which they are made."""
    return (f"bucket-{number:05}" for number in itertools.count(1))


def make_s3_bucket(port: int, name: str) -> None:
    """Make a bucket where signatures are not checked, as moto's server does not."""
    _request(port, "PUT", f"/{name}", UNSIGNED)


def make_azure_container(port: int, name: str) -> None:
    """Make a container, signed with the account's shared key as Azure's protocol wants it."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    canonical = "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
    path = f"/{AZURE_ACCOUNT}/{name}"
    signed = f"PUT{chr(10) * 12}{canonical}/{AZURE_ACCOUNT}{path}\nrestype:container"
    digest = hmac.digest(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256)
    signature = base64.b64encode(digest).decode()
    headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{signature}"
    _request(port, "PUT", f"{path}?restype=container", headers)


def _request(port: int, method: str, target: str, headers: dict[str, str]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, headers={**headers, "Content-Length": "0"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {target} was answered {answer.status}: {body[:500]!r}")
    return body
