"""Several writers of one run in a bucket, and writers that die: nothing committed is lost."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.checkpoint.bucket_runs import MANIFEST, Run, state
from tests.crash.zygote import Zygote

import tensorkeep as tk
from tensorkeep import testing
from tensorkeep.checkpoint import bucket
from tensorkeep.checkpoint.bucket import BucketFolder
from tensorkeep.checkpoint.bucket_writer import WRITER, Writer
from tensorkeep.checkpoint.folder import Draft
from tensorkeep.checkpoint.keeping import keep
from tensorkeep.checkpoint.retention import doomed, remove_doomed
from tensorkeep.errors import ArgumentError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import STATE, File, Manifest

# --- which of several commits -------------------------------------------------------------------


def _write(draft: Draft, step: int, text: bytes) -> None:
    draft.put(STATE, [text], len(text))
    draft.finish(Manifest(step, 1.0, files={STATE: File(len(text), "0" * 32)}, data=draft.data))


def _race(run: Run, step: int, replace: bool) -> tuple[list[tuple[int, str]], list[Exception]]:
    """Have four threads commit a step at once; give which of them did, and what the others said."""
    ready = threading.Barrier(4)
    won: list[tuple[int, str]] = []
    told: list[Exception] = []

    def save(number: int) -> None:
        folder = run.folder
        try:
            with folder.draft(step, durable=True) as draft:
                _write(draft, step, f"[{number}]".encode())
                ready.wait(30)
                folder.commit(draft, step, replace=replace)
            won.append((number, draft.data))
        except TensorKeepError as error:
            told.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, told


@pytest.mark.parametrize("replace", [False, True])
def test_of_many_threads_one_commits(replace: bool, run: Run) -> None:
    for step in range(2):
        if replace:
            with run.folder.draft(step, durable=True) as draft:
                _write(draft, step, b"{}")
                run.folder.commit(draft, step, replace=False)
        won, told = _race(run, step, replace)
        assert (len(won), len(told)) == (1, 3)
        assert all(type(e) is (StoreError if replace else ArgumentError) for e in told)
        assert all("another process" in str(error) for error in told)
        ((number, data),) = won
        assert run.data_of(step) == {data}
        with contextlib.closing(run.store.get(run.file_of(step, STATE))) as source:
            assert bytes(source.read(0, source.size)) == f"[{number}]".encode()


def test_of_many_processes_one_commits_each_step(run: Run, zygotes: list[Zygote]) -> None:
    steps = [1, 2]
    for number, zygote in enumerate(zygotes):
        zygote.start(
            url=run.url,
            environment=run.bucket.environment,
            race=number,
            steps=steps,
            at=time.time() + 0.3,
        )
    won = [list(zygote.told())[-1][1] for zygote in zygotes]
    committed = sorted(step for each in won for step in each)
    assert committed == sorted(set(committed))
    winner = {step: number for number, each in enumerate(won) for step in each}
    run.check(committed, {step: 1000 * number + step for step, number in winner.items()})


# --- who is the writer --------------------------------------------------------------------------


def test_whoever_took_over_is_the_writer(run: Run) -> None:
    old = tk.Checkpointer(run.url, rng=False)
    old.save(1, state(1))
    with tk.Checkpointer(run.url, rng=False) as new:
        new.save(2, state(2))
        with pytest.raises(StoreError, match="another Checkpointer has taken over here: process"):
            old.save(3, state(3))
        run.check([1, 2])
        new.save(3, state(30))
    old.close()
    run.check([1, 2, 3], {3: 30})


@pytest.mark.parametrize("options", [{}, {"background": True}])
def test_one_that_comes_back_late_commits_nothing(options: dict[str, Any], run: Run) -> None:
    """Its data were all put before it was cut off, and another has taken over since."""
    old = tk.Checkpointer(run.url, rng=False, **options)
    real = old._folder.commit

    def commit(*arguments: object, **how: bool) -> None:
        run.save(1)
        real(*arguments, **how)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(old._folder, "commit", commit)
        with pytest.raises(StoreError, match="taken over"):
            old.save(1, state(70), overwrite=True).wait()
    run.check([1])
    old.close()


def test_one_that_stood_still_before_its_commit_takes_it_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another took over after its last look, and swept what it had put."""
    old = tk.Checkpointer(run.url, rng=False)
    real = old._folder.store.create  # type: ignore[attr-defined]

    def create(*arguments: Any) -> bool:
        monkeypatch.setattr(bucket, "_AGE", -5.0)
        run.save(2)
        return bool(real(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(old._folder.store, "create", create)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match="is not saved: another Checkpointer has taken over"):
            old.save(1, state(1))
    old.close()
    run.check([2])


@pytest.mark.parametrize("again", [False, True])
def test_one_that_is_interrupted_right_after_its_commit_is_there(again: bool, run: Run) -> None:
    run.save(1)
    with tk.Checkpointer(run.url, rng=False) as ck:
        store = ck._folder.store  # type: ignore[attr-defined]
        put = store.replace if again else store.create

        def interrupt(*arguments: Any) -> None:
            put(*arguments)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, put.__name__, interrupt)
            with pytest.raises(KeyboardInterrupt):
                ck.save(1 if again else 2, state(7), overwrite=again)
    rows = tk.checkpoints(run.url)
    assert [row.ok for row in rows] == [True] * (1 if again else 2)
    testing.assert_equal_states(tk.load(rows[-1].path, verify=True), state(7))


