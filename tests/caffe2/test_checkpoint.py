from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.caffe2.golden_cases import DATA

from tensorkeep.caffe2 import Workspace, create_operator, load
from tensorkeep.errors import ArgumentError
from tensorkeep.source import FileSource
from tensorkeep.wire.minidb import read_records

ENTRIES = {
    entry["file"]: entry for entry in json.loads((DATA / "MANIFEST.json").read_text())["entries"]
}


def records(path: Path) -> list[dict[str, Any]]:
    source = FileSource(path)
    return [
        {"key": key, "len": b - a, "sha256": hashlib.sha256(source.read(a, b)).hexdigest()}
        for key, a, b in read_records(source)
    ]


@pytest.mark.parametrize("type", ["Checkpoint", "Snapshot"])
def test_as_recorded(tmp_path: Path, type: str) -> None:
    for number, run in enumerate(ENTRIES["checkpoint_op"]["runs"]):
        folder = tmp_path / str(number)
        (folder / "checkpoint_op").mkdir(parents=True)
        ws = Workspace(str(folder), durable=False)
        ws.feed("iter", np.array([run["iter"]], np.int64))
        ws.feed("w", np.arange(3, dtype=np.float32) + run["iter"] % 97)
        ws.run(
            create_operator(type, ["iter", "w"], db=run["db"], db_type="minidb", every=run["every"])
        )
        made = sorted((folder / "checkpoint_op").iterdir())
        assert [path.name for path in made] == run["written"]
        if made:
            assert records(made[0]) == run["records"]


def test_the_arguments_of_save_pass_through(tmp_path: Path) -> None:
    ws = Workspace("/nowhere")
    ws.feed("iter", np.array(2**33 + 10))
    ws.feed("p/w", np.arange(4))
    ws.run(
        create_operator(
            "Checkpoint",
            ["iter", "p/w"],
            db=f"{tmp_path}/%d.minidb",
            db_type="minidb",
            absolute_path=1,
            strip_prefix="p/",
            chunk_size=3,
        )
    )
    found = records(tmp_path / "8589934602.minidb")
    assert [record["key"] for record in found] == ["iter#%0", "w#%0", "w#%1"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.array([1], np.int32), "int32 of shape"),
        (np.zeros(0, np.int64), "int64 of shape"),
        (b"1", "none"),
    ],
)
def test_iterations_that_are_none(tmp_path: Path, value: Any, found: str) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("iter", value)
    with pytest.raises(ArgumentError, match=f"'iter'.*{found}"):
        ws.run(create_operator("Checkpoint", ["iter"], db="x_%d", db_type="minidb"))


@pytest.mark.parametrize("pattern", ["%s", "%d_%d", "%n"])
def test_patterns_are_checked_before_the_first_checkpoint(tmp_path: Path, pattern: str) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("iter", np.array([1]))
    with pytest.raises(ArgumentError, match="%d"):
        ws.run(create_operator("Checkpoint", ["iter"], db=pattern, db_type="minidb", every=10))


def test_one_element_counts(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("iter", np.array([[6, 7]]))
    ws.run(create_operator("Checkpoint", ["iter"], db="x_%d", db_type="minidb", every=3))
    assert [path.name for path in tmp_path.iterdir()] == ["x_6"]


def test_snapshot_may_have_outputs(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("i", np.array([4]))
    given: dict[str, Any] = {"db": "%d.minidb", "db_type": "minidb"}
    assert ws.run(create_operator("Snapshot", ["i"], ["o", "p"], **given))
    assert load(tmp_path / "4.minidb")["i"].tolist() == [4]
    assert ws.blobs() == ["i"]
