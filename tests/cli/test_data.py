from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.running import ESCAPE, Run, is_safe

import tensorkeep as tk
from tensorkeep.cli.data_actions import _damage
from tensorkeep.data.dataset import Dataset, Field, Rows, Sample
from tensorkeep.errors import CorruptError


def samples(count: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (4, 5), np.uint8),
            "label": np.int64(number),
            "text": f"number {number}",
        }
        for number in range(count)
    ]


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "train.tar"
    tk.data.write(samples(), path)
    return path


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "train.safetensors"
    tk.save({"x": np.arange(24, dtype=np.float32).reshape(6, 4), "y": np.arange(6)}, path)
    return path


@pytest.fixture
def damaged(arrays: Path) -> Path:
    data = bytearray(arrays.read_bytes())
    with tk.open(arrays) as state:
        data[state["x"].offset + 50] ^= 4
    path = arrays.with_name("damaged.safetensors")
    path.write_bytes(data)
    return path


def test_info(run: Run, arrays: Path) -> None:
    ran = run("data", "info", arrays)
    assert (ran.code, ran.err) == (0, "")
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert lines[0] == f"{arrays}: safetensors, 6 samples"
    assert "FIELD DTYPE SHAPE SIZE" in lines
    assert "x float32 (4,) 16 B" in lines
    assert "y int64 () 8 B" in lines
    assert "a sample 24 B" in lines
    assert "in all 144 B" in lines
    with tk.data.open(arrays) as dataset:
        assert f"digest {dataset.digest}" in lines


def test_info_of_several_as_json(run: Run, arrays: Path, tar: Path) -> None:
    first, second = run("data", "info", arrays, tar, "--json").json["files"]
    with tk.data.open(arrays) as dataset:
        digest = dataset.digest
    assert first == {
        "path": str(arrays),
        "kind": "safetensors",
        "samples": 6,
        "fields": {
            "x": {"dtype": "float32", "shape": [4]},
            "y": {"dtype": "int64", "shape": []},
        },
        "sample_bytes": 24,
        "bytes": 144,
        "stored": arrays.stat().st_size,
        "digest": digest,
        "shards": [],
        "index": None,
    }
    assert (second["kind"], second["samples"]) == ("tar", 12)
    assert second["fields"].keys() == {"image", "label", "text"}
    assert second["sample_bytes"] is None  # text is as long as it is


def test_info_of_shards(run: Run, tar: Path) -> None:
    target = tar.with_name("parts.tar")
    tk.data.write(samples(), target, shard_samples=5)
    found = run("data", "info", target, "--json").json["files"][0]
    assert [shard["samples"] for shard in found["shards"]] == [5, 5, 2]
    assert found["stored"] == sum(file.stat().st_size for file in tar.parent.glob("parts-*.tar"))
    assert found["index"] == f"{target}.index.json"
    out = run("data", "info", target).out
    assert "shards       3\n" in out
    assert "parts-00002.tar  2 samples" in out
    several = run("data", "info", tar.parent / "parts-*.tar", "--json").json["files"][0]
    assert [shard["samples"] for shard in several["shards"]] == [5, 5, 2]


def test_head(run: Run, tar: Path) -> None:
    ran = run("data", "head", tar)
    assert (ran.code, ran.err) == (0, "")
    blocks = ran.out.split("\n\n")
    assert len(blocks) == 6
    assert blocks[0] == f"{tar}: tar, 12 samples"
    image = samples()[0]["image"]
    assert (
        f"uint8  (4, 5)  min {image.min()}  max {image.max()}  mean {image.mean():.6g}" in ran.out
    )
    assert "text  'number 4'" in blocks[5]


def test_head_of_few_and_of_some_fields(run: Run, arrays: Path) -> None:
    out = run("data", "head", arrays, "-n", 1, "--fields", "x").out
    assert out.splitlines() == [
        f"{arrays}: safetensors, 6 samples",
        "",
        "sample 0",
        "  x  float32  (4,)  [0.0, 1.0, 2.0, 3.0]",
    ]
    assert run("data", "head", arrays, "-n", 0, "--json").json["files"][0]["head"] == []
    assert len(run("data", "head", arrays, "-n", 99, "--json").json["files"][0]["head"]) == 6
    ran = run("data", "head", arrays, "--fields", "z", "--json")
    assert (ran.code, ran.json["files"][0]["error"]["kind"]) == (2, "MissingError")