def test_one_that_was_replaced_removes_nothing(run: Run) -> None:
    run.save(1, 2)
    old = run.folder
    old.lock()
    rows = doomed(old, keep(last=1))
    Writer(run.store)
    with pytest.raises(StoreError, match="taken over"):
        remove_doomed(old, rows, lambda step: True)
    run.check([1, 2])


def test_a_run_that_was_removed_is_not_saved_into(run: Run) -> None:
    with tk.Checkpointer(run.url) as ck:
        run.store.remove([WRITER])
        with pytest.raises(StoreError, match="was removed"):
            ck.save(1, state(1))
    assert run.keys() == []


def test_pruning_and_repair_do_not_take_over(run: Run) -> None:
    with tk.Checkpointer(run.url, rng=False) as ck:
        for step in (1, 2, 3):
            ck.save(step, state(step))
        folder = run.folder
        with folder.tending():
            remove_doomed(folder, doomed(folder, keep(last=1)), lambda step: True)
        ck.save(4, state(4))
    run.check([3, 4])


# --- what dead ones leave -----------------------------------------------------------------------


def _abandon(run: Run, step: int) -> None:
    """Leave what a killed save leaves."""
    run.store.replace(f"step-{step:08}/0123abcd/model.safetensors", b"half")


def test_what_was_left_is_removed_once_it_is_old(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save(1, 2)
    _abandon(run, 2)
    _abandon(run, 3)
    others = ["step-00000004/notes/mine.txt", "step-00000004/20260101/mine.txt"]
    for key in others:
        run.store.replace(key, b"mine")
    left = {"step-00000002/0123abcd", "step-00000003/0123abcd"}
    assert run.steps() == [1, 2]
    run.save(5)
    assert left < {key.rpartition("/")[0] for key in run.keys()}  # another may be at it yet
    monkeypatch.setattr(bucket, "_AGE", -5.0)
    assert set(run.folder.leftovers()) == left
    run.save(6)
    assert left.isdisjoint(key.rpartition("/")[0] for key in run.keys())
    assert set(others) < set(run.keys())
    run.store.remove(others)
    run.check([1, 2, 5, 6])


def test_one_whose_manifest_cannot_be_read_keeps_all_its_data(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save(1)
    _abandon(run, 1)
    run.store.replace(f"step-00000001/{MANIFEST}", b"{}")
    monkeypatch.setattr(bucket, "_AGE", -5.0)
    assert run.folder.sweep() == []
    assert len(run.data_of(1)) == 2


def test_data_that_were_swept_are_not_committed(run: Run) -> None:
    with run.folder.draft(1, durable=True) as draft:
        draft.put("model.safetensors", [b"1234"], 4)
        run.store.remove(run.keys())
        draft.put(STATE, [b"{}"], 2)
        files = {"model.safetensors": File(4, "0" * 32), STATE: File(2, "0" * 32)}
        with pytest.raises(StoreError, match=r"as model\.safetensors is gone"):
            draft.finish(Manifest(1, 1.0, files=files, data=draft.data))
    assert run.keys() == []


@pytest.mark.parametrize("kills", [5, pytest.param(150, marks=pytest.mark.slow)])
def test_killed_at_any_instant_nothing_committed_is_lost(
    kills: int, run: Run, zygotes: list[Zygote]
) -> None:
    draw, zygote, last = random.Random(kills), zygotes[0], 1
    began = time.monotonic()
    run.save(1)
    pace = time.monotonic() - began
    for number in range(kills):
        zygote.start(
            url=run.url,
            environment=run.bucket.environment,
            again=draw.random() < 0.4,
            options=draw.choice([{}, {"background": True}, {"max_shard_size": 50_000}]),
        )
        told = zygote.kill(draw.uniform(0.3, 3) * pace)
        last = max([last, *(line[1] for line in told if line[0] == "saved")])
        rows = tk.checkpoints(run.url)
        assert all(row.ok for row in rows), (number, rows)
        with tk.Checkpointer(run.url, read_only=True) as ck:
            restored = ck.restore()
        assert restored is not None
        assert restored.step >= last, (number, told)
        assert not restored.skipped
        testing.assert_equal_states(restored.state, state(restored.step))
        last = restored.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "_AGE", -5.0)
        run.save(last + 1)
    run.check(run.steps())


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    with contextlib.ExitStack() as held:
        yield [held.enter_context(Zygote("tests.checkpoint.bucket_child")) for _ in range(2)]


def test_folders_are_named_by_their_address(run: Run) -> None:
    assert run.folder.where_of(7) == f"{run.url}/step-00000007"
    assert isinstance(run.folder, BucketFolder)
