from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.cli.running import Run, is_safe, state

import tensorkeep as tk


def test_to_another_format_and_back(run: Run, file: Path) -> None:
    middle, back = file.with_name("b.npz"), file.with_name("c.safetensors")
    ran = run("convert", file, middle)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{middle}: npz, 7 tensors, 190 B\n"
    assert run("convert", middle, back).code == 0
    assert tk.diff(file, back).equal


def test_json(run: Run, file: Path) -> None:
    target = file.with_name("b.npz")
    assert run("convert", file, target, "--json").json == {
        "source": str(file),
        "target": str(target),
        "format": "npz",
        "tensors": 7,
        "bytes": 190,
        "lost": [],
    }


def test_an_existing_target_is_replaced_only_by_force(run: Run, file: Path) -> None:
    target = file.with_name("b.npz")
    target.write_bytes(b"precious")
    ran = run("convert", file, target)
    assert ran.code == 2
    assert "--force" in ran.err
    assert target.read_bytes() == b"precious"
    assert run("convert", file, target, "--force").code == 0
    assert tk.diff(file, target).equal


def test_existing_shards_are_replaced_only_by_force(run: Run, file: Path) -> None:
    target = file.with_name("m.safetensors")
    assert run("convert", file, target, "--max-shard-size", "100").code == 0
    shards = sorted(path.name for path in file.parent.glob("m-*"))
    assert len(shards) > 1
    assert not target.exists()
    assert run("convert", file, target, "--max-shard-size", "100").code == 2
    assert sorted(path.name for path in file.parent.glob("m-*")) == shards
    assert tk.diff(file, file.with_name("m.safetensors.index.json")).equal


def test_the_format_is_told_by_option_where_the_name_does_not(run: Run, file: Path) -> None:
    target = file.with_name("weights")
    ran = run("convert", file, target)
    assert ran.code == 2
    assert "--to FORMAT" in ran.err
    assert not target.exists()
    assert run("convert", file, target, "--to", "json").code == 0
    assert tk.open(target).format == "json"
    assert run("convert", file, target, "--to", "nonsense").code == 2


def test_names_and_no_checksums(run: Run, file: Path) -> None:
    target = file.with_name("b.safetensors")
    options = ("--names", "encoder.*", "--no-checksums", "--no-durable")
    assert run("convert", file, target, *options).code == 0
    with tk.open(target) as found:
        assert sorted(found) == ["encoder.b", "encoder.w"]
        assert not found.digests
        assert found.metadata["epoch"] == 5


def test_what_would_be_lost_is_refused_or_listed(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.npy"
    tk.save({"w": np.arange(3)}, source, metadata={"epoch": 5})
    ran = run("convert", source, target)
    assert (ran.code, ran.out) == (2, "")
    assert "--lossy" in ran.err
    assert "lossy=True" not in ran.err
    assert not target.exists()
    ran = run("convert", source, target, "--lossy", "--json")
    assert ran.code == 0
    assert ran.json["lost"]
    ran = run("convert", source, target, "--lossy", "--force")
    assert ran.out.splitlines()[1].startswith("lost: ")
    assert np.load(target).tolist() == [0, 1, 2]


def test_errors(run: Run, file: Path) -> None:
    target = file.with_name("b.npz")
    for arguments in (
        ("none.safetensors", target),
        (file, file.parent / "no" / "folder.npz"),
        (file, target, "--max-shard-size", "1GB"),
        (file, target, "--names", "nothing"),
        (file, file.parent),
    ):
        ran = run("convert", *arguments)
        assert ran.code == 2
        assert ran.err.startswith("error: ")
        found = run("convert", *arguments, "--json")
        assert found.code == 2
        assert found.json["error"]["message"]
        assert not target.exists()


def test_the_file_itself_can_be_the_target(run: Run, file: Path) -> None:
    assert run("convert", file, file, "--names", "encoder.w", "--force").code == 0
    assert tk.load(file)["encoder.w"].tolist() == state()["encoder"]["w"].tolist()


def test_hostile_names(run: Run, hostile: Path) -> None:
    ran = run("convert", hostile, hostile.with_name("b\x1b[2J.npz"))
    assert is_safe(ran.out + ran.err)
