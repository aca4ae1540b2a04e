from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.cli.running import ESCAPE, Run, is_safe

import tensorkeep as tk


def test_tensors_totals_metadata_and_values(run: Run, file: Path) -> None:
    ran = run("ls", file)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"{file}: safetensors, with checksums"
    assert "  epoch  5" in lines
    assert "  optimizer.step     3" in lines
    rows = [line.split() for line in lines if line.startswith("encoder.")]
    assert ["encoder.w", "float32", "(4,", "6)", "96", "B"] in rows
    assert ["encoder.b", "bfloat16", "(3,)", "6", "B"] in rows
    assert lines[-1] == "7 tensors, 40 elements, 190 B"
    assert "\x1b" not in ran.out


def test_columns_are_aligned_whatever_the_width_of_letters(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"重み": np.ones(1), "plain": np.ones(1), "e\u0301": np.ones(1)}, path)
    rows = [line for line in run("ls", path).out.splitlines() if "float64" in line]
    assert sorted(row[: row.index("float64")] for row in rows) == [
        "e\u0301      ",
        "plain  ",
        "重み   ",
    ]


def test_names_limit_the_list(run: Run, file: Path) -> None:
    ran = run("ls", file, "--names", "encoder.*", "--names", "mask")
    names = [line.split()[0] for line in ran.out.splitlines() if " (" in line]
    assert sorted(names) == ["encoder.b", "encoder.w", "mask"]
    assert ran.out.endswith("3 tensors, 30 elements, 105 B\n")
    assert run("ls", file, "--names", "nothing*").code == 2


def test_long_shows_offsets_and_digests(run: Run, file: Path) -> None:
    out = run("ls", "--long", file).out
    with tk.open(file) as state:
        for name, tensor in state.items():
            [row] = [line for line in out.splitlines() if line.startswith(f"{name} ")]
            assert f"{tensor.offset:,}" in row.split()
            assert state.digests[name] in row


def test_long_shows_every_value(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"history": [0.5] * 30, "long": "x" * 500, "w": np.ones(1)}, path)
    short, full = run("ls", path).out, run("ls", "-l", path).out
    assert "history.29" not in short
    assert "and 19 more, with --long" in short
    assert "x" * 500 not in short
    assert "history.29" in full
    assert "x" * 500 in full


def test_json_has_everything(run: Run, file: Path) -> None:
    found = run("ls", file, "--json").json
    assert found["path"] == str(file)
    assert (found["format"], found["checksums"]) == ("safetensors", True)
    assert (found["count"], found["elements"], found["bytes"]) == (7, 40, 190)
    assert found["metadata"] == {"epoch": 5, "by": "us"}
    assert found["values"]["optimizer.betas.1"] == 0.99
    assert found["values"]["loss"] == "nan"
    with tk.open(file) as state:
        assert [tensor["name"] for tensor in found["tensors"]] == list(state)
        w = next(t for t in found["tensors"] if t["name"] == "encoder.w")
        assert w == {
            "name": "encoder.w",
            "dtype": "float32",
            "shape": [4, 6],
            "bytes": 96,
            "file": str(file),
            "offset": state["encoder.w"].offset,
            "digest": state.digests["encoder.w"],
            "remark": None,
        }


def test_without_checksums(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"w": np.ones(1)}, path, checksums=False)
    assert "without checksums" in run("ls", path).out
    found = run("ls", path, "--json").json
    assert found["checksums"] is False
    assert found["tensors"][0]["digest"] is None


def test_shards_say_in_which_file_they_are(run: Run, tmp_path: Path) -> None:
    tk.save({"a": np.ones(100), "b": np.ones(100)}, tmp_path / "m.safetensors", max_shard_size=800)
    out = run("ls", "-l", tmp_path).out
    for name, shard in (("a", 1), ("b", 2)):
        [row] = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert row.endswith(f"m-0000{shard}-of-00002.safetensors")


def test_an_empty_state(run: Run, tmp_path: Path) -> None:
    tk.save({}, tmp_path / "a.safetensors")
    assert run("ls", tmp_path / "a.safetensors").out.endswith("\n0 tensors, 0 elements, 0 B\n")
    assert run("ls", tmp_path / "a.safetensors", "--json").json["tensors"] == []


def test_many_tensors_are_all_listed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    tk.save({f"layer.{i}": np.zeros(1) for i in range(5000)}, path, checksums=False, durable=False)
    assert sum(line.startswith("layer.") for line in run("ls", path).out.splitlines()) == 5000


def test_hostile_names_do_not_reach_the_terminal(run: Run, hostile: Path) -> None:
    for options in ([], ["--long"], ["--json"]):
        ran = run("ls", hostile, *options)
        assert ran.code == 0
        assert is_safe(ran.out)
    out = run("ls", hostile).out
    assert r"w\x1b[2J\x1b]0;gotcha\x07" in out
    assert "[bold red]x[/]" in out
    assert r"\nsecond line" in out
    names = [tensor["name"] for tensor in run("ls", hostile, "--json").json["tensors"]]
    assert f"w{ESCAPE}" in names


NETWORK = """version 1.0;
graph net( image ) -> ( result )
{
    image = external(shape = [1, 2]);
    weight = variable<scalar>(shape = [1, 2], label = 'layer/weight');
    scaled = mul(image, weight);
    result = relu(scaled);
}
"""


def test_a_model_of_nnef_says_what_it_is(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "net.nnef"
    path.write_text(NETWORK)
    ran = run("ls", path)
    assert (ran.code, ran.err) == (0, "")
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert lines[0] == f"{path}: nnef, without checksums"
    assert {"dialect nnef", "graph net", "in image: float32[1, 2]", "out result"} <= {*lines}
    assert "nodes 2: mul 1, relu 1" in lines
    assert "layer/weight float32 (1, 2) 8 B no data" in lines
    assert run("ls", path, "--json").json["model"] == {
        "dialect": "nnef",
        "graph": "net",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 2], "kind": "tensor"}],
        "outputs": [{"name": "result", "dtype": None, "shape": None, "kind": "tensor"}],
        "nodes": {"mul": 1, "relu": 1},
    }
