"""Engines that other threads close, and databases that others change, while they are opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tensorkeep.database import opening
from tensorkeep.database.engine import Engine, Snapshot
from tensorkeep.database.handle import Handle, await_closing
from tensorkeep.database.staging import Staging
from tensorkeep.errors import CorruptError, StoreError, TensorKeepError


class Changing(Engine):
    """An engine whose database changes as it is opened; `times`, then it holds still."""

    times: ClassVar[int]
    opened: ClassVar[int]

    def __init__(
        self, path: str, options: Mapping[str, Any], *, writable: bool, create: bool = False
    ) -> None:
        super().__init__(path, options, writable=writable, create=create)
        type(self).opened += 1
        if type(self).opened <= self.times:
            (Path(path) / f"table-{self.opened}").touch()
            raise ValueError("a file is missing")

    def take(self) -> Snapshot:
        raise NotImplementedError

    def apply(self, staging: Staging, *, durable: bool) -> None:
        raise NotImplementedError

    @staticmethod
    def explain(error: Exception, where: str) -> TensorKeepError | None:
        return CorruptError(f"is damaged: {error}", where=where)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "table").touch()
    Changing.opened = 0
    return str(tmp_path)


def test_one_that_changed_is_opened_again(path: str) -> None:
    Changing.times = 3
    engine = opening.share(Changing, path, "db", {}, writable=False)
    assert Changing.opened == 4
    assert opening.share(Changing, path, "db", {}, writable=False) is engine


def test_one_that_changes_all_the_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_CHANGING", 0.05)
    Changing.times = 1_000_000
    with pytest.raises(StoreError, match=r"db: was being changed by another process.*copy"):
        opening.share(Changing, path, "db", {}, writable=False)
    assert Changing.opened > 1


def test_a_writer_changes_it_itself(path: str) -> None:
    Changing.times = 1
    with pytest.raises(CorruptError, match="damaged"):
        opening.share(Changing, path, "db", {}, writable=True)
    assert Changing.opened == 1


class Owner:
    """What a handle belongs to."""

    closed = False


def test_a_handle_closes_the_last_thing_first() -> None:
    owner, said = Owner(), list[int]()
    handle = Handle("db", owner)
    for i in range(3):
        handle.push(said.append, i)
    handle.close()
    handle.close()
    assert said == [2, 1, 0]


def test_a_handle_is_closed_with_its_owner_whatever_happens() -> None:
    owner, said = Owner(), list[int]()
    handle = Handle("db", owner)
    handle.push(said.append, 1)
    handle.push(int, "no number")
    del owner
    assert said == [1]
    assert not handle.is_closing("other")


def test_who_opens_waits_for_who_closes() -> None:
    owner, said = Owner(), list[str]()
    handle = Handle("db", owner)
    begun = threading.Event()

    def close() -> None:
        begun.set()
        time.sleep(0.05)
        said.append("closed")

    handle.push(close)
    owner.closed = True
    thread = threading.Thread(target=handle.close)
    thread.start()
    begun.wait()
    await_closing("other")
    assert said == []
    await_closing("db")
    assert said == ["closed"]
    thread.join()
