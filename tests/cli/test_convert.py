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
        "remarks": [],
        "check": None,
        "files": [{"target": str(target), "format": "npz", "tensors": 7, "bytes": 190}],
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


def test_choosing_renaming_and_casting(run: Run, file: Path) -> None:
    target = file.with_name("b.safetensors")
    options = ("--include", "encoder.*", "--exclude", "*.b", "--rename", "encoder.*=*")
    ran = run("convert", file, target, *options, "--dtype", "float16")
    assert (ran.code, ran.err) == (0, "")
    with tk.open(target) as found, tk.open(file) as given:
        assert {name: str(found[name].dtype) for name in found} == {"w": "float16"}
        expected = given["encoder.w"].numpy().astype(np.float16)
        assert np.array_equal(found["w"].numpy(), expected)


def test_a_map(run: Run, tmp_path: Path) -> None:
    source, target, back = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz"))
    layers = {"dense.kernel": np.arange(6.0).reshape(2, 3), "dense.bias": np.zeros(3)}
    tk.save(layers, source)
    assert run("convert", source, target, "--map", "keras-torch").code == 0
    assert np.array_equal(tk.load(target)["dense.weight"], layers["dense.kernel"].T)
    assert run("convert", target, back, "--map", "torch-keras").code == 0
    assert tk.diff(source, back).equal
    ran = run("convert", source, back, "--force", "--map", "keras")
    assert (ran.code, "keras-torch" in ran.err) == (2, True)


def test_merging(run: Run, tmp_path: Path) -> None:
    a, b, target = (tmp_path / name for name in ("a.npz", "b.safetensors", "all.safetensors"))
    tk.save({"w": np.arange(3)}, a)
    tk.save({"w": np.arange(4)}, b)
    ran = run("convert", a, b, target)
    assert (ran.code, "both" in ran.err, target.exists()) == (2, True, False)
    ran = run("convert", a, b, target, "--prefix", "x")
    assert (ran.code, "--prefix is given 1 times for 2 files" in ran.err) == (2, True)
    ran = run("convert", a, b, target, "--prefix", "x", "--prefix", "y")
    assert (ran.code, ran.out) == (0, f"{target}: safetensors, 2 tensors, 56 B\n")
    assert sorted(tk.load(target)) == ["x.w", "y.w"]


def test_splitting(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    tk.save({"enc.w": np.arange(3), "enc.b": np.arange(2), "dec.w": np.arange(4)}, source)
    ran = run("convert", source, tmp_path / "part-{}.npz", "--split")
    assert ran.code == 0
    assert ran.out == (
        f"{tmp_path}/part-enc.npz: npz, 2 tensors, 40 B\n"
        f"{tmp_path}/part-dec.npz: npz, 1 tensor, 32 B\n"
    )
    assert sorted(tk.load(tmp_path / "part-enc.npz")) == ["enc.b", "enc.w"]
    (tmp_path / "part-enc.npz").unlink()
    ran = run("convert", source, tmp_path / "part-{}.npz", "--split")
    assert (ran.code, "--force" in ran.err) == (2, True)
    assert not (tmp_path / "part-enc.npz").exists()  # nothing is written where one is refused
    ran = run("convert", source, tmp_path / "part.npz", "--split")
    assert (ran.code, "has no {} in its name" in ran.err) == (2, True)


def test_parts_that_lead_out_of_the_folder(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "a.npz"
    tk.save({"/etc/x.w": np.arange(3)}, source)
    ran = run("convert", source, tmp_path / "{}.npz", "--split")
    assert (ran.code, "cannot be the name of a file" in ran.err) == (2, True)


def test_values_that_are_no_tensors_are_not_dropped_silently(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tk.save({"model": {"w": np.arange(3)}, "step": 3}, source)
    ran = run("convert", source, target, "--rename", "model.*=*")
    assert (ran.code, "no tensors: step" in ran.err, target.exists()) == (2, True, False)
    ran = run("convert", source, target, "--rename", "model.*=*", "--lossy")
    assert (ran.code, "lost: its values that are no tensors: step" in ran.out) == (0, True)


def test_arguments_that_make_no_sense(run: Run, file: Path) -> None:
    target = file.with_name("b.npz")
    for options, problem in (
        (("--rename", "model"), "is not PATTERN=NEW"),
        (("--dtype", "int8"), "casts to a floating-point type"),
        (("--include", "nothing.*"), "no tensor called"),
        (("--map", "none.toml"), "no such map file"),
    ):
        ran = run("convert", file, target, *options)
        assert (ran.code, problem in ran.err, target.exists()) == (2, True, False), options
    ran = run("convert", file)
    assert (ran.code, "there is no target" in ran.err) == (2, True)
