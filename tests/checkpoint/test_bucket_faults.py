"""Saves over a network that fails: all is as it was, the error says so, and the next save works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.checkpoint.bucket_runs import MANIFEST, Run, state
from tests.servers import Answer, Cut, Proxy, Reset

import tensorkeep as tk
from tensorkeep import testing
from tensorkeep.errors import StoreError

_QUICK = {"patience": 0.4}
_WRONG = Answer(400, b"<Error><Code>BadDigest</Code><Message>no</Message></Error>")


@pytest.fixture
def proxy(run: Run) -> Iterator[Proxy]:
    with Proxy(run.bucket.port) as proxy:
        yield proxy


def _saver(run: Run, proxy: Proxy, **options: Any) -> tk.Checkpointer:
    return tk.Checkpointer(run.through(proxy, **_QUICK), rng=False, **options)


def _is_restored(run: Run, number: int) -> bool:
    with tk.Checkpointer(run.url, read_only=True) as ck:
        restored = ck.restore()
    assert restored is not None
    assert not restored.skipped
    testing.assert_equal_states(restored.state, state(restored.state["n"]))
    return bool(restored.state["n"] == number)


@pytest.mark.parametrize("again", [False, True], ids=["new", "replaced"])
def test_whichever_request_fails_all_is_as_it_was(again: bool, run: Run, proxy: Proxy) -> None:
    newest, failures = 1, 0
    with _saver(run, proxy) as ck:
        ck.save(1, state(1))
        for place in range(0, 40, 3 if again else 1):
            rule = proxy.fail(_WRONG, only={place})
            number = place + 2
            try:
                ck.save(1 if again else number, state(number), overwrite=again)
            except StoreError:
                failures += 1
            else:
                newest = number
            proxy.heal()
            assert _is_restored(run, newest), place
            if not rule.befell:
                break
        assert rule.befell == 0
        assert failures >= (3 if again else 8)
        ck.save(90, state(90))
    left = {key.split("/")[1] for key in run.keys()} - {MANIFEST}
    named = {data for step in run.steps() for data in run.data_of(step)}
    assert left >= named
    assert _is_restored(run, 90)


def test_a_network_that_is_gone_and_comes_back(run: Run, proxy: Proxy) -> None:
    with _saver(run, proxy) as ck:
        ck.save(1, state(1))
        proxy.fail(Reset())
        with pytest.raises(StoreError):
            ck.save(2, state(2))
        proxy.heal()
        run.check([1])
        proxy.fail(Reset(), on="PUT", target="model")
        with pytest.raises(StoreError):
            ck.save(2, state(2))
        proxy.heal()
        run.check([1])  # and what it had put by then was removed
        ck.save(2, state(2))
    run.check([1, 2])


def test_what_could_not_be_removed_is_removed_later(run: Run, proxy: Proxy) -> None:
    with _saver(run, proxy) as ck:
        ck.save(1, state(1))
        proxy.fail(_WRONG, on="PUT", target="model")
        proxy.fail(_WRONG, on="POST DELETE")
        with pytest.raises(StoreError):
            ck.save(2, state(2))
        assert run.data_of(2)
        proxy.heal()
        assert run.steps() == [1]
        ck.save(3, state(3))
    run.check([1, 3])


def test_a_background_save_that_fails_is_told(run: Run, proxy: Proxy) -> None:
    with _saver(run, proxy, background=True) as ck:
        ck.save(1, state(1)).wait()
        proxy.fail(_WRONG, on="PUT", target="model")
        saving = ck.save(2, state(2))
        with pytest.raises(StoreError):
            ck.wait()
        assert not saving.committed
        proxy.heal()
        run.check([1])
        ck.save(2, state(2))
    run.check([1, 2])


@pytest.mark.parametrize("again", [False, True], ids=["new", "replaced"])
def test_a_commit_whose_answer_is_lost_is_one(again: bool, run: Run, proxy: Proxy) -> None:
    with _saver(run, proxy) as ck:
        ck.save(1, state(1))
        ck.save(1, state(1), overwrite=True)
        rule = proxy.fail(Reset(after=True), on="PUT", target=MANIFEST, only={0})
        ck.save(1 if again else 2, state(2), overwrite=again)
        assert rule.befell == 1
    run.check([1] if again else [1, 2], {1: 2} if again else None)


def test_a_commit_that_is_not_answered_may_not_be_one(run: Run, proxy: Proxy) -> None:
    """Its data stay, as the manifest may yet appear; if it does not, they are swept once old."""
    with _saver(run, proxy) as ck:
        ck.save(1, state(1))
        proxy.fail(Reset(), on="PUT", target=MANIFEST)
        with pytest.raises(StoreError, match="did not say whether it is saved"):
            ck.save(2, state(2))
        proxy.heal()
        assert run.steps() == [1]
        ck.save(2, state(3))
        assert len(run.data_of(2)) == 2
    assert _is_restored(run, 3)


def test_a_network_that_stumbles_is_not_noticed(run: Run, proxy: Proxy) -> None:
    proxy.fail(Answer(503), chance=0.1, seed=1)
    proxy.fail(Reset(), chance=0.05, seed=2, on="GET HEAD PUT")
    proxy.fail(Cut(after=100), chance=0.1, seed=3, on="GET", target="safetensors")
    there = run.through(proxy, patience=20.0)
    with tk.Checkpointer(there, rng=False, keep="last=2") as ck:
        for number in range(1, 5):
            ck.save(number, state(number))
        restored = ck.restore()
    assert restored is not None
    testing.assert_equal_states(restored.state, state(4))
    proxy.heal()
    run.check([3, 4])


def test_a_store_that_is_not_reached_is_told_at_once(run: Run, proxy: Proxy) -> None:
    proxy.fail(Reset())
    with pytest.raises(StoreError):
        _saver(run, proxy)
    with pytest.raises(StoreError):
        tk.checkpoints(run.through(proxy, **_QUICK))


def test_an_older_one_is_no_cure_for_a_network_that_fails(run: Run, proxy: Proxy) -> None:
    with _saver(run, proxy) as ck:
        ck.save(1, state(1))
        ck.save(2, state(2))
        (data,) = run.data_of(2)
        proxy.fail(_WRONG, on="GET", target=f"{data}/")
        with pytest.raises(StoreError, match="step-00000002"):
            ck.restore()
        proxy.heal()
        restored = ck.restore()
    assert restored is not None
    assert restored.step == 2
