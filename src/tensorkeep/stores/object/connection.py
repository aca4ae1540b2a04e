"""A connection to a bucket, container or server: made when it is needed, one in each process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.stores.object import credentials, failures, runtime
from tensorkeep.stores.object.addresses import Address
from tensorkeep.stores.object.runtime import obstore
from tensorkeep.version import __version__

PATIENCE = 60.0  # seconds
CONCURRENCY = 8  # requests of one transfer at a time
_PROMPT = 16 << 20  # bytes that even a slow line takes in half of the usual patience


class Connection:
    """A bucket, container or server as obstore reaches it.

    Args:
        address: of which the path does not matter.
        options: see `tensorkeep.remote`.
    """

    def __init__(self, address: Address, options: Mapping[str, Any]) -> None:
        self.address = address
        self.options = dict(options)
        self.where = address.bucket
        self.patience = _number("patience", options.get("patience", PATIENCE), 0.001, 1e6)
        self.concurrency = int(
            _number("concurrency", options.get("concurrency", CONCURRENCY), 1, 1000)
        )
        self.creates = address.scheme in ("gs", "az")  # known to create, or change, conditionally
        self.replaces = self.creates
        self._stores: dict[tuple[int, int], Any] = {}  # by process and how much time they give
        self._singly = False
        self._seen: credentials.Found | None = None

    @property
    def store(self) -> Any:
        """The store of obstore, of all the bucket: keys are whole ones. Its methods do it all.

        Raises:
            MissingDependencyError: obstore is not installed.
            StoreError: there are no credentials.
            ArgumentError: it has no such option.
        """
        return self.store_for(0)

    def store_for(self, underway: int) -> Any:
        """Give the store with more time for requests of which so many bytes go at the same time."""
        ease = max(1, underway // _PROMPT)
        key = os.getpid(), ease
        found = self._stores.get(key)
        if found is None:
            with runtime.LOCK:
                found = self._stores.get(key)
                if found is None:
                    found = self._stores[key] = self._connect(self.patience * ease)
        return found

    def delete_singly(self) -> None:
        """Delete objects by a request each from now on: for a server that takes no lists."""
        self._singly = True
        self._stores = {}

    @property
    def endpoint(self) -> str:
        """The server, where it is not the usual one of the scheme."""
        return credentials.endpoint(self.address, self.options)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """What tells one bucket from another."""
        return (self.address.scheme, self.address.root, self.address.account, self.endpoint)

    @property
    def credentials(self) -> str:
        """Say which credentials are used, without what is secret of them."""
        return self._seen.told if self._seen else ""

    def failure(self, error: BaseException, where: str) -> TensorKeepError:
        """Say what an error of obstore's means for the object or bucket at `where`."""
        return failures.failure(error, where, self)

    def _connect(self, patience: float) -> Any:
        library = obstore()
        self._seen = found = credentials.find(self.address, self.options)
        if found.endpoint:
            _check_endpoint(found.endpoint, self.where)
        config = {key: value for key, value in found.config.items() if value is not None}
        if self._singly:
            config["disable_bulk_delete"] = True
        plain = found.endpoint.startswith("http://") or self.address.scheme == "http"
        client = {
            "timeout": timedelta(seconds=patience / 2),
            "connect_timeout": timedelta(seconds=min(5.0, self.patience / 2)),
            "user_agent": f"tensorkeep/{__version__}",
            "allow_http": plain,
            **_mapping("client_options", self.options),
        }
        retry = {
            "max_retries": 10,
            "backoff": {
                "init_backoff": timedelta(seconds=failures.FIRST_PAUSE),
                "max_backoff": timedelta(seconds=min(5.0, self.patience / 4)),
                "base": 2,
            },
            "retry_timeout": timedelta(seconds=patience),
            **_mapping("retry_config", self.options),
        }
        try:
            if self.address.http:
                web = replace(self.address, path="").full
                return library.store.HTTPStore(web, client_options=client, retry_config=retry)
            kinds = {
                "s3": library.store.S3Store,
                "gs": library.store.GCSStore,
                "az": library.store.AzureStore,
            }
            return kinds[self.address.scheme](
                self.address.root,
                config=config,
                client_options=client,
                retry_config=retry,
                credential_provider=found.provider,
            )
        except Exception as error:
            raise self.failure(error, self.where) from None


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
        return float(value)
    raise ArgumentError(f"{name} has to be a number from {least:g} to {most:,.0f}, not {value!r}")


def _mapping(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    given = options.get(name) or {}
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{name} has to be a dict, not {type(given).__name__}")
    return given


def _check_endpoint(endpoint: str, where: str) -> None:
    """Refuse what obstore would panic at."""
    if not re.fullmatch(r"https?://[^\s/]+(/[^\s]*)?", endpoint):
        raise ArgumentError(
            f"the endpoint {endpoint.rpartition('@')[2]!r} is no URL",
            where=where,
            cure="It starts with http:// or https://, such as http://minio.local:9000.",
        )


_connections: dict[tuple[Any, ...], Connection] = {}


def connect(address: Address, options: Mapping[str, Any]) -> Connection:
    """Give the connection of this process to an address, with these options and environment."""
    key = (
        (address.scheme, address.root, address.account, address.login, address.query),
        tuple(sorted((name, repr(value)) for name, value in options.items())),
        credentials.environment(),
    )
    return _connections.setdefault(key, Connection(address, options))
