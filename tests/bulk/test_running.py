from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.bulk.tasks import act, measure, tries

from tensorkeep.bulk import Item, Outcome, run
from tensorkeep.errors import ArgumentError, MissingDependencyError, StoreError


def items(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_each_outcome_in_the_order_of_the_items(tmp_path: Path) -> None:
    given = items(tmp_path, "a-fine", "b-corrupt", "c-bug", "d-nothing", "e-damaged", "f-missing")
    summary = run(act, given)
    assert [outcome.item.where for outcome in summary.outcomes] == given
    assert [outcome.status for outcome in summary.outcomes] == [
        *("done", "damaged", "failed", "skipped", "damaged", "failed")
    ]
    assert [outcome.problem for outcome in summary.outcomes] == [
        "",
        "its header is cut short",
        "ZeroDivisionError: division by zero",
        "there was nothing to do",
        "1 of 2 tensors",
        "holds no tensor 'w'",
    ]
    assert summary.counts == {"done": 1, "damaged": 2, "failed": 2, "skipped": 1}
    assert [outcome.item.name for outcome in summary.failures] == [
        *("b-corrupt", "c-bug", "e-damaged", "f-missing")
    ]
    assert not summary.ok
    assert summary.outcomes[1].error["kind"] == "CorruptError"


def test_only_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    names = ("once-network", "twice-network", "a-corrupt", "b-bug", "c-missing")
    given = items(tmp_path, *names)
    summary = run(act, given, retries=2, backoff=0.01)
    assert [tries(tmp_path / name) for name in names] == [2, 3, 1, 1, 1]
    assert [outcome.tries for outcome in summary.outcomes] == [2, 3, 1, 1, 1]
    assert summary.outcomes[0].status == "done"
    assert summary.outcomes[1].problem == "the connection was reset"
    assert summary.outcomes[1].error["cure"] == "Try again."
    assert run(act, items(tmp_path, "x-network"), retries=0).outcomes[0].tries == 1


def test_a_pause_before_the_next_try_holds_up_no_other(tmp_path: Path) -> None:
    given = items(tmp_path, "once-network", *(f"{number}-fine" for number in range(5)))
    ended: list[str] = []

    def note(outcome: Outcome) -> None:
        ended.append(outcome.item.name)

    run(act, given, backoff=0.05, finished=note)
    assert ended == ["0-fine", "1-fine", "2-fine", "3-fine", "4-fine", "once-network"]


def test_progress_counts_items_and_bytes(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(b"x" * 10 * number)
    seen: list[tuple[int, int, int, int]] = []
    summary = run(measure, sorted(tmp_path.iterdir()), progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3, 0, 30), (2, 3, 10, 30), (3, 3, 30, 30)]
    assert summary.bytes == 30
    assert [outcome.result["sum"] for outcome in summary.outcomes] == [0, 1200, 2400]


def test_a_result_that_is_no_json_fails(tmp_path: Path) -> None:
    outcome = run(act, items(tmp_path, "a-odd")).outcomes[0]
    assert outcome.status == "failed"
    assert "a task's result is to be JSON" in outcome.problem


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"on": "slurm"}, "on='slurm' is no cluster. There are ray and dask."),
        ({"jobs": -1}, "jobs=-1 was given. 0 or more can work."),
        ({"jobs": True}, "jobs=True was given"),
        ({"jobs": 10**9}, "10,000 at most can work"),
        ({"retries": -1}, "retries=-1"),
        ({"backoff": float("nan")}, "backoff=nan"),
        ({"progress": 3}, "progress has to be a function, not int"),
        ({"journal": "a\0b"}, "cannot be opened: "),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises((ArgumentError, StoreError)) as error:
        run(act, items(tmp_path, "a"), **options)
    assert told in str(error.value)
    assert tries(tmp_path / "a") == 0


def test_items_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is given twice"):
        run(act, items(tmp_path, "a") * 2)
    with pytest.raises(ArgumentError, match="several items are needed, not one str"):
        run(act, "ab")
    with pytest.raises(ArgumentError, match="an item is a path or an Item, not int"):
        run(act, [3])  # type: ignore[list-item]
    assert run(act, []).counts == {"done": 0, "damaged": 0, "failed": 0, "skipped": 0}


@pytest.mark.parametrize(("on", "library"), [("ray", "ray"), ("dask", "distributed")])
def test_a_cluster_without_its_library(
    on: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'tensorkeep\[{on}\]'"):
        run(act, items(tmp_path, "a"), on=on)


def test_an_item_of_a_relative_path_is_absolute_elsewhere() -> None:
    assert Item("a/b", target="c").absolute() == Item(
        os.path.abspath("a/b"), target=os.path.abspath("c")
    )
    for where in ("s3://bucket/a", "lmdb:runs/a"):
        assert Item(where).absolute().where == where
