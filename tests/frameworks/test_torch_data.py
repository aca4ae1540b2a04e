from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, CorruptError, MismatchError
from tensorkeep.integrations import torch_data

pytestmark = pytest.mark.frameworks

COUNT = 103
ARRAYS: dict[str, Any] = {
    "x": np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3),
    "number": np.arange(COUNT),
}


@pytest.fixture(autouse=True)
def quiet(torch: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        # Workers are forked, by PyTorch, after other tests have started threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.safetensors"
    tk.save(ARRAYS, path)
    return path


def batches(source: Any = ARRAYS, **options: Any) -> tk.Batches:
    return tk.Batches(source, 8, **{"shuffle": True, "seed": 5, **options})


def numbers(loader: Any) -> list[list[int]]:
    return [batch["number"].tolist() for batch in loader]


def expected(epoch: int, **options: Any) -> list[list[int]]:
    with batches(**options) as plain:
        plain.seek(epoch)
        return [batch["number"].tolist() for batch in plain]


# --- single samples -----------------------------------------------------------------------------


def test_samples_are_tensors(torch: Any, file: Path) -> None:
    samples = torch_data.dataset(file)
    assert isinstance(samples, torch.utils.data.Dataset)
    assert len(samples) == COUNT
    assert samples[-1]["x"].tolist() == ARRAYS["x"][-1].tolist()
    assert samples[4]["number"].dtype == torch.int64


def test_a_batch_is_gathered_once_and_shared(torch: Any, file: Path) -> None:
    samples = torch_data.dataset(file)
    found = samples.__getitems__([5, 2, 2])
    batch = torch_data.collate(found)
    assert batch["number"].tolist() == [5, 2, 2]
    assert found[1]["x"].data_ptr() == batch["x"][1].data_ptr()
    assert torch.equal(torch.utils.data.default_collate(list(found))["x"], batch["x"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collate", [None, torch_data.collate])
def test_dataloader_with_a_sampler(torch: Any, file: Path, workers: int, collate: Any) -> None:
    loader = torch.utils.data.DataLoader(
        torch_data.dataset(file),
        batch_size=10,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        collate_fn=collate,
        num_workers=workers,
    )
    found = [n for batch in loader for n in batch["number"].tolist()]
    assert sorted(found) == list(range(COUNT))
    assert found != sorted(found)


def shortened(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": sample["x"][:2], "name": f"n{sample['number']}"}


def test_each_is_called_on_arrays(torch: Any) -> None:
    samples = torch_data.dataset(ARRAYS, each=shortened)
    assert samples[3]["name"] == "n3"
    batch = torch_data.collate(samples.__getitems__([3, 1]))
    assert batch["x"].tolist() == ARRAYS["x"][[3, 1], :2].tolist()
    assert batch["name"] == ["n3", "n1"]


def test_samples_that_differ_in_shape(torch: Any) -> None:
    samples = torch_data.dataset([{"x": np.zeros(n + 1)} for n in range(3)])
    assert [len(sample["x"]) for sample in samples.__getitems__([0, 2])] == [1, 3]


def test_samples_with_lists(torch: Any) -> None:
    columns = {"a:lengths": np.array([2, 0, 1]), "a:values": np.arange(3), "b": np.arange(3)}
    samples = torch_data.dataset(columns).__getitems__([2, 0])
    assert [sample["a:values"].tolist() for sample in samples] == [[2], [0, 1]]
    assert [sample["b"].item() for sample in samples] == [2, 0]


def test_bfloat16_is_shared_too(torch: Any) -> None:
    import ml_dtypes

    samples = torch_data.dataset({"x": np.ones((4, 2), ml_dtypes.bfloat16)})
    assert samples[0]["x"].dtype == torch.bfloat16


# --- whole batches ------------------------------------------------------------------------------


def loader_of(torch: Any, source: Any, workers: int, **options: Any) -> Any:
    whole = torch_data.iterable(source)
    return torch.utils.data.DataLoader(whole, batch_size=None, num_workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_batch_once_in_order_epoch_after_epoch(torch: Any, workers: int) -> None:
    loader = loader_of(torch, batches(), workers)
    assert isinstance(loader.dataset, torch.utils.data.IterableDataset)
    assert len(loader) == 13
    assert [numbers(loader) for _ in range(3)] == [expected(epoch) for epoch in range(3)]


def test_workers_that_stay(torch: Any) -> None:
    loader = loader_of(torch, batches(), 2, persistent_workers=True)
    assert [numbers(loader) for _ in range(3)] == [expected(epoch) for epoch in range(3)]


def test_workers_that_are_spawned(torch: Any, file: Path) -> None:
    loader = loader_of(torch, batches(file), 1, multiprocessing_context="spawn")
    assert [numbers(loader) for _ in range(2)] == [expected(epoch) for epoch in range(2)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_is_left_early_ends_its_epoch(torch: Any, workers: int) -> None:
    loader = loader_of(torch, batches(), workers)
    assert next(iter(loader))["number"].tolist() == expected(0)[0]
    assert numbers(loader) == expected(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_begins_where_the_batches_are(torch: Any, workers: int) -> None:
    source = batches()
    source.seek(3, 40)
    loader = loader_of(torch, source, workers)
    assert numbers(loader) == expected(3)[5:]
    assert numbers(loader) == expected(4)
    source.seek(7)
    assert numbers(loader) == expected(7)


def test_the_place_moves_in_the_batches_where_there_are_no_workers(torch: Any) -> None:
    source = batches()
    iterator = iter(loader_of(torch, source, 0))
    for _ in range(3):
        next(iterator)
    assert (source.epoch, source.sample) == (0, 24)


def test_workers_that_stay_follow_a_seek(torch: Any) -> None:
    source = batches()
    loader = loader_of(torch, source, 2, persistent_workers=True)
    numbers(loader)
    source.seek(0, 40)
    assert numbers(loader) == expected(0)[5:]
    assert numbers(loader) == expected(1)
    source.seek(0, 40)
    assert numbers(loader) == expected(0)[5:]


def test_other_numbers_of_workers_go_on_with_the_next_epoch(torch: Any) -> None:
    source = batches()
    for epoch, workers in enumerate([2, 4, 1, 0, 3]):
        assert numbers(loader_of(torch, source, workers)) == expected(epoch)


def test_seeds_that_are_always_the_same(torch: Any) -> None:
    loader = loader_of(torch, batches(), 2)
    for epoch in range(3):
        torch.manual_seed(0)
        assert numbers(loader) == expected(epoch)


def test_a_worker_that_missed_a_loop_is_in_the_epoch_of_the_others(torch: Any) -> None:
    source = batches()
    whole = torch_data.iterable(source)
    info = torch.utils.data._utils.worker.WorkerInfo

    def share(worker: int, loop: int) -> Any:
        called = info(id=worker, num_workers=2, seed=1000 * loop + worker, dataset=whole)
        return torch_data._Share(source, whole._shared, called)

    share(0, loop=1)
    for order in ([0, 1], [1, 0]):
        first, second = (share(worker, loop=2 + order[0]) for worker in order)
        assert first._epoch == second._epoch == 1 + order[0]


def test_a_place_that_only_workers_know_is_not_saved(torch: Any, tmp_path: Path) -> None:
    source = batches()
    loader = loader_of(torch, source, 2)
    assert source.state_dict()["sample"] == 0
    iterator = iter(loader)
    next(iterator)
    with tk.Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(ArgumentError, match="Save torchdata's StatefulDataLoader in place"):
            checkpointer.save(1, {"data": source})
        del iterator
        source.seek(0, 8)
        checkpointer.save(1, {"data": source})
        source.seek(1)
        checkpointer.restore(like={"data": source})
    assert numbers(loader) == expected(0)[1:]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_epoch(torch: Any, workers: int) -> None:
    found = [numbers(loader_of(torch, batches(rank=rank, world=3), workers)) for rank in range(3)]
    assert [len(rank) for rank in found] == [5, 5, 5]
    assert sorted(n for rank in found for part in rank for n in part) == list(range(COUNT))


def test_text_stays_text(torch: Any) -> None:
    records = [{"text": f"t{n}", "n": n} for n in range(5)]
    found = list(loader_of(torch, tk.Batches(records, 2), 2))
    assert [list(batch["text"]) for batch in found] == [["t0", "t1"], ["t2", "t3"], ["t4"]]


def test_other_things_are_refused(torch: Any) -> None:
    with pytest.raises(ArgumentError, match=r"takes a tk\.Batches, not a list"):
        torch_data.iterable([1])  # type: ignore[arg-type]


# --- torchdata ----------------------------------------------------------------------------------


def stateful(source: Any, workers: int, **options: Any) -> Any:
    module = importlib.import_module("torchdata.stateful_dataloader")
    whole = torch_data.iterable(source)
    return module.StatefulDataLoader(whole, batch_size=None, num_workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 4, 7, 12])
def test_a_stateful_dataloader_goes_on_in_the_middle(
    torch: Any, file: Path, workers: int, stop: int
) -> None:
    loader = stateful(batches(file), workers)
    numbers(loader)
    iterator = iter(loader)
    seen = [next(iterator)["number"].tolist() for _ in range(stop)]
    state = json.loads(json.dumps(loader.state_dict()))
    again = stateful(batches(file), workers)
    again.load_state_dict(state)
    assert seen + numbers(again) == expected(1)
    assert numbers(again) == expected(2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_dataloader_goes_on_after_an_epoch(torch: Any, workers: int) -> None:
    loader = stateful(batches(), workers)
    numbers(loader)
    state = loader.state_dict()
    again = stateful(batches(), workers)
    again.load_state_dict(state)
    assert numbers(again) == expected(1)
    assert numbers(again) == expected(2)


def test_a_stateful_dataloader_whose_workers_stay(torch: Any) -> None:
    loader = stateful(batches(), 2, persistent_workers=True)
    numbers(loader)
    iterator = iter(loader)
    seen = [next(iterator)["number"].tolist() for _ in range(5)]
    again = stateful(batches(), 2, persistent_workers=True)
    again.load_state_dict(loader.state_dict())
    assert seen + numbers(again) == expected(1)
    assert [numbers(again), numbers(again)] == [expected(2), expected(3)]


def test_snapshots_now_and_then(torch: Any) -> None:
    loader = stateful(batches(), 2, snapshot_every_n_steps=4)
    iterator = iter(loader)
    seen = [next(iterator)["number"].tolist() for _ in range(6)]
    again = stateful(batches(), 2, snapshot_every_n_steps=4)
    again.load_state_dict(loader.state_dict())
    assert seen + numbers(again) == expected(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_other_data_is_refused(torch: Any, workers: int) -> None:
    loader = stateful(batches(), workers)
    next(iter(loader))
    other = stateful(batches({"number": np.arange(50)}), workers)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(MismatchError, match="the number of samples was 103 and is 50"):
        numbers(other)


def test_other_ranks_go_on_where_a_step_is_as_large(torch: Any) -> None:
    loader = stateful(batches(), 2)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    state = loader.state_dict()
    halves = []
    for rank in range(2):
        again = stateful(tk.Batches(ARRAYS, 4, shuffle=True, seed=5, rank=rank, world=2), 2)
        again.load_state_dict(state)
        halves.append(numbers(again))
    assert [a + b for a, b in zip(*halves, strict=True)] == expected(0)[5:]
    again = stateful(batches(rank=0, world=2), 2)
    again.load_state_dict(state)
    with pytest.raises(MismatchError, match="a step was 8 samples of all ranks, and is 16"):
        numbers(again)


def test_another_state_is_refused(torch: Any) -> None:
    source = batches()
    info = torch.utils.data._utils.worker.WorkerInfo(id=0, num_workers=1, seed=7, dataset=None)
    share = torch_data._Share(source, torch_data._Workers(source), info)
    with pytest.raises(CorruptError, match="no state of a DataLoader's worker"):
        share.load_state_dict(source.state_dict())


def test_a_checkpointer_keeps_a_stateful_dataloader(torch: Any, tmp_path: Path) -> None:
    loader = stateful(batches(), 2)
    iterator = iter(loader)
    seen = [next(iterator)["number"].tolist() for _ in range(5)]
    with tk.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(5, {"data": loader})
        again = stateful(batches(), 2)
        checkpointer.restore(like={"data": again})
    assert seen + numbers(again) == expected(0)
