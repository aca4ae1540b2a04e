from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import Run, is_safe, state

import tensorkeep as tk


@pytest.fixture
def other(file: Path) -> Path:
    """Give a file that differs from `file` in all the ways there are."""
    changed = state(step=4)
    changed["encoder"]["w"][2, 3] += 0.5
    changed["encoder"]["b"] = changed["encoder"]["b"].astype(np.float32)
    changed["z"] = np.array([3 + 4j])
    changed["fresh"] = changed.pop("mask")
    path = file.with_name("b.safetensors")
    tk.save(changed, path, metadata={"epoch": 5, "by": "us"})
    return path


def test_equal_files(run: Run, file: Path) -> None:
    ran = run("diff", file, file)
    assert (ran.code, ran.out, ran.err) == (0, "identical: 7 tensors, bit for bit\n", "")


def test_all_lists_equal_tensors_too(run: Run, file: Path) -> None:
    out = run("diff", file, file, "--all").out
    assert sum("identical" in line for line in out.splitlines()) == 8
    assert "encoder.w" in out


def test_everything_that_differs_is_told(run: Run, file: Path, other: Path) -> None:
    ran = run("diff", file, other)
    assert (ran.code, ran.err) == (1, "")
    lines = ran.out.splitlines()
    assert lines[:2] == [f"Only in {file}", "  mask"]
    assert lines[3:5] == [f"Only in {other}", "  fresh"]
    assert "  optimizer.step: 3 | 4" in lines
    [w] = [line.split() for line in lines if line.startswith("encoder.w ")]
    expected = "encoder.w float32 (4, 6) 1 of 24 0.5 [2, 3] 0.2105 [2, 3]"
    assert " ".join(w) == expected
    [b] = [line for line in lines if line.startswith("encoder.b ")]
    assert "bfloat16 | float32" in b
    [z] = [line for line in lines if line.startswith("z ")]
    assert "(2,) | (1,)" in z
    assert "not compared" in z
    assert not [line for line in lines if line.startswith(("codes ", "words "))]
    assert lines[-1] == (
        "different: 3 of 6 tensors differ, 1 only in the first, 1 only in the second, "
        "1 value beside them"
    )


def test_json(run: Run, file: Path, other: Path) -> None:
    ran = run("diff", file, other, "--json")
    assert ran.code == 1
    found = ran.json
    assert (found["equal"], found["a"], found["b"]) == (False, str(file), str(other))
    assert (found["only_in_a"], found["only_in_b"]) == (["mask"], ["fresh"])
    assert found["values"] == [{"place": "optimizer.step", "a": "3", "b": "4"}]
    tensors = {tensor.pop("name"): tensor for tensor in found["tensors"]}
    assert sorted(tensors) == ["codes", "encoder.b", "encoder.w", "seed", "words", "z"]
    assert tensors["encoder.w"] == {
        "equal": False,
        "identical": False,
        "dtypes": ["float32", "float32"],
        "shapes": [[4, 6], [4, 6]],
        "elements": 24,
        "differing": 1,
        "mean_absolute": 0.5 / 24,
        "max_absolute": 0.5,
        "max_absolute_at": [2, 3],
        "max_relative": pytest.approx(0.5 / 2.375),
        "max_relative_at": [2, 3],
    }
    assert tensors["z"]["differing"] is None
    assert tensors["codes"]["identical"] is True


def test_infinite_differences_are_strict_json(run: Run, tmp_path: Path) -> None:
    for name, value in (("a", np.nan), ("b", 1.0)):
        tk.save({"w": np.array([value])}, tmp_path / f"{name}.npz")
    found = run("diff", tmp_path / "a.npz", tmp_path / "b.npz", "--json").json
    assert found["tensors"][0]["max_absolute"] == "inf"


def test_tolerances(run: Run, file: Path, tmp_path: Path) -> None:
    near = state()
    near["encoder"]["w"] += np.float32(0.01)
    tk.save(near, tmp_path / "b.safetensors", metadata={"epoch": 5, "by": "us"})
    assert run("diff", file, tmp_path / "b.safetensors").code == 1
    assert run("diff", file, tmp_path / "b.safetensors", "--rtol", "0.001").code == 1
    ran = run("diff", file, tmp_path / "b.safetensors", "--atol", "0.02")
    assert (ran.code, ran.out) == (0, "equal: 7 tensors, though not bit for bit\n")
    assert run("diff", file, file, "--atol", "-1").code == 2
    assert run("diff", file, file, "--atol", "much").code == 2


def test_names(run: Run, file: Path, other: Path) -> None:
    assert run("diff", file, other, "--names", "codes", "--names", "words").code == 0
    assert run("diff", file, other, "--names", "encoder.*").code == 1
    assert run("diff", file, other, "--names", "nothing").code == 2


def test_a_flipped_bit_is_named(run: Run, file: Path, damaged: Path) -> None:
    ran = run("diff", file, damaged, "--json")
    assert ran.code == 1
    assert [t["name"] for t in ran.json["tensors"] if not t["equal"]] == ["encoder.w"]


def test_a_missing_file(run: Run, file: Path) -> None:
    ran = run("diff", file, file.with_name("none.npz"))
    assert (ran.code, ran.out) == (2, "")
    assert "there is no such file" in ran.err


def test_hostile_names(run: Run, hostile: Path, file: Path) -> None:
    for a, b in ((hostile, file), (file, hostile), (hostile, hostile)):
        ran = run("diff", a, b, "--all")
        assert is_safe(ran.out + ran.err)
        assert is_safe(run("diff", a, b, "--json").out)
