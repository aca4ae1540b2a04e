"""Batches: every sample once an epoch, in one order whatever reads it, from any place on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    MismatchError,
    SampleError,
)

SIZES = st.integers(1, 60)


def _data(count: int) -> dict[str, Any]:
    return {"x": np.arange(count), "y": np.arange(count * 2, dtype="float32").reshape(count, 2)}


def _batches(count: int, size: int, **given: Any) -> tk.Batches:
    return tk.Batches(_data(count), size, **({"prefetch": 0} | given))


def _read(batches: tk.Batches) -> list[list[int]]:
    return [batch["x"].tolist() for batch in batches]


def _together(ranks: list[tk.Batches]) -> list[list[int]]:
    """Give the global batches: what all ranks read in a step, one behind the other."""
    steps = [_read(batches) for batches in ranks]
    assert len({len(step) for step in steps}) == 1, "the ranks take unequal numbers of steps"
    return [_flat(parts) for parts in zip(*steps, strict=True)]


def _flat(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


@given(
    count=st.integers(0, 120),
    size=SIZES,
    world=st.integers(1, 7),
    shuffle=st.sampled_from([False, True, "blocks"]),
    seed=st.integers(0, 3),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_every_sample_once_an_epoch_across_ranks(
    count: int, size: int, world: int, shuffle: Any, seed: int, drop_last: bool, epoch: int
) -> None:
    how: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "drop_last": drop_last}
    ranks = [_batches(count, size, rank=r, world=world, **how) for r in range(world)]
    for batches in ranks:
        batches.seek(epoch)
    steps = _together(ranks)
    read = _flat(steps)
    whole = count // (size * world) * size * world
    assert len(steps) == len(ranks[0])
    assert len(read) == (whole if drop_last else count)
    assert len(set(read)) == len(read)
    # One process that takes as many samples in a step reads the very same steps.
    alone = _batches(count, size * world, **how)
    alone.seek(epoch)
    assert _read(alone) == steps
    assert all(batches.epoch == epoch + 1 and batches.sample == 0 for batches in ranks)


@given(
    count=st.integers(1, 100),
    size=st.integers(1, 12),
    before=st.integers(1, 4),
    after=st.integers(1, 4),
    stop=st.integers(0, 30),
    shuffle=st.sampled_from([False, True, "blocks"]),
)
@settings(max_examples=50, deadline=None)
def test_ranks_go_on_where_others_stopped(
    count: int, size: int, before: int, after: int, stop: int, shuffle: Any
) -> None:
    how: dict[str, Any] = {"shuffle": shuffle, "seed": 5}
    first = [_batches(count, size, rank=r, world=before, **how) for r in range(before)]
    stop = min(stop, len(first[0]))
    read: list[int] = []
    for batches in first:
        for _, batch in zip(range(stop), batches, strict=False):
            read += batch["x"].tolist()
    states = [json.loads(json.dumps(batches.state_dict())) for batches in first]
    assert all(state == states[0] for state in states)
    others = [_batches(count, size, rank=r, world=after, **how) for r in range(after)]
    for batches in others:
        batches.load_state_dict(states[0])
    rest = _flat(_together(others))
    read += rest
    assert sorted(read) == list(range(count))
    # In the order that one process reads them in, which stops there as well.
    alone = _batches(count, size * before, **how)
    alone.seek(0, states[0]["sample"])
    assert rest == _flat(_read(alone))


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_place_of_an_epoch_goes_on_with_the_very_next_batch(
    prefetch: int, shuffle: bool
) -> None:
    how: dict[str, Any] = {"shuffle": shuffle, "prefetch": prefetch, "workers": max(prefetch, 1)}
    whole = _batches(23, 4, **how)
    expected = [_read(whole), _read(whole)]
    for stop in range(1, len(whole) + 1):
        batches = _batches(23, 4, **how)
        for _, batch in zip(range(stop), batches, strict=False):
            last = batch["x"].tolist()
        assert last == expected[0][stop - 1]
        again = _batches(23, 4, **how)
        again.load_state_dict(batches.state_dict())
        assert _read(again) == expected[0][stop:]
        assert _read(again) == expected[1]


def test_a_loop_that_was_left_goes_on() -> None:
    batches = _batches(10, 3)
    for batch in batches:
        assert batch["x"].tolist() == [0, 1, 2]
        break
    assert (batches.epoch, batches.sample, batches.step) == (0, 3, 1)
    assert _read(batches) == [[3, 4, 5], [6, 7, 8], [9]]
    assert _read(batches)[0] == [0, 1, 2]


def test_the_state_in_a_loop_is_that_of_what_was_given_out() -> None:
    batches = _batches(10, 3, prefetch=3)
    places = [batches.state_dict()["sample"] for _ in batches]
    assert places == [3, 6, 9, 10]
    assert batches.state_dict()["sample"] == 0
    assert batches.state_dict()["epoch"] == 1


def test_epochs_count_from_where_it_is() -> None:
    batches = _batches(6, 3)
    batches.seek(1, 3)
    assert [(epoch, _read(batches)) for epoch in batches.epochs(3)] == [
        (1, [[3, 4, 5]]),
        (2, [[0, 1, 2], [3, 4, 5]]),
    ]
    batches.seek()
    left = []
    for epoch in batches.epochs(3):
        for batch in batches:
            left.append((epoch, batch["x"].tolist()))
            break
    assert left == [(0, [0, 1, 2]), (1, [0, 1, 2]), (2, [0, 1, 2])]
    assert list(batches.epochs(3)) == []


def test_any_batch_of_the_epoch_by_its_step() -> None:
    batches = _batches(11, 4, shuffle=True, seed=9)
    by_step = [batches[step]["x"].tolist() for step in range(len(batches))]
    assert batches[-1]["x"].tolist() == by_step[-1]
    assert batches.sample == 0
    assert _read(batches) == by_step
    for wrong in (3, -4):
        with pytest.raises(IndexError, match=f"there is no step {wrong} in an epoch of 3"):
            batches[wrong]


def test_two_loops_over_the_same_batches_are_told() -> None:
    batches = _batches(10, 2)
    first, second = iter(batches), iter(batches)
    next(second)
    with pytest.raises(ArgumentError, match="the place was moved while this loop was under way"):
        list(first)
    batches.seek(0, 4)
    with pytest.raises(ArgumentError, match="Begin a new loop"):
        next(second)
    assert _read(batches)[0] == [4, 5]


def test_a_rank_for_which_nothing_is_left_gets_an_empty_batch_of_the_same_fields() -> None:
    ranks = [_batches(9, 2, rank=r, world=4) for r in range(4)]
    last = [list(batches)[-1] for batches in ranks]
    assert [batch["x"].tolist() for batch in last] == [[8], [], [], []]
    assert all(batch["y"].shape == (len(batch["x"]), 2) for batch in last)
    assert all(batch["y"].dtype == np.float32 for batch in last)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"shuffle": False}, "the blocks that are shuffled was 1 and is 0"),
        ({"drop_last": True}, "drop_last was False and is True"),
        ({"size": 5}, "batch_size was 4 and is 5"),
        ({"count": 21}, "the number of samples was 20 and is 21"),
    ],
)
def test_what_changed_is_shown_with_both_sides(change: dict[str, Any], shown: str) -> None:
    how: dict[str, Any] = {"count": 20, "size": 4, "shuffle": True, "seed": 3}
    batches = _batches(**how)
    next(iter(batches))
    other = _batches(**(how | change))
    with pytest.raises(MismatchError, match=shown) as caught:
        other.load_state_dict(batches.state_dict())
    assert "seek(epoch=0, sample=4)" in str(caught.value)
    assert other.sample == 0


def test_other_data_of_the_same_shape_is_refused() -> None:
    batches = _batches(20, 4)
    other = tk.Batches({**_data(20), "x": np.arange(20)[::-1]}, 4)
    with pytest.raises(MismatchError, match="the digest of the data was"):
        other.load_state_dict(batches.state_dict())


def test_other_workers_and_ranks_are_no_change() -> None:
    batches = _batches(20, 4)
    next(iter(batches))
    for how in ({"prefetch": 5, "workers": 3}, {"rank": 1, "world": 2}, {"transform": dict}):
        _batches(20, 4, **how).load_state_dict(batches.state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"epoch": -1},
        {"sample": "3"},
        {"digest": 3},
        {"drop_last": 1},
        {"epoch": True},
        {"seed": 1.0},
    ],
)
def test_a_damaged_state_is_refused(wrong: Any) -> None:
    batches = _batches(5, 1)
    state = batches.state_dict() | wrong if wrong else wrong
    with pytest.raises(CorruptError, match="the state of batches"):
        batches.load_state_dict(state)


def test_states_of_numpy_integers_are_good() -> None:
    batches = _batches(5, 1)
    state = {k: np.int64(v) if type(v) is int else v for k, v in batches.state_dict().items()}
    batches.load_state_dict(state | {"sample": np.int64(2)})
    assert batches.sample == 2
    with pytest.raises(MismatchError, match="another version of tensorkeep"):
        batches.load_state_dict(state | {"version": 2})
    with pytest.raises(ArgumentError, match="there is no sample 9 in an epoch of 5"):
        batches.load_state_dict(state | {"sample": 9})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 0}, "batch_size is 1 or more"),
        ({"batch_size": 2.5}, "batch_size is a whole number"),
        ({"batch_size": True}, "batch_size is 1 or more"),
        ({"seed": -1}, "seed is 0 or more"),
        ({"prefetch": -1}, "prefetch is 0 or more"),
        ({"workers": 0}, "workers is 1 or more"),
        ({"shuffle": "rows"}, "shuffle is True, False or 'blocks'"),
        ({"rank": 1}, "rank is 1 and world None"),
        ({"rank": 2, "world": 2}, "there is no rank 2 of 2"),
        ({"rank": -1, "world": 2}, "there is no rank -1 of 2"),
        ({"rank": 0.5, "world": 2}, "no whole numbers"),
        ({"each": 3}, "each is a function"),
        ({"fields": ["z"]}, "z"),
    ],
)
def test_arguments_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, KeyError), match=message):
        tk.Batches(_data(5), **given)


def test_functions_change_samples_and_batches() -> None:
    def each(sample: dict[str, Any]) -> dict[str, Any]:
        return {"twice": sample["x"] * 2, "text": str(sample["x"])}

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {"sum": batch["twice"].sum(keepdims=True)}

    batch = next(iter(_batches(6, 3, each=each, transform=transform)))
    assert batch["twice"].tolist() == [0, 2, 4]
    assert batch["text"].tolist() == ["0", "1", "2"]
    assert batch["sum"].tolist() == [6]


def test_random_numbers_of_functions_are_those_of_the_place() -> None:
    def each(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return sample | {"drawn": rng.random()}

    def transform(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return batch | {"noise": rng.random(2)}

    how: dict[str, Any] = {"each": each, "transform": transform, "seed": 4}
    whole = [(b["drawn"].tolist(), b["noise"].tolist()) for b in _batches(9, 2, **how)]
    again = _batches(9, 2, prefetch=3, workers=3, **how)
    again.seek(0, 4)
    assert [(b["drawn"].tolist(), b["noise"].tolist()) for b in again] == whole[2:]
    # What `each` draws for a sample does not depend on the number of ranks.
    ranks = [_batches(9, 1, rank=r, world=2, **how) for r in range(2)]
    drawn = [[b["drawn"].tolist() for b in batches] for batches in ranks]
    assert [a + b for a, b in zip(*drawn, strict=True)] == [each for each, _ in whole]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_function_that_fails_names_the_sample(prefetch: int) -> None:
    def each(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["x"] == 5:
            raise ValueError("a bad crop")
        return sample

    batches = _batches(9, 2, each=each, prefetch=prefetch)
    loop = iter(batches)
    assert [next(loop)["x"].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(SampleError, match="each failed for sample 5: ValueError: a bad crop"):
        next(loop)
    assert batches.state_dict()["sample"] == 4

    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("none")

    with pytest.raises(SampleError, match=r"transform failed for samples 0, 1 \(epoch 0"):
        next(iter(_batches(9, 2, transform=transform, prefetch=prefetch)))
    with pytest.raises(SampleError, match="transform gave a NoneType"):
        next(iter(_batches(9, 2, transform=lambda _: None, prefetch=prefetch)))
    with pytest.raises(tk.TensorKeepError, match="sample 0 is a int, where a dict"):
        next(iter(_batches(9, 2, each=lambda _: 3, prefetch=prefetch)))


def test_what_was_given_out_is_the_callers_own() -> None:
    data = _data(4)
    for batch in tk.Batches(data, 2):
        batch["x"][:] = -1
    assert data["x"].tolist() == [0, 1, 2, 3]


def test_closed_batches_say_so() -> None:
    with _batches(10, 2) as batches:
        loop = iter(batches)
        next(loop)
    with pytest.raises(ClosedError, match="the batches were closed"):
        iter(batches)
    with pytest.raises(ClosedError):
        next(loop)
    batches.close()
    assert repr(batches).endswith("2 of 10, epoch 0, sample 2)")


def test_no_samples_make_no_batches() -> None:
    batches = _batches(0, 4, shuffle=True)
    assert (len(batches), list(batches), batches.epoch) == (0, [], 1)


def test_the_launcher_says_which_rank_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    batches = _batches(12, 2)
    assert (batches.rank, batches.world) == (2, 3)
    assert _read(batches) == [[4, 5], [10, 11]]
    assert _batches(12, 2, rank=0, world=1).world == 1


def test_a_checkpointer_saves_and_restores_the_place(tmp_path: Any) -> None:
    model = {"w": np.zeros(3)}
    batches = _batches(10, 2, shuffle=True, seed=1)
    expected = _read(_batches(10, 2, shuffle=True, seed=1))
    with tk.Checkpointer(tmp_path) as ck:
        for step, _ in enumerate(batches):
            if step == 1:
                ck.save(step, {"model": model, "data": batches})
                break
    again = _batches(10, 2, shuffle=True, seed=1)
    with tk.Checkpointer(tmp_path) as ck:
        assert ck.restore(like={"model": model, "data": again}) is not None
    assert _read(again) == expected[2:]
    other = tk.Batches({"x": np.ones(10)}, 2)
    with tk.Checkpointer(tmp_path) as ck, pytest.raises(MismatchError, match="of other batches"):
        ck.restore(like={"model": model, "data": other})
