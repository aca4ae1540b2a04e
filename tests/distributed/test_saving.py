"""Many processes save one checkpoint: all of it, or the one before stays the newest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.distributed.ranks import RANKS, expected, parts_of, run_ranks, save_of, skeleton
from tests.distributed.sharding import CUTS, TREE, grid, matrices, part, save_sharded

import tensorkeep as tk
from tensorkeep.distributed import Part, SharedSave, new_token
from tensorkeep.errors import ArgumentError, CorruptError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import MANIFEST, read_manifest
from tensorkeep.store import Location
from tensorkeep.stores import locate
from tensorkeep.stores.file import FileStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import assert_equal_states


def newest(run: Path) -> int | None:
    rows = [row for row in tk.checkpoints(run) if row.ok]
    return rows[-1].step if rows else None


def test_two_processes_and_one_of_them_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, tokens = context.Barrier(2), [new_token(), new_token()]
    processes = [
        context.Process(target=run_ranks, args=(tmp_path, ranks, tokens, barrier))
        for ranks in ((0, 1), (2, 3))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL]
    assert_equal_states(tk.load(tmp_path / "step-1", verify=True), expected(1))
    told = (tmp_path / "told").read_text()
    assert "rank 3 of 4 did not finish: they are waited for since" in told
    assert newest(tmp_path) == 1
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    with tk.Checkpointer(tmp_path) as ck:
        restored = ck.restore()
        assert restored is not None
        assert (restored.step, restored.metrics) == (1, {"loss": 0.5})
        assert_equal_states(restored.state, expected(1))
        ck.save(3, restored.state)
        found = ck.restore()
        assert found is not None
        assert_equal_states(found.state, expected(1))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Give a run with a checkpoint of step 1, which has to stay the newest."""
    save_sharded(tmp_path / "step-1", matrices(), CUTS, skeleton=TREE)
    yield tmp_path
    assert newest(tmp_path) == 1
    assert_equal_states(tk.load(tmp_path / "step-1", verify=True), tk.load(tmp_path / "step-1"))
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def begin(run: Path, step: int = 2, **options: Any) -> list[SharedSave]:
    token = new_token()
    ranks = [save_of(run, rank, step, token, **options) for rank in range(RANKS)]
    ranks[0].open()
    return ranks


def test_ranks_that_are_missing_are_named(run: Path) -> None:
    ranks = begin(run)
    for rank in (0, 2):
        ranks[rank].put(parts_of(rank, 2))
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"ranks 1, 3 of 4 did not finish.* UTC, .*for 0.3 s no"):
        ranks[0].commit()
    assert time.monotonic() - began < 5
    ranks[2].put(parts_of(2, 2))  # it comes late: the next save sweeps what it leaves
    begin(run)[0].abandon()


def test_a_rank_that_comes_just_in_time_prolongs_the_wait(tmp_path: Path) -> None:
    ranks = begin(tmp_path, timeout=0.5)

    def come() -> None:
        for rank in range(RANKS):
            time.sleep(0.25)
            ranks[rank].put(parts_of(rank, 2))

    thread = threading.Thread(target=come)
    thread.start()
    ranks[0].commit()
    thread.join()
    assert newest(tmp_path) == 2


def test_a_rank_that_fails_is_told_at_once(run: Path) -> None:
    ranks = begin(run, timeout=60.0)
    ranks[0].put(parts_of(0, 2))
    ranks[2].fail(ValueError("the GPU fell off"))
    ranks[3].fail("likewise")
    began = time.monotonic()
    with pytest.raises(StoreError, match="rank 2 failed: the GPU fell off; rank 3 failed too"):
        ranks[0].commit()
    assert time.monotonic() - began < 5


def test_abandoning(run: Path) -> None:
    ranks = begin(run)
    ranks[1].put(parts_of(1, 2))
    ranks[0].abandon()
    ranks[0].abandon()
    with tk.Checkpointer(run):
        pass  # the folder is free again


def put_all(ranks: list[SharedSave], parts: Callable[[int], list[Part]]) -> None:
    for rank, save in enumerate(ranks):
        save.put(parts(rank))


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (lambda r: parts_of(r, 2) if r != 2 else [], "6 elements of 'model.w' are in no piece"),
        (lambda r: parts_of(min(r, 2), 2), "pieces of 'model.w' overlap"),
        (lambda r: parts_of(1, 2) if r == 3 else [], "are in no piece"),
        (lambda r: parts_of(1, 2), "rank 0 and rank 1 have both put 'model.b'"),
        (lambda r: [part("w", np.zeros((4, 2), f"i{1 + r % 2}"), ((r, 0), (1, 2)))], "rank 1 as"),
        (lambda r: [part("w", np.zeros((4 + r, 2)), ((r, 0), (1, 2)))], "of shape"),
    ],
)
def test_parts_that_do_not_fit(run: Path, parts: Callable[[int], list[Part]], told: str) -> None:
    ranks = begin(run)
    put_all(ranks, parts)
    with pytest.raises(ArgumentError, match=told):
        ranks[0].commit()


