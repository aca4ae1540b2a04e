from __future__ import annotations

import pytest

from tensorkeep import errors
from tensorkeep.stores import locate
from tensorkeep.stores.memory import MemoryStore


def test_what_it_was_made_of_stays() -> None:
    given = {"a": b"1"}
    store = MemoryStore(given, where="here")
    store.put("a", [b"2"])
    store.commit()
    assert given == {"a": b"1"}
    assert store.get("a").where == "here/a"
    with pytest.raises(errors.MissingError, match="here"):
        store.get("b")


def test_chunks_may_change_after_they_were_put() -> None:
    store, chunk = MemoryStore(), bytearray(b"123")
    store.put("a", [chunk])
    chunk[0] = 0
    store.commit()
    assert store.data == {"a": b"123"}


def test_a_location_opens_its_bytes_once() -> None:
    location = locate(MemoryStore({"run/model.BIN": b"x" * 5000}))
    assert (location.key, location.head, location.name, location.suffix) == ("", b"", "", "")
    inside = location.sibling("run/model.BIN")
    assert inside.source is inside.source
    assert (inside.head, inside.name, inside.suffix) == (b"x" * 4096, "model.BIN", ".bin")
    assert inside.sibling("other").key == "run/other"
    inside.close()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/../b", "/a", "a//b", "a/", "a\\b", "a\0", "é" * 200],
)
def test_siblings_stay_in_their_folder(name: str) -> None:
    location = locate(MemoryStore({"run/index.json": b"{}"}, where="mem")).sibling("run/index.json")
    with pytest.raises(errors.UnsafeError, match="not inside its own folder"):
        location.sibling(name)
