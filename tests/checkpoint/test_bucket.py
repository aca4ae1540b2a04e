"""A Checkpointer in an object store: the same as on a disk, as far as its user can tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checkpoint.bucket_runs import MANIFEST, Run, state
from tests.servers import FileServer, Proxy, Slow

import tensorkeep as tk
from tensorkeep import testing
from tensorkeep.checkpoint.folder import open_folder
from tensorkeep.checkpoint.repair import repair
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    StoreError,
    UnknownFormatError,
)


def test_it_saves_lists_and_restores(run: Run) -> None:
    weight = np.zeros(2000, np.float32)
    with tk.Checkpointer(run.url, every_steps=2) as ck:
        for step in range(1, 6):
            weight += 1
            ck.step(step, {"w": weight, "lr": 0.1}, metrics={"loss": 1 / step})
        weight[:] = 0
        restored = ck.restore(like={"w": weight, "lr": 0.0})
        assert repr(ck) == f"Checkpointer({run.url!r})"
    assert restored is not None
    assert (restored.step, restored.state["lr"], restored.metrics) == (4, 0.1, {"loss": 0.25})
    assert weight.tolist() == [4] * 2000
    assert restored.path == f"{run.url}/step-00000004"
    rows = tk.checkpoints(run.url)
    assert [(row.step, row.ok, row.verified) for row in rows] == [(2, True, 0), (4, True, 0)]
    assert rows[1].path == restored.path
    assert rows[1].size > weight.nbytes
    assert tk.load(rows[0].path)["w"].tolist() == [2] * 2000
    with tk.open(rows[1].path) as opened:
        assert opened["w"][:3].tolist() == [4, 4, 4]
    assert run.keys() == sorted(
        [
            f"step-{step:08}/{name}"
            for step in (2, 4)
            for (data,) in [run.data_of(step)]
            for name in (MANIFEST, f"{data}/model.safetensors", f"{data}/state.json")
        ]
    )


def test_it_may_be_given_in_other_ways(run: Run, tmp_path: Path) -> None:
    run.save(1)
    for target in (
        tk.remote(run.url + "/", **run.bucket.options),
        run.store,
        tk.Location(run.bucket_store, run.prefix),
        run.url + "/",
    ):
        assert [row.step for row in tk.checkpoints(target)] == [1]
        with tk.Checkpointer(target, read_only=True) as ck:
            restored = ck.restore()
            assert restored is not None
            testing.assert_equal_states(restored.state, state(1))
            with pytest.raises(ArgumentError, match="read_only"):
                ck.save(2, state(2))
    with tk.Checkpointer(tk.Location(tk.stores.file.FileStore(tmp_path), "x")) as ck:
        ck.save(1, state(1))
    assert (tmp_path / "x" / "step-00000001").is_dir()


def test_what_can_hold_none_is_refused(http: FileServer) -> None:
    with pytest.raises(ArgumentError, match="no checkpoints"):
        open_folder(tk.stores.memory.MemoryStore())
    with pytest.raises(ArgumentError, match="ftp"):
        tk.Checkpointer("ftp://bucket/run")
    with pytest.raises(ArgumentError, match="'s3:/bucket/run' was an URL"):
        tk.Checkpointer(Path("s3://bucket/run"))
    with pytest.raises((ArgumentError, StoreError)):
        tk.Checkpointer(f"http://127.0.0.1:{http.port}/run")


def test_there_is_none_yet(run: Run) -> None:
    with pytest.raises(MissingError, match="no such folder"):
        tk.checkpoints(run.url)
    with tk.Checkpointer(run.url, read_only=True) as ck:
        assert ck.checkpoints() == []
        assert ck.restore() is None
        with pytest.raises(MissingError, match="no checkpoint of step 7"):
            ck.restore(step=7)


def test_a_step_is_replaced_only_if_that_is_said(run: Run) -> None:
    with tk.Checkpointer(run.url) as ck:
        ck.save(1, state(1))
        before = run.data_of(1)
        with pytest.raises(ArgumentError, match="saved already"):
            ck.save(1, state(5))
        run.check([1])
        ck.save(1, state(5), overwrite=True)
    run.check([1], {1: 5})
    assert run.data_of(1).isdisjoint(before)


def test_what_has_not_changed_is_copied_by_the_store(run: Run) -> None:
    with Proxy(run.bucket.port) as proxy, tk.Checkpointer(run.through(proxy)) as ck:
        first = ck.save(1, state(1))
        assert proxy.sent("PUT") > 80_000
        proxy.forget()
        second = ck.save(2, state(2))
        assert proxy.sent("PUT") < 40_000
        copied = [seen for seen in proxy.requests("PUT") if "x-amz-copy-source" in seen.headers]
        assert [seen.target.rpartition("/")[2] for seen in copied] == ["frozen.safetensors"]
        assert (first.shared, second.shared > 80_000) == (0, True)
    run.check([1, 2])
    run.store.remove([key for key in run.keys() if "step-00000001" in key])
    run.check([2])


@pytest.mark.parametrize("background", [False, True])
def test_what_the_store_cannot_copy_is_uploaded(
    background: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tk.stores.object.ObjectStore, "copy", lambda *_: False)
    run.save(1, 2, background=background)
    run.check([1, 2])


def test_a_parent_that_is_gone_is_not_missed(run: Run) -> None:
    with tk.Checkpointer(run.url) as ck:
        ck.save(1, state(1))
        run.store.remove(run.keys())
        ck.save(2, state(2))
    run.check([2])


@pytest.mark.parametrize("options", [{"background": True}, {"background": True, "fenced": True}])
def test_saves_in_the_background(options: dict[str, Any], run: Run) -> None:
    with tk.Checkpointer(run.url, keep="last=2", **options) as ck:
        for number in (1, 2, 3):
            given = state(number)
            saving = ck.save(number, given)
            ck.fence()
            given["model"]["w"][:] = -1
        saving.wait()
        assert saving.committed
    run.check([2, 3])


@pytest.mark.parametrize("busy", ["skip", "replace"])
def test_a_save_that_finds_another_under_way(busy: Any, run: Run) -> None:
    with (
        Proxy(run.bucket.port) as proxy,
        tk.Checkpointer(run.through(proxy), background=True, busy=busy) as ck,
    ):
        proxy.fail(Slow(200_000), on="PUT", target="frozen")
        first = ck.save(1, state(1))
        second = ck.save(2, state(2))
        ck.wait()
    committed = 1 if busy == "skip" else 2
    assert (first.committed, second.committed) == (busy == "skip", busy == "replace")
    assert (second.skipped, first.replaced) == (busy == "skip", busy == "replace")
    run.check([committed])


def test_a_signal_and_an_exception_save(run: Run) -> None:
    def train() -> None:
        options: dict[str, Any] = {"signals": {"SIGUSR1": "continue"}, "on_exception": True}
        with tk.Checkpointer(run.url, **options) as ck:
            os.kill(os.getpid(), signal.SIGUSR1)
            ck.step(1, state(1))
            ck.step(2, state(2))
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        train()
    rows = tk.checkpoints(run.url)
    assert [(row.step, row.reason) for row in rows] == [(1, "SIGUSR1"), (2, "exception")]
    run.check([1, 2])


def test_rules_keep_the_best_and_the_newest(run: Run) -> None:
    with tk.Checkpointer(run.url, keep="last=1,best=loss", rng=False) as ck:
        for step, loss in ((1, 0.5), (2, 0.1), (3, 0.4), (4, 0.3)):
            ck.save(step, state(step), metrics={"loss": loss})
    run.check([2, 4])
    found = {row.step: row.verified for row in tk.checkpoints(run.url)}
    assert found[4] > 0  # it was read before the others went
    marks = list(run.store.keys(".tensorkeep/verified/"))
    assert all("step-00000002" in key or "step-00000004" in key for key in marks)


def test_the_last_sound_one_is_never_removed(run: Run) -> None:
    run.save(1, 2)
    run.damage(2)
    saver = tk.Checkpointer(run.url, keep="last=1", rng=False)
    real = saver._folder.commit

    def commit(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        run.damage(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver._folder, "commit", commit)
        saver.save(3, state(3))
    with pytest.warns(RuntimeWarning, match="none was removed"):
        saver.close()
    assert run.steps() == [1, 2, 3]
    with tk.Checkpointer(run.url) as ck:
        with pytest.warns(RuntimeWarning, match="skipped"):
            restored = ck.restore()
        assert restored is not None
        assert restored.step == 1
        assert [os.path.basename(path) for path, _ in restored.skipped] == [
            "step-00000003",
            "step-00000002",
        ]


def test_restoring_walks_back_to_the_newest_sound_one(run: Run) -> None:
    run.save(1, 2, 3, 4)
    run.damage(4)
    run.store.remove([run.file_of(3, "model.safetensors")])
    run.store.replace(f"step-00000002/{MANIFEST}", b"{}")
    rows = {row.step: row.problem for row in tk.checkpoints(run.url)}
    assert not rows[1] + rows[4]
    assert "model.safetensors cannot be found" in rows[3]
    assert "digest" in rows[2]
    with tk.Checkpointer(run.url) as ck:
        with pytest.warns(RuntimeWarning, match="skipped"):
            restored = ck.restore()
        assert restored is not None
        testing.assert_equal_states(restored.state, state(1))
        with pytest.raises(CorruptError):
            ck.restore(step=4)
        for step in (2, 3, 4):
            ck.save(step, state(step))  # what is damaged gives way
    run.check([1, 2, 3, 4])


def test_repair_mends_what_it_can(run: Run) -> None:
    sharded = {"max_shard_size": 50_000}
    run.save(1, 2, **sharded)
    for step in (1, 2):
        run.store.replace(run.file_of(step, "frozen.safetensors.index.json"), b"{}")
    run.damage(1, "frozen-00002-of-00002.safetensors")
    dry = repair(run.url, dry_run=True)
    mended = repair(run.url)
    told = [(1, "replaced"), (1, "rebuilt"), (2, "rebuilt")]
    for found in (dry, mended):
        assert sorted((one.step, one.action.split()[0]) for one in found) == sorted(told)
    assert repair(run.url) == []
    run.check([1, 2])
    run.damage(2)
    (lost,) = repair(run.url)
    assert (lost.repaired, lost.lost) == (False, ["model.w"])
    assert "model.v" in lost.sound
    assert f"tensorkeep checkpoints {run.url} restore 2" in lost.cure


def test_a_listing_takes_few_requests(run: Run) -> None:
    run.save(*range(1, 7))
    with Proxy(run.bucket.port) as proxy:
        there = run.through(proxy)
        assert len(tk.checkpoints(there)) == 6
        lists = [seen for seen in proxy.requests("GET") if "list-type" in seen.target]
        assert len(lists) <= 3
        assert proxy.count() - len(lists) == 6
        proxy.forget()
        with tk.Checkpointer(there, read_only=True) as ck:
            restored = ck.restore()
        assert restored is not None
        assert restored.step == 6
        assert proxy.count() <= 10


def test_a_run_is_not_read_to_say_what_it_is(run: Run) -> None:
    run.save(1, 2, 3)
    with Proxy(run.bucket.port) as proxy:
        there = run.through(proxy)
        with pytest.raises(UnknownFormatError, match="a folder of 3 checkpoints") as caught:
            tk.load(there)
        assert "step-00000003" in str(caught.value)
        assert proxy.received() < 300_000


def test_one_that_is_copied_to_a_disk_stays_what_it_was(run: Run, tmp_path: Path) -> None:
    run.save(1, 2)
    for key in run.store.keys("step-"):
        source = run.store.get(key)
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read(0, source.size))
    rows = tk.checkpoints(tmp_path)
    assert [(row.step, row.ok) for row in rows] == [(1, True), (2, True)]
    testing.assert_equal_states(tk.load(rows[1].path, verify=True), state(2))
    with tk.Checkpointer(tmp_path) as ck:
        restored = ck.restore()
        assert restored is not None
        assert restored.step == 2
        assert ck.save(3, state(3)).shared > 80_000
        ck.save(2, state(7), overwrite=True)
    testing.assert_equal_states(tk.load(tmp_path / "step-00000003", verify=True), state(3))
    testing.assert_equal_states(tk.load(tmp_path / "step-00000002", verify=True), state(7))
    (file,) = (tmp_path / "step-00000001").rglob("frozen.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    os.unlink(file)
    file.write_bytes(data)
    (found,) = repair(tmp_path)
    assert "replaced by the sound copy" in found.action
    assert repair(tmp_path) == []
    os.unlink(tmp_path / "step-00000001" / MANIFEST)
    assert not tk.checkpoints(tmp_path)[0].ok
    (beyond,) = repair(tmp_path)
    assert {"w", "v", "table"} <= set(beyond.sound)
    with tk.Checkpointer(tmp_path, keep="last=1") as ck:
        ck.save(1, state(1))
        ck.save(4, state(4))
    assert [row.step for row in tk.checkpoints(tmp_path)] == [4]


def test_nothing_else_below_it_is_touched(run: Run) -> None:
    others = ["notes.txt", "step-12/a", "step-abc/a", "logs/step-00000005/MANIFEST.json"]
    others += ["step-00000001", "step-00000004", "step-000000010/0123abcd/state.json"]
    for key in others:
        run.store.replace(key, b"mine")
    run.save(1, 2, 3, keep="last=1")
    assert run.steps() == [3]
    assert all(key in run.keys() for key in others)


def test_manifests_name_their_data(run: Run) -> None:
    run.save(1)
    source = run.store.get(f"step-00000001/{MANIFEST}")
    document = json.loads(bytes(source.read(0, source.size)))
    assert {document["data"]} == run.data_of(1)
    assert document["version"] == 2


def test_no_warnings_are_left(run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.save(1, 2, keep="last=1", background=True)
    run.check([2])


_ENDS = """
import sys, threading
import numpy as np
import tensorkeep as tk

def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

ck = tk.Checkpointer(sys.argv[1], background=True, fenced=True, rng=False)
ck.save(1, {"w": np.arange(2_500_000)})
ck.save(2, {"w": np.arange(2_500_000), "v": np.ones(9)})
ck.fence()
threading.Thread.start = refuse  # as from Python 3.12 on
"""


def test_the_interpreter_does_not_end_before_a_save_has(run: Run) -> None:
    environment = {**os.environ, **run.bucket.environment}
    subprocess.run([sys.executable, "-c", _ENDS, run.url], env=environment, check=True)
    assert [row.ok for row in tk.checkpoints(run.url)] == [True, True]
    assert tk.load(f"{run.url}/step-00000002")["w"][-1] == 2_499_999