def test_parts_that_make_no_sense(run: Path) -> None:
    ranks = begin(run)
    array = np.zeros((4, 4))
    whole = Tensor.of(array)
    for bad, told in (
        (Part("w", whole, (0, 1), (4, 4)), "not inside"),
        (Part("w", whole, (0,), (4, 4)), "not inside"),
        (Part("w", whole, (-1, 0), (9, 9)), "not inside"),
        (Part("../w", whole, (0, 0), (4, 4)), "as a folder"),
        (Part("w", Tensor.of(np.array(["a"])), (0,), (2,)), "not split"),
        (Part("w", Tensor.of(np.zeros(2)), (2**62,), (2**63,)), "no tensor can have the shape"),
        (Part("w", Tensor.of(np.zeros((0, 2))), (0, 0), (0, 2**63)), "no tensor can have"),
    ):
        with pytest.raises(ArgumentError, match=told):
            ranks[0].put([bad])
    with pytest.raises(ArgumentError, match="given twice"):
        ranks[0].put([Part("w", whole, (0, 0), (4, 4))] * 2)
    given: Any
    for given, told in (
        (("w", array, (0, 0), (4, 4)), "'w' is a ndarray"),
        ((7, whole, (0, 0), (4, 4)), "Give a name"),
        (("w", whole, (0.0, 0), (4, 4)), "offsets of 'w'"),
        (("w", whole, (0, 0), None), "shape of 'w'"),
    ):
        with pytest.raises(ArgumentError, match=told):
            Part(*given)
    assert Part("w", whole, np.zeros(2, int), [np.int8(4), 4]) == Part("w", whole, (0, 0), (4, 4))  # type: ignore[arg-type]
    for rank in ranks:
        rank.put([])
    with pytest.raises(ArgumentError, match="no rank has put 'q'"):
        ranks[0].commit(order=["q"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"metrics": {"loss": [1]}}, "'loss' is a list"),
        ({"metadata": {"a": {1}}}, "not JSON"),
        ({"reason": 5}, "reason is a int"),
    ],
)
def test_what_could_not_be_read_again_replaces_nothing(
    run: Path, options: dict[str, Any], told: str
) -> None:
    ranks = begin(run, 1, overwrite=True)
    put_all(ranks, lambda rank: parts_of(rank, 1))
    with pytest.raises(TensorKeepError, match=told):
        ranks[0].commit(**options)


def test_damaged_parts_are_found(run: Path) -> None:
    ranks = begin(run)
    put_all(ranks, lambda rank: parts_of(rank, 2))
    (draft,) = (path for path in run.iterdir() if path.name.endswith(".tmp"))
    data = (draft / "part-00003.json").read_bytes()
    (draft / "part-00003.json").write_bytes(data.replace(b"float32", b"float64"))
    with pytest.raises(CorruptError, match=r"part-00003\.json"):
        ranks[0].commit()


def test_files_cut_short_are_found(run: Path) -> None:
    ranks = begin(run)
    put_all(ranks, lambda rank: parts_of(rank, 2))
    (draft,) = (path for path in run.iterdir() if path.name.endswith(".tmp"))
    file = draft / "model-rank00003-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="model-rank00003-00001"):
        ranks[0].commit()


def test_one_coordinator_at_a_time(run: Path) -> None:
    ranks = begin(run)
    with pytest.raises(StoreError, match="saves here"):
        begin(run, 3)
    with pytest.raises(StoreError, match="saves here"):
        tk.Checkpointer(run)
    ranks[0].abandon()
    begin(run, 3)[0].abandon()


def test_a_rank_of_an_earlier_save_cannot_disturb(run: Path) -> None:
    stale = begin(run)
    stale[1].put(parts_of(1, 9))
    stale[0].abandon()
    fresh = begin(run, 1, overwrite=True)
    stale[2].put(parts_of(2, 9))  # of another token: nobody looks there
    put_all(fresh, lambda rank: parts_of(rank, 1))
    manifest = fresh[0].commit(skeleton=skeleton({"step": 1}))
    assert len(manifest.sharded["model.w"].pieces) == RANKS
    assert_equal_states(tk.load(run / "step-1", verify=True), expected(1))
    begin(run)[0].abandon()  # which sweeps


