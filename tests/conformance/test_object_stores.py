"""Objects in buckets, against the public checks, on every server that there is one of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.servers import Answer, FileServer, Proxy, Reset, Server
from tests.stores.objects import store_of

from tensorkeep import testing
from tensorkeep.formats import WRITTEN
from tensorkeep.source import Source
from tensorkeep.store import Chunks, Progress, Store
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.stores.object import ObjectStore
from tensorkeep.testing.stores import check_keys

SERVERS = ("s3", "rclone_s3", "azure")

# What can be checked of a server that is only read from: no key is listed.
READING = (
    "checks bounds",
    "keeps views alive",
    "reads in every way",
    "serves threads",
    "takes large values",
)
# A thousand requests and more take seconds: a few pages of a listing show the same.
THOUSAND = "keeps a thousand keys"


@pytest.fixture(params=SERVERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """Give what makes an empty store."""
    server: Server = request.getfixturevalue(request.param)
    return lambda: store_of(server.bucket(), "below", whole=not server.ranges)


@pytest.mark.parametrize("check", [name for name in testing.STORE_CHECKS if name != THOUSAND])
def test_contract(make: Callable[[], Store], check: str) -> None:
    store = make()
    testing.STORE_CHECKS[check](store)
    store.close()


def test_many_keys(s3: Server) -> None:
    assert THOUSAND in testing.STORE_CHECKS
    check_keys(store_of(s3.bucket()), 110)


def test_any_order_of_operations(s3: Server) -> None:
    few = settings(max_examples=3, stateful_step_count=10)
    machine = testing.store_machine(lambda: store_of(s3.bucket()))
    run_state_machine_as_test(machine, settings=few)


def test_any_order_of_operations_where_requests_fail(s3: Server) -> None:
    few = settings(max_examples=2, stateful_step_count=10)
    with Proxy(s3.port) as proxy:
        proxy.fail(Answer(503), chance=0.05, seed=1)
        proxy.fail(Reset(), chance=0.05, seed=2)
        machine = testing.store_machine(lambda: store_of(s3.bucket().through(proxy)))
        run_state_machine_as_test(machine, settings=few)
        assert sum(rule.befell for rule in proxy.rules) >= 5


@pytest.mark.parametrize("name", ["npz", "safetensors", "zarr"])
def test_failing_saves_leave_the_old_state(s3: Server, name: str) -> None:
    arrays = [np.full((2, 2), i, np.float32) for i in range(2)]
    format = WRITTEN[name]
    old, new = (testing.fitting(format, {"a": {"b": a}, "n": [a]}, {"a": a}) for a in arrays)
    make = partial(store_of, s3.bucket())
    assert testing.check_failing_saves(format, old, new, make) >= 2


class _Served(Store):
    """What is put here is read over HTTP."""

    def __init__(self, server: FileServer) -> None:
        self._memory = MemoryStore()
        self._memory.data = server.files = {}
        self._web = ObjectStore(server.url().rstrip("/"))

    def keys(self, prefix: str = "") -> Iterator[str]:
        raise NotImplementedError

    def get(self, key: str) -> Source:
        return self._web.get(key)

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self._memory.put(key, chunks, size=size)

    def delete(self, key: str) -> None:
        self._memory.delete(key)

    def commit(self) -> None:
        self._memory.commit()

    def rollback(self) -> None:
        self._memory.rollback()


@pytest.mark.parametrize("check", READING)
def test_contract_of_reading_over_http(http: FileServer, check: str) -> None:
    testing.STORE_CHECKS[check](_Served(http))
