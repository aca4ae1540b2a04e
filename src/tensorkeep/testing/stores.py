"""What every store has to do: small checks by name, and a state machine that mixes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tensorkeep.errors import CorruptError, MissingError, StoreError
from tensorkeep.source import Source
from tensorkeep.store import Chunk, Store

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

_LARGE = 20 << 20


class _PlannedError(Exception):
    """Raised by chunks that fail on purpose."""


def check_store(make_store: Callable[[], Store]) -> None:
    """Run every check of `STORE_CHECKS`, each on a store of its own.

    Args:
        make_store: gives an empty store.

    Raises:
        AssertionError: the store breaks its contract; the message says how.

    >>> from tensorkeep.stores.memory import MemoryStore
    >>> check_store(MemoryStore)
    """
    for check in STORE_CHECKS.values():
        store = make_store()
        try:
            check(store)
        finally:
            store.close()


def _expect(same: bool, problem: str) -> None:
    if not same:
        raise AssertionError(problem)


def _bytes(store: Store, key: str) -> bytes | None:
    """Give the committed bytes of a key, or None where there is none."""
    try:
        source = store.get(key)
    except MissingError:
        return None
    try:
        return bytes(source.read(0, source.size))
    finally:
        source.close()


def _fitting(store: Store, value: bytes) -> bytes:
    """Give a value that the store holds: some databases hold none that is empty."""
    return value or (b"" if store.holds_empty else b"\0")


def _contents(store: Store) -> dict[str, bytes | None]:
    return {key: _bytes(store, key) for key in store.keys()}


def _save(store: Store, **values: bytes) -> None:
    for key, value in values.items():
        store.put(key, [value], size=len(value))
    store.commit()


def _starts_empty(store: Store) -> None:
    _expect(list(store.keys()) == [], "a new store has keys")
    _expect(_bytes(store, "a") is None, "a new store has a value")


def _gives_what_was_put(store: Store) -> None:
    values = {"zero": b"\0", "text": b"weights", "all": bytes(range(256)) * 17}
    values["empty"] = _fitting(store, b"")
    for key, value in values.items():
        store.put(key, [value])
    store.commit()
    _expect(_contents(store) == values, f"found {_contents(store)}")


def _joins_chunks(store: Store) -> None:
    chunks: list[Chunk] = [b"one", b"", bytearray(b"two"), memoryview(b"..three..")[2:7], b""]
    taken: list[int] = []
    store.put("a", iter(chunks), size=11, progress=taken.append)
    none = _fitting(store, b"")
    store.put("none", iter([none] if none else []), size=len(none))
    store.commit()
    _expect(_contents(store) == {"a": b"onetwothree", "none": none}, f"found {_contents(store)}")
    _expect(sum(taken) == 11, f"progress counts {sum(taken)} bytes of 11")


def _takes_large_values(store: Store) -> None:
    piece = bytes(range(256)) * 4096
    store.put("large", (piece for _ in range(_LARGE // len(piece))), size=_LARGE)
    store.commit()
    source = store.get("large")
    _expect(source.size == _LARGE, f"{source.size} bytes of {_LARGE} are there")
    for at in (0, _LARGE // 2, _LARGE - len(piece)):
        _expect(source.read(at, at + len(piece)) == piece, f"wrong bytes at {at}")
    source.close()


def _takes_many_small_chunks(store: Store) -> None:
    store.put("a", (bytes([i % 256]) for i in range(5000)), size=5000)
    store.commit()
    found = _bytes(store, "a")
    _expect(found == bytes(i % 256 for i in range(5000)), "small chunks are not joined in order")


def _shows_nothing_before_commit(store: Store) -> None:
    _save(store, old=b"1", gone=b"2")
    store.put("old", [b"replaced"])
    store.put("new", [b"3"])
    store.delete("gone")
    _expect(_contents(store) == {"old": b"1", "gone": b"2"}, f"found {_contents(store)}")
    store.commit()
    _expect(_contents(store) == {"old": b"replaced", "new": b"3"}, f"found {_contents(store)}")


def _forgets_at_rollback(store: Store) -> None:
    _save(store, old=b"1", kept=b"2")
    store.put("old", [b"replaced"])
    store.put("new", [b"3"])
    store.delete("kept")
    store.rollback()
    store.commit()
    _expect(_contents(store) == {"old": b"1", "kept": b"2"}, f"found {_contents(store)}")


def _keeps_the_last_of_several(store: Store) -> None:
    _save(store, a=b"old", b=b"old")
    store.put("a", [b"first"])
    store.put("a", [b"second"])
    store.delete("b")
    store.put("b", [b"back"])
    store.put("c", [b"never seen"])
    store.delete("c")
    store.commit()
    _expect(_contents(store) == {"a": b"second", "b": b"back"}, f"found {_contents(store)}")


def _deletes(store: Store) -> None:
    _save(store, a=b"1", b=b"2")
    store.delete("a")
    store.delete("never was")
    store.commit()
    _expect(_contents(store) == {"b": b"2"}, f"found {_contents(store)}")


def _drops_a_put_that_fails(store: Store) -> None:
    def chunks() -> Iterator[Chunk]:
        yield b"half of it"
        raise _PlannedError

    _save(store, a=b"old")
    store.put("before", [b"1"])
    try:
        store.put("a", chunks(), size=100)
    except _PlannedError:
        pass
    else:
        raise AssertionError("put swallowed the failure of its chunks")
    store.put("after", [b"2"])
    store.commit()
    expected = {"a": b"old", "before": b"1", "after": b"2"}
    _expect(_contents(store) == expected, f"found {_contents(store)}")


def _keeps_a_thousand_keys(store: Store) -> None:
    check_keys(store, 1000)


def check_keys(store: Store, count: int) -> None:
    """Check that a store keeps so many keys apart.

    Raises:
        AssertionError: it does not.

    >>> from tensorkeep.stores.memory import MemoryStore
    >>> check_keys(MemoryStore(), 10)
    """
    values = {f"key-{i:04}": str(i).encode() for i in range(count)}
    for key, value in values.items():
        store.put(key, [value], size=len(value), durable=False)
    store.commit()
    first, second = list(store.keys()), list(store.keys())
    _expect(first == second, "keys come in another order the second time")
    _expect(sorted(first) == sorted(values), "keys are missing or come twice")
    _expect(_contents(store) == values, "values are mixed up")


def _finds_by_prefix(store: Store) -> None:
    _save(store, **dict.fromkeys(["model-1", "model-2", "mode", "other"], b"1"))
    found = [sorted(store.keys(prefix)) for prefix in ("model-", "model-2", "x", "")]
    expected = [["model-1", "model-2"], ["model-2"], [], ["mode", "model-1", "model-2", "other"]]
    _expect(found == expected, f"found {found}")


def _takes_any_text_as_key(store: Store) -> None:
    keys = ["ünïcode", "模型", "\U0001d11e", "a b", "a:b?c*", "'\"", "-", "~", "k" * 200]
    _save(store, **{key: key.encode() for key in keys})
    _expect(sorted(store.keys()) == sorted(keys), f"found {list(store.keys())}")
    for key in keys:
        _expect(_bytes(store, key) == key.encode(), f"wrong value of {key!r}")


def _checks_bounds(store: Store) -> None:
    _save(store, a=b"12345")
    source = store.get("a")
    for start, stop in ((0, 6), (-1, 2), (3, 2), (6, 6), (2**70, 2**70 + 1)):
        try:
            source.read(start, stop)
        except CorruptError:
            continue
        raise AssertionError(f"bytes {start} to {stop} of 5 were given")
    _expect(bytes(source.read(5, 5)) == b"", "an empty range at the end is not empty")
    source.close()


def _reads_in_every_way(store: Store) -> None:
    _save(store, a=b"0123456789")
    source = store.get("a")
    buffer = bytearray(3)
    source.readinto(4, memoryview(buffer))
    _expect(buffer == b"456", f"readinto gave {buffer}")
    private = source.private(2, 5)
    private[:] = b"xyz"
    _expect(bytes(source.read(0, 10)) == b"0123456789", "writing to a private view got through")
    _expect(source.read(0, 10).readonly, "a view that is read can be written to")
    source.close()
    _expect(_bytes(store, "a") == b"0123456789", "writing to a private view reached the store")


def _keeps_views_alive(store: Store) -> None:
    value = bytes(range(256)) * 64
    _save(store, a=value, b=value)
    sources = store.get("a"), store.get("b")
    views = [source.read(0, source.size) for source in sources]
    private = sources[0].private(0, 3)
    store.put("a", [b"replaced"])
    store.delete("b")
    store.commit()
    _expect(views[0] == value and views[1] == value, "a replaced value changed under its view")
    _expect(_still(sources[1], 1, 3) in (value[1:3], None), "an open source lost its bytes")
    _expect(_still(sources[0], 1, 3) in (value[1:3], None), "an open source has other bytes now")
    for source in sources:
        source.close()
    store.close()
    _expect(views[0] == value and views[1] == value, "a view died with its store")
    _expect(bytes(private) == value[:3], "a private view died with its store")


def _still(source: Source, start: int, stop: int) -> bytes | None:
    """Read what was replaced or deleted; None where the store is remote and says that it was."""
    try:
        return bytes(source.read(start, stop))
    except StoreError:
        if not source.remote:
            raise
        return None


def _serves_threads(store: Store) -> None:
    values = {f"k{i}": bytes([i]) * 50_000 for i in range(8)}
    _save(store, **values)
    shared = {key: store.get(key) for key in values}

    def read(i: int) -> bool:
        key = f"k{i % 8}"
        source = shared[key] if i % 2 else store.get(key)
        at = i * 97 % 40_000
        return bytes(source.read(at, at + 5000)) == values[key][at : at + 5000]

    with ThreadPoolExecutor(8) as pool:
        _expect(all(pool.map(read, range(400))), "threads that read together got wrong bytes")


STORE_CHECKS: dict[str, Callable[[Store], None]] = {
    check.__name__.strip("_").replace("_", " "): check
    for check in (
        _starts_empty,
        _gives_what_was_put,
        _joins_chunks,
        _takes_large_values,
        _takes_many_small_chunks,
        _shows_nothing_before_commit,
        _forgets_at_rollback,
        _keeps_the_last_of_several,
        _deletes,
        _drops_a_put_that_fails,
        _keeps_a_thousand_keys,
        _finds_by_prefix,
        _takes_any_text_as_key,
        _checks_bounds,
        _reads_in_every_way,
        _keeps_views_alive,
        _serves_threads,
    )
}


def store_machine(make_store: Callable[[], Store]) -> type[RuleBasedStateMachine]:
    """Give a hypothesis state machine that compares a store with a dict, step by step.

    Run it with `hypothesis.stateful.run_state_machine_as_test`.
    """
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

    names = st.sampled_from(["a", "b.tmp"])
    values = st.lists(st.binary(max_size=20), max_size=3)

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = make_store()
            self.committed: dict[str, bytes] = {}
            self.pending: dict[str, bytes | None] = {}

        @rule(key=names, chunks=values, sized=st.booleans(), durable=st.booleans())
        def put(self, key: str, chunks: list[bytes], sized: bool, durable: bool) -> None:
            value = _fitting(self.store, b"".join(chunks))
            size = len(value) if sized else None
            taken = chunks if b"".join(chunks) == value else [value]
            self.store.put(key, iter(taken), size=size, durable=durable)
            self.pending[key] = value

        @rule(key=names, chunks=values)
        def put_that_fails(self, key: str, chunks: list[bytes]) -> None:
            def failing() -> Iterator[Chunk]:
                yield from chunks
                raise _PlannedError

            try:
                self.store.put(key, failing())
            except _PlannedError:
                return
            raise AssertionError("put swallowed the failure of its chunks")

        @rule(key=names)
        def delete(self, key: str) -> None:
            self.store.delete(key)
            self.pending[key] = None

        @rule()
        def commit(self) -> None:
            self.store.commit()
            for key, value in self.pending.items():
                if value is None:
                    self.committed.pop(key, None)
                else:
                    self.committed[key] = value
            self.pending.clear()

        @rule()
        def rollback(self) -> None:
            self.store.rollback()
            self.pending.clear()

        @invariant()
        def shows_what_was_committed(self) -> None:
            found: dict[str, Any] = _contents(self.store)
            _expect(found == self.committed, f"found {found}, expected {self.committed}")
            for key in ("a", "b.tmp"):
                _expect(_bytes(self.store, key) == self.committed.get(key), f"get({key!r}) differs")

        def teardown(self) -> None:
            self.store.close()

    return Machine