def test_steps_and_arguments(run: Path) -> None:
    token = new_token()
    for path in (run / "latest", run / "step-x", run / "step-", Location(FileStore(run))):
        with pytest.raises(ArgumentError, match="is called step-N"):
            SharedSave(path, rank=0, ranks=1, token=token)
    for options, told in (
        ({"rank": 2}, "no rank 2 of 2"),
        ({"rank": "0"}, "no rank '0' of 2"),
        ({"ranks": None}, "no rank 0 of None"),
        ({"token": None}, "is no token"),
        ({"timeout": "soon"}, "timeout"),
        ({"token": "x"}, "is no token"),
        ({"timeout": 0}, "timeout"),
        ({"step": 8}, "the path says step-00000007"),
        ({"max_shard_size": "much"}, "is not a size"),
    ):
        given: dict[str, Any] = {"rank": 0, "ranks": 2, "token": token, **options}
        with pytest.raises(ArgumentError, match=told):
            SharedSave(run / "step-7", **given)
    with pytest.raises(ArgumentError, match="saved already"):
        begin(run, 1)
    with pytest.raises(ArgumentError, match="Call open"):
        SharedSave(run / "step-7", rank=0, ranks=1, token=token).commit()
    saves: list[Any] = [
        Location(FileStore(run), "step-007"),
        str(run / "step-7"),
        f"{run}/step-00000007/",
    ]
    assert {SharedSave(s, rank=0, ranks=1, token=token).step for s in saves} == {7}


def test_files_are_split_by_their_size(tmp_path: Path) -> None:
    arrays = {f"model.{i}": np.full(100, i, np.float64) for i in range(4)}
    cuts = {name: grid((100,), (2,)) for name in arrays}
    tree = {"tree": {"model": {str(i): "$" for i in range(4)}}}
    save_sharded(tmp_path / "step-1", arrays, cuts, ranks=1, skeleton=tree, max_shard_size="800B")
    files = sorted(path.name for path in (tmp_path / "step-00000001").glob("model*"))
    assert files == [f"model-rank00000-{i:05}.safetensors" for i in range(1, 5)]
    manifest = read_manifest(locate(tmp_path / "step-00000001"))
    assert {piece.name for t in manifest.sharded.values() for piece in t.pieces} == {
        *(str(i) for i in range(4)),
        *(f"{i}~1" for i in range(4)),
    }
    found = tk.load(tmp_path / "step-1", names="model.*", verify=True)
    assert_equal_states(found, arrays)


def test_names_that_look_like_numbered_ones(tmp_path: Path) -> None:
    arrays = {"w": np.arange(6), "w~1": np.arange(6) + 9, "w~2": np.arange(2)}
    cuts = {"w": grid((6,), (3,)), "w~1": grid((6,), (2,))}
    save_sharded(tmp_path / "step-1", arrays, cuts, ranks=1)
    assert_equal_states(tk.load(tmp_path / "step-1", verify=True), arrays)


def test_names_in_the_files_that_differ_by_rank(tmp_path: Path) -> None:
    """A rank may have several pieces of a tensor in one file, and more ranks than one may."""
    arrays = {"w": np.arange(24).reshape(12, 2), "v": np.arange(8.0)}
    cuts = {"w": grid((12, 2), (12, 1)), "v": grid((8,), (4,))}
    manifest = save_sharded(tmp_path / "step-1", arrays, cuts, ranks=3)
    names = [piece.name for piece in manifest.sharded["w"].pieces]
    assert sorted(names) == sorted(["w", "w~1", "w~2", "w~3"] * 3)
    found = read_manifest(locate(tmp_path / "step-00000001"))
    for name, tensor in manifest.sharded.items():
        assert list(found.sharded[name].pieces) == list(tensor.pieces)
    assert_equal_states(tk.load(tmp_path / "step-1", verify=True), arrays)


def test_retention_and_listing(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_sharded(tmp_path / f"step-{step}", matrices(), CUTS, skeleton=TREE)
    rows = tk.checkpoints(tmp_path)
    assert [(row.step, row.ok) for row in rows] == [(1, True), (2, True), (3, True)]
    folder = tmp_path / "step-00000001"
    assert rows[0].size == sum(f.stat().st_size for f in folder.iterdir() if f.name != MANIFEST)
    assert not [name for name in os.listdir(folder) if name.startswith(("part", "failed"))]
    assert MANIFEST in os.listdir(folder)
    with tk.Checkpointer(tmp_path, keep="last=1") as ck:
        found = ck.restore()
        assert found is not None
        assert_equal_states(found.state, tk.load(folder.parent / "step-3"))
        ck.save(4, found.state)
    assert [row.step for row in tk.checkpoints(tmp_path)] == [4]
    assert tk.verify(tmp_path / "step-4").ok


def test_restore_passes_by_a_damaged_piece(tmp_path: Path) -> None:
    for step in (1, 2):
        save_sharded(tmp_path / f"step-{step}", matrices(), CUTS, skeleton=TREE)
    piece = read_manifest(locate(tmp_path / "step-00000002")).sharded["model.grid"].pieces[2]
    path = tmp_path / "step-00000002" / piece.file
    data = bytearray(path.read_bytes())
    data[piece.start] ^= 1
    path.write_bytes(data)
    with tk.Checkpointer(tmp_path, read_only=True) as ck:
        with pytest.warns(RuntimeWarning, match="skipped"):
            found = ck.restore()
        assert found is not None
        assert found.step == 1
        with pytest.raises(TensorKeepError, match="is damaged"):
            ck.restore(step=2)