@pytest.mark.parametrize("action", ["info", "head"])
def test_a_file_that_cannot_be_read_keeps_no_other_back(
    run: Run, arrays: Path, tar: Path, action: str
) -> None:
    missing = arrays.with_name("none.npz")
    ran = run("data", action, missing, arrays, missing, tar)
    assert ran.code == 2
    assert ran.err.count("there is no such file") == 2
    assert [f"{path}: " in ran.out for path in (arrays, tar)] == [True, True]
    found = run("data", action, arrays, missing, tar, "--json")
    assert found.code == 2
    good, bad, other = found.json["files"]
    assert (good["samples"], other["samples"]) == (6, 12)
    assert bad.keys() == {"path", "error"}
    assert (bad["path"], bad["error"]["kind"]) == (str(missing), "MissingError")


def test_head_shows_what_comes_before_a_damaged_sample(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "train.minidb"
    tk.data.write(samples(3), path)
    data = path.read_bytes()
    at = data.index(samples(3)[1]["image"].tobytes())
    path.write_bytes(data[: at - 4] + bytes(4) + data[at:])
    ran = run("data", "head", path)
    assert ran.code == 2
    assert "sample 0" in ran.out
    assert "sample 1" in ran.err


def test_head_as_json(run: Run, tar: Path) -> None:
    found = run("data", "head", tar, "-n", 2, "--json").json["files"][0]
    assert (found["kind"], found["samples"], len(found["head"])) == ("tar", 12, 2)
    fields = found["head"][1]["fields"]
    image = samples()[1]["image"]
    assert fields["image"] == {
        "dtype": "uint8",
        "shape": [4, 5],
        "values": image.tolist(),
        "min": image.min(),
        "max": image.max(),
        "mean": pytest.approx(image.mean()),
    }
    assert fields["text"] == {"dtype": "string", "shape": [], "values": "number 1"}


def test_head_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    tk.data.write([{"text": f"a{ESCAPE}\n" * 50, "raw": ESCAPE.encode()}], path)
    ran = run("data", "head", path)
    assert ran.code == 0
    assert is_safe(ran.out)
    assert max(map(len, ran.out.splitlines())) < 200


def test_verify(run: Run, arrays: Path, tar: Path) -> None:
    ran = run("data", "verify", arrays, tar)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        f"ok       {arrays}: 6 samples can be read",
        f"ok       {tar}: 12 samples can be read",
    ]


