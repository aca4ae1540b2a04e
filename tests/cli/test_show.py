from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.running import Run, is_safe

import tensorkeep as tk
from tensorkeep.cli.show import parse_index
from tensorkeep.errors import ArgumentError
from tensorkeep.source import FileSource


def test_values_statistics_and_a_histogram(run: Run, file: Path) -> None:
    ran = run("show", file, "encoder.w")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("encoder.w: float32, shape (4, 6)\n[[0.    0.125 0.25")
    assert "count 24  zeros 1  nan 0  inf 0  min 0  max 2.875  mean 1.4375" in ran.out
    assert ran.out.count("█") > 6
    assert "█" not in run("show", file, "encoder.w", "--no-histogram").out


def test_a_slice(run: Run, file: Path) -> None:
    ran = run("show", file, "encoder.w[1:3, -1]")
    assert ran.out.startswith("encoder.w[1:3, -1]: float32, shape (2,) of (4, 6)\n[1.375 2.125]\n")
    assert run("show", file, "encoder.w[2, 0]").out.endswith("\n1.5\n")


def test_a_slice_reads_only_what_it_needs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"w": np.ones((1000, 1000))}, path, checksums=False)
    reads: list[int] = []
    read = FileSource._read

    def counted(self: FileSource, start: int, stop: int) -> memoryview:
        reads.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(FileSource, "_read", counted)
    assert run("show", path, "w[500, :5]").code == 0
    assert sum(reads) < 20_000


def test_json(run: Run, file: Path) -> None:
    found = run("show", file, "encoder.w[0, ::2]", "--json").json
    assert found["path"] == str(file)
    assert (found["name"], found["index"]) == ("encoder.w", "0, ::2")
    assert (found["dtype"], found["tensor_shape"], found["shape"]) == ("float32", [4, 6], [3])
    assert found["values"] == [0, 0.25, 0.5]
    numbers = found["statistics"]
    assert (numbers["count"], numbers["min"], numbers["max"]) == (3, 0, 0.5)
    assert sum(found["histogram"]["counts"]) == 3
    assert found["histogram"]["edges"][0] == 0
    assert found["histogram"]["edges"][-1] == 0.5


@pytest.mark.parametrize(
    ("name", "values", "numbers"),
    [
        ("encoder.b", [0.5, -1, 2], {"count": 3, "zeros": 0, "min": -1, "max": 2, "mean": 0.5}),
        ("mask", [True, False, True], {"count": 3, "true": 2, "false": 1}),
        ("codes", [-8, 7, 0, 1], {"count": 4, "zeros": 1, "min": -8, "max": 7, "mean": 0}),
        ("z", [[3, 4], [0, 0]], {"count": 2, "zeros": 1, "nan": 0, "inf": 0, "min": 0, "max": 5}),
        ("words", ["hello", "wörld", ""], {"count": 3, "empty": 1, "shortest": 0, "longest": 5}),
        ("seed", 2**64 - 1, {"count": 1, "min": 2**64 - 1, "max": 2**64 - 1}),
    ],
)
def test_every_kind_of_element(
    run: Run, file: Path, name: str, values: Any, numbers: dict[str, float]
) -> None:
    found = run("show", file, name, "--json").json
    assert found["values"] == values
    assert found["statistics"] | numbers == found["statistics"]
    assert run("show", file, name).code == 0


def test_a_value_of_the_nesting(run: Run, file: Path) -> None:
    assert run("show", file, "optimizer.step").out == "3\n"
    assert run("show", file, "note").out == "plain\n"
    assert run("show", file, "loss", "--json").json == {
        "path": str(file),
        "name": "loss",
        "value": "nan",
    }


def test_the_name_of_a_lone_tensor_is_needless(run: Run, file: Path, tmp_path: Path) -> None:
    tk.save({"w": np.arange(3)}, tmp_path / "one.safetensors")
    assert run("show", tmp_path / "one.safetensors").out.startswith("w: int64, shape (3,)\n[0 1 2]")
    ran = run("show", file)
    assert ran.code == 2
    assert "holds 7 tensors" in ran.err


def test_a_name_that_has_brackets_is_a_name_first(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"w[0]": np.arange(3), "w": np.arange(9)}, path)
    assert run("show", path, "w[0]", "--json").json["values"] == [0, 1, 2]
    assert run("show", path, "w[0][1]", "--json").json["values"] == 1
    assert run("show", path, "w[8]", "--json").json["values"] == 8


def test_large_tensors_are_summarised(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"w": np.arange(200_000.0)}, path)
    ran = run("show", path)
    assert len(ran.out) < 3000
    assert "..." in ran.out
    found = run("show", path, "--json").json
    assert found["values"] is None
    assert sum(found["histogram"]["counts"]) == 200_000


@pytest.mark.parametrize("wanted", ["encoder.w[9]", "encoder.w[0,0,0]", "encoder.w[x]", "nope"])
def test_what_is_not_there(run: Run, file: Path, wanted: str) -> None:
    ran = run("show", file, wanted)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    found = run("show", file, wanted, "--json")
    assert found.code == 2
    assert set(found.json["error"]) == {"kind", "message", "where", "cure"}


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", (0,)),
        ("-1, +2", (-1, 2)),
        ("1:2:3,:,::-1", (slice(1, 2, 3), slice(None), slice(None, None, -1))),
        (" ... , 0 ", (..., 0)),
        ("0,", (0,)),
    ],
)
def test_indices(text: str, index: object) -> None:
    assert parse_index(text) == index


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a",
        "0x1",
        "1.5",
        "::0",
        "1:2:3:4",
        "...,...",
        "[0]",
        "1_0",
        "9" * 19,
        "__import__",
        "0 0",
    ],
)
def test_what_is_no_index(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_index(text)


def test_hostile_text_does_not_reach_the_terminal(run: Run, hostile: Path) -> None:
    with tk.open(hostile) as state:
        names = list(state)
    for name in [*names, "nope\x1b[2J", "value\x1b[2J\x1b]0;gotcha\x07"]:
        for options in ([], ["--json"]):
            ran = run("show", hostile, name, *options)
            assert is_safe(ran.out)
            assert is_safe(ran.err)
