"""Addresses of objects: s3://bucket/key, gs://bucket/key, az://container/key, https://host/path.

A key is taken letter by letter, but for HTTP, whose paths are percent-encoded and may be followed
by a query (of a signature, say), which goes with every request and is never shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from tensorkeep.errors import ArgumentError, UnsafeError

SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "https",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._$-]{0,254}")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Address:
    """Where objects are: a bucket, a container or a server, and what all their keys start with."""

    scheme: str  # "s3", "gs", "az", "http" or "https"
    root: str  # the bucket, the container, or the server with its port
    path: str = ""  # without a slash at either end
    folder: bool = False  # it ended in a slash, or named a bucket alone
    account: str = ""  # of Azure, where the address names it
    login: str = ""  # of HTTP: user:password
    query: str = ""  # of HTTP

    @property
    def http(self) -> bool:
        """Whether it is of a plain web server."""
        return self.scheme in ("http", "https")

    @property
    def where(self) -> str:
        """How messages name it: without a login and a query."""
        return f"{self.bucket}/{self.path}".rstrip("/")

    @property
    def bucket(self) -> str:
        """The bucket, container or server alone."""
        return f"{self.scheme}://{self.root}"

    @property
    def full(self) -> str:
        """All of it, secrets included."""
        account = f"@{self.account}" if self.account else ""
        login = f"{self.login}@" if self.login else ""
        path = quote(self.path) if self.http else self.path
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{login}{self.root}{account}/{path}{query}"

    def below(self, path: str) -> Address:
        """Give the address of what lies below this one."""
        return replace(self, path="/".join(filter(None, (self.path, path))))

    def split(self) -> tuple[Address, str]:
        """Take the last part off.

        >>> parse_address("s3://models/llama/model.safetensors").split()[1]
        'model.safetensors'
        """
        folder, _, name = self.path.rpartition("/")
        return replace(self, path=folder), name


def scheme_of(text: str) -> str:
    """Give the scheme of an URL, in lower case; empty for what is no URL."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def parse_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        ArgumentError: it is none.
        UnsafeError: its path has parts that lead elsewhere.

    >>> parse_address("gs://models/llama/").path
    'llama'
    """
    scheme = SCHEMES.get(scheme_of(text))
    if scheme is None:
        raise ArgumentError(
            f"{text[:_SHOWN]!r} is no address of objects",
            cure="Use s3://bucket/key, gs://bucket/key, az://container/key or https://host/path.",
        )
    address = _web(text) if scheme in ("http", "https") else _bucket(scheme, text)
    if address.path:
        check_key(address.path, address.bucket)
    return address


def _bucket(scheme: str, text: str) -> Address:
    root, _, path = text.partition("://")[2].partition("/")
    account = ""
    if "@" in root:
        root, _, host = root.partition("@")
        if scheme != "az" or ":" in root:
            raise ArgumentError(
                "has a login in front of its bucket",
                where=f"{scheme}://{host}",
                cure="Credentials come from the environment, from files or as options.",
            )
        account = host.partition(".")[0]
    if not root:
        raise ArgumentError(
            f"{text[:_SHOWN]!r} names no bucket", cure=f"Use {scheme}://bucket/key."
        )
    if not _BUCKET.fullmatch(root):
        raise ArgumentError(
            f"{root[:_SHOWN]!r} cannot be the name of a bucket",
            cure="It has letters, digits, dots, hyphens and underscores alone.",
        )
    return Address(scheme, root, path.strip("/"), not path or path.endswith("/"), account)


def _web(text: str) -> Address:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ArgumentError(f"is no URL: {error}", where=text.partition("?")[0][:_SHOWN]) from None
    if not host:
        raise ArgumentError(f"{text[:_SHOWN]!r} names no server")
    root = f"[{host}]" if ":" in host else host
    return Address(
        parts.scheme.lower(),
        root if port is None else f"{root}:{port}",
        unquote(parts.path).strip("/"),
        parts.path in ("", "/") or parts.path.endswith("/"),
        login=parts.netloc.rpartition("@")[0],
        query=parts.query,
    )


def check_key(key: str, where: str) -> None:
    """Refuse a key that leads elsewhere or that no store keeps.

    Raises:
        UnsafeError: it is empty, too long, or has empty parts, "." or "..".
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(ord(letter) < 32 for letter in key):
        shown = key if len(key) <= _SHOWN else f"{key[: _SHOWN - 3]}..."
        raise UnsafeError(
            f"the key {shown!r} leads out of the folder, or to nothing",
            where=where,
            cure='Its parts, between slashes, may not be empty, "." or "..".',
        )
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise UnsafeError("the key is no text that can be encoded", where=where) from None
    if size > 1024:
        raise UnsafeError(f"the key has {size:,} bytes, 1,024 are allowed", where=where)