def test_verify_names_what_is_damaged(run: Run, arrays: Path, damaged: Path) -> None:
    ran = run("data", "verify", arrays, damaged)
    assert (ran.code, ran.err) == (1, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("ok ")
    assert lines[1].startswith(f"DAMAGED  {damaged}: 1 of ")
    assert "x" in lines[2]
    found = run("data", "verify", arrays, damaged, "--json")
    assert (found.code, found.json["ok"]) == (1, False)
    good, bad = found.json["files"]
    assert good == {
        "path": str(arrays),
        "ok": True,
        "kind": "safetensors",
        "samples": 6,
        "damaged": [],
    }
    assert (bad["ok"], len(bad["damaged"])) == (False, 1)


def test_verify_of_a_file_that_is_cut_short(run: Run, arrays: Path, tmp_path: Path) -> None:
    arrays.write_bytes(arrays.read_bytes()[:-30])
    ran = run("data", "verify", arrays)
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("DAMAGED")
    ran = run("data", "verify", tmp_path / "none.tar", "--json")
    assert (ran.code, ran.json["ok"]) == (2, False)
    assert ran.json["files"][0]["error"]["kind"] == "MissingError"


class Brittle(Dataset):
    """Some of its samples cannot be read."""

    def __init__(self, count: int, broken: set[int]) -> None:
        super().__init__(count, {"x": Field("uint8", (1 << 20,))}, where="brittle", kind="brittle")
        self._broken = broken

    def samples(self, rows: Rows) -> list[Sample]:
        for row in rows.tolist():
            if row in self._broken:
                raise CorruptError(f"{self.name(row)} is broken", where=self.where)
        return [{"x": np.zeros(0, np.uint8)} for _ in rows]

    def _digest(self) -> str:
        return ""


def test_verify_finds_every_damaged_sample_and_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    found = _damage(Brittle(20, {0, 7, 8, 19}), lambda done, total: told.append((done, total)))
    assert found == [f"brittle: sample {row} is broken" for row in (0, 7, 8, 19)]
    assert told == [(8 << 20, 20 << 20), (16 << 20, 20 << 20), (20 << 20, 20 << 20)]


@pytest.mark.parametrize("name", ["to.lmdb", "to.minidb", "to.tar", "to.npz"])
def test_convert(run: Run, arrays: Path, name: str) -> None:
    target = arrays.with_name(name)
    ran = run("data", "convert", arrays, target)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{target}: 6 samples, ")
    with tk.data.open(arrays) as source, tk.data.open(target) as dataset:
        for row in range(6):
            assert np.array_equal(dataset[row]["x"], source[row]["x"])
            assert dataset[row]["y"] == source[row]["y"]


def test_convert_to_shards_and_go_on(run: Run, tar: Path) -> None:
    target = tar.with_name("parts.tar")
    sharded = ("data", "convert", tar, target, "--shard-samples", 5)
    found = run(*sharded, "--json").json
    assert found["samples"] == 12
    assert [Path(file).name for file in found["files"]] == [f"parts-0000{i}.tar" for i in range(3)]
    assert found["skipped"] == 0
    assert run(*sharded).code == 2
    ran = run(*sharded, "--resume")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(", in 3 files; 12 of them were there\n")
    assert run("data", "convert", tar, target, "--shard-size", "1", "--force").code == 0


def test_convert_replaces_nothing_unasked(run: Run, arrays: Path, tar: Path) -> None:
    before = tar.read_bytes()
    ran = run("data", "convert", arrays, tar)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {tar}: is there already. Replace it with --force.\n"
    assert tar.read_bytes() == before
    assert run("data", "convert", arrays, tar, "--force").code == 0
    with tk.data.open(tar) as dataset:
        assert len(dataset) == 6


def test_convert_some_fields(run: Run, tar: Path) -> None:
    target = tar.with_name("some.npz")
    assert run("data", "convert", tar, target, "--fields", "image,label").code == 0
    with tk.data.open(target) as dataset:
        assert dataset.fields.keys() == {"image", "label"}


def test_convert_what_arrays_cannot_hold(run: Run, tmp_path: Path) -> None:
    tk.data.write([{"text": "ü"}, {"text": "v"}], tmp_path / "a.minidb")  # which keeps bytes
    source, target = tmp_path / "a.minidb", tmp_path / "a.npz"
    done = run("data", "convert", source, target)
    assert (done.code, "--lossy" in done.err, target.exists()) == (2, True, False)
    assert run("data", "convert", source, target, "--lossy").code == 0
    assert tk.load(target)["text"].tolist() == ["ü", "v"]
    done = run("data", "convert", source, tmp_path / "a.tar", "--lossy")
    assert done.code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("frobnicate", "x"), "there is no action 'frobnicate'. Use info FILE..."),
        (("info", "x", "--resume"), "info takes no --resume. --resume is for convert."),
        (("verify", "x", "-n", "3"), "verify takes no -n. -n is for head."),
        (("convert", "x"), "takes a source and a target, not 1 paths"),
        (("info", "no-such.tar"), "no-such.tar: there is no such file"),
    ],
)
def test_misuse(run: Run, arguments: tuple[str, ...], told: str) -> None:
    ran = run("data", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err


def test_help(run: Run) -> None:
    assert "With --json" in run("data", "--help").out
    assert "\n  data " in run("--help").out
