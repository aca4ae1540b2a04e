from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from tests.bulk.tasks import act, measure, tries

from tensorkeep.bulk import Item, Outcome, run
from tensorkeep.errors import ArgumentError, CorruptError, StoreError
from tensorkeep.state import Json


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.bin" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    return paths


def setting(item: Item, deep: bool = False) -> dict[str, Json]:
    return measure(item)


def statuses(files: list[Path], journal: Path) -> list[str]:
    return [outcome.status for outcome in run(measure, files, journal=journal).outcomes]


def test_what_was_done_and_is_unchanged_is_skipped(files: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    assert statuses(files, journal) == ["done"] * 6
    assert statuses(files, journal) == ["skipped"] * 6
    files[2].write_bytes(b"another")
    os.utime(files[4], ns=(1, 1))
    again = run(measure, files, journal=journal)
    assert [outcome.status for outcome in again.outcomes] == [
        *("skipped", "skipped", "done", "skipped", "done", "skipped")
    ]
    assert again.outcomes[5].result == {"bytes": 10, "sum": 50}  # as it was found then
    assert again.outcomes[5].tries == 0
    assert again.bytes == 17
    assert statuses(files, journal) == ["skipped"] * 6


def test_an_interrupted_run_goes_on_where_it_stopped(files: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    seen: list[str] = []

    def interrupt(outcome: Outcome) -> None:
        seen.append(outcome.item.name)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(measure, files, journal=journal, finished=interrupt)
    assert statuses(files, journal) == ["skipped"] * 3 + ["done"] * 3


def test_what_was_not_done_is_tried_again(tmp_path: Path) -> None:
    names = ("a-damaged", "b-missing", "c-nothing", "d-fine")
    items = [Item(str(tmp_path / name), name, 1, "same") for name in names]
    for _ in range(2):
        summary = run(act, items, journal=tmp_path / "journal")
    assert [tries(tmp_path / name) for name in names] == [2, 2, 1, 1]
    assert summary.counts == {"done": 0, "damaged": 1, "failed": 1, "skipped": 2}


def test_what_cannot_be_told_from_before_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "a-fine").touch()
    for _ in range(2):
        run(act, [Item(str(tmp_path / "a-fine"))], journal=tmp_path / "journal")
    assert tries(tmp_path / "a-fine") == 2


def test_every_cut_of_a_journal_is_gone_on_from(files: list[Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(measure, files[:2], journal=whole)
    data = whole.read_bytes()
    lines = data.count(b"\n")
    for cut in range(0, len(data), 7):
        journal = tmp_path / "journal"
        journal.write_bytes(data[:cut])
        done = max(0, data[:cut].count(b"\n") - 1)
        assert statuses(files[:2], journal) == ["skipped"] * done + ["done"] * (2 - done)
        assert all(json.loads(line) for line in journal.read_bytes().splitlines())
        assert journal.read_bytes().count(b"\n") == lines


def test_a_last_line_that_never_reached_the_disk(files: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run(measure, files, journal=journal)
    *lines, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines) + b"\0" * (len(last) - 1) + b"\n")
    assert statuses(files, journal) == ["skipped"] * 5 + ["done"]
    assert statuses(files, journal) == ["skipped"] * 6


def test_damage_in_the_middle_is_refused(files: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run(measure, files, journal=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * (len(lines[3]) - 1) + b"\n"
    journal.write_bytes(b"".join(lines))
    with pytest.raises(CorruptError, match="line 4 is damaged"):
        run(measure, files, journal=journal)
    assert journal.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("text", ["notes of mine\n", "{}\n", '{"a": 1}\n{"b": 2}\n', "not this"])
def test_another_file_is_left_alone(text: str, files: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "notes"
    other.write_text(text)
    with pytest.raises(ArgumentError, match="is no journal"):
        run(measure, files, journal=other)
    assert other.read_text() == text


def test_the_journal_of_another_task(files: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run(measure, files, journal=journal)
    with pytest.raises(ArgumentError, match=r"is the journal of tests.bulk.tasks.measure with"):
        run(act, files, journal=journal)
    settings = tmp_path / "settings"
    run(setting, files, journal=settings)
    with pytest.raises(ArgumentError, match="not of this run"):
        run(partial(setting, deep=True), files, journal=settings)
    assert files[0].read_bytes() == b"\0" * 10


def test_two_runs_at_once(files: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"

    def second(outcome: Outcome) -> None:
        with pytest.raises(StoreError, match="another run writes it"):
            run(measure, files, journal=journal)

    run(measure, files[:1], journal=journal, finished=second)


def test_a_journal_that_cannot_be_written(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened: Is a directory"):
        run(measure, files, journal=tmp_path)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        run(measure, files, journal="/dev/full")
