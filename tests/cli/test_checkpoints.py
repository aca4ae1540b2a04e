from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.running import ESCAPE, Run, is_safe

import tensorkeep as tk
from tensorkeep import caffe2
from tensorkeep.checkpoint.disk import DiskFolder as Folder
from tensorkeep.errors import UnknownFormatError
from tensorkeep.formats.safetensors.manifest import read_manifest
from tensorkeep.stores import locate

STEPS = (100, 200, 300)


def _state(step: int) -> dict[str, Any]:
    return {
        "model": {
            "frozen": np.arange(300_000, dtype=np.float32),
            "w": np.full(1000, step, np.float32),
        },
        "lr": 1 / step,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    with tk.Checkpointer(path, max_shard_size="1MB") as ck:
        for step, loss in zip(STEPS, (0.1, 0.3, 0.2), strict=True):
            ck.save(step, _state(step), metrics={"loss": loss}, reason="interval")
    return path


def _step(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08}"


def _damage(folder: Path, step: int, name: str) -> str:
    """Flip a bit of a tensor; give the place of its bytes."""
    entry = read_manifest(locate(_step(folder, step))).tensors[name]
    with open(_step(folder, step) / entry.file, "r+b") as file:
        file.seek(entry.start)
        byte = file.read(1)[0]
        file.seek(entry.start)
        file.write(bytes([byte ^ 1]))
    return f"bytes {entry.start} to {entry.stop} of {entry.file}"


def test_list(run: Run, folder: Path) -> None:
    ran = run("checkpoints", folder)
    assert (ran.code, ran.err) == (0, "")
    head, *rows = ran.out.splitlines()
    assert head.split() == ["STEP", "AGE", "SIZE", "SHARED", "loss", "VERIFIED", "NOTE"]
    assert rows[1].split()[0] == "200"
    assert rows[1].split()[-3:] == ["0.3", "no", "interval"]
    assert "1.2 MB" in rows[1]
    assert run("checkpoints", folder, "list").out == ran.out


def test_list_as_json(run: Run, folder: Path) -> None:
    found = run("checkpoints", folder, "--json")
    assert found.code == 0
    assert found.json["ok"] is True
    row = found.json["checkpoints"][0]
    assert row["step"] == 100
    assert row["path"] == str(_step(folder, 100))
    assert row["metrics"] == {"loss": 0.1}
    assert row["problem"] == ""
    assert row["format"] == "checkpoint"


def test_many_metrics_share_a_column(run: Run, tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path / "run") as ck:
        ck.save(1, {"w": np.zeros(2)}, metrics={f"m{i}": i for i in range(5)})
        ck.save(2, {"w": np.zeros(2)}, metrics={f"m{ESCAPE}": f"v{ESCAPE}"}, reason=ESCAPE)
    ran = run("checkpoints", tmp_path / "run")
    assert "METRICS" in ran.out
    assert "m0=0, m1=1, m2=2, m3=3, m4=4" in ran.out
    assert is_safe(ran.out)


def test_list_of_a_damaged_one(run: Run, folder: Path) -> None:
    os.truncate(_step(folder, 200) / "state.json", 5)
    ran = run("checkpoints", folder)
    assert ran.code == 1
    assert "DAMAGED: state.json is 5 bytes long" in ran.out
    assert "1 of 3 checkpoints is damaged" in ran.err
    assert "repair --dry-run" in ran.err
    found = run("checkpoints", folder, "--json")
    assert (found.code, found.json["ok"]) == (1, False)


def test_nothing_there(run: Run, tmp_path: Path) -> None:
    for action in ((), ("verify",)):
        ran = run("checkpoints", tmp_path, *action)
        assert (ran.code, ran.out) == (0, f"{tmp_path}: no checkpoints\n")
    assert not any(tmp_path.iterdir())
    ran = run("checkpoints", tmp_path, "restore", "latest", "--to", tmp_path / "x.npz")
    assert ran.code == 2
    assert "there is no checkpoint" in ran.err


def test_verify(run: Run, folder: Path) -> None:
    ran = run("checkpoints", folder, "verify", "200", "step-00000300")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == (
        f"ok       {_step(folder, 200)}: 2 tensors (1.2 MB) match what was saved"
    )
    assert [row.verified > 0 for row in tk.checkpoints(folder)] == [False, True, True]
    assert run("checkpoints", folder).out.count("yes, 0 s ago") == 2
    assert len(run("checkpoints", folder, "verify").out.splitlines()) == 3


def test_verify_names_what_is_damaged(run: Run, folder: Path) -> None:
    run("checkpoints", folder, "verify", "latest")
    place = _damage(folder, 300, "model.w")
    ran = run("checkpoints", folder, "verify")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[2] == f"DAMAGED  {_step(folder, 300)}: 1 of 2 tensors"
    assert lines[3].strip().startswith("model.w: its XXH3-128 is ")
    assert lines[3].endswith(place)
    assert [row.verified > 0 for row in tk.checkpoints(folder)] == [True, True, False]
    found = run("checkpoints", folder, "verify", "300", "--json")
    assert found.code == 1
    (row,) = found.json["checkpoints"]
    assert (row["ok"], row["damaged"][0]["name"]) == (False, "model.w")


@pytest.mark.parametrize("file", ["state.json", "model.safetensors.index.json", "MANIFEST.json"])
def test_verify_names_a_damaged_file(run: Run, folder: Path, file: str) -> None:
    path = _step(folder, 100) / file
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    ran = run("checkpoints", folder, "verify")
    assert ran.code == 1
    first = ran.out.splitlines()[0]
    assert first.startswith(f"DAMAGED  {_step(folder, 100)}: ")
    assert file.lower().split(".")[0] in first.lower()


def test_prune(run: Run, folder: Path) -> None:
    expected = [
        f"kept     {_step(folder, 100)}: best=loss",
        f"goes     {_step(folder, 200)}: ",
        f"kept     {_step(folder, 300)}: the newest, last=1",
    ]
    with tk.Checkpointer(folder):  # which does not hinder a dry run
        ran = run("checkpoints", folder, "prune", "--keep", "last=1,best=loss", "--dry-run")
        refused = run("checkpoints", folder, "prune", "--keep", "last=1")
    assert ran.code == 0
    for line, start in zip(ran.out.splitlines(), expected, strict=False):
        assert line.startswith(start)
    assert refused.code == 2
    assert "another Checkpointer" in refused.err
    assert "--dry-run" in refused.err
    assert len(tk.checkpoints(folder)) == 3
    found = run("checkpoints", folder, "prune", "--keep", "last=1,best=loss", "--json").json
    assert [row["step"] for row in found["removed"]] == [200]
    assert 0 < found["freed"] < 100_000  # the shared shard stays
    assert found["freed"] == found["removed"][0]["freed"]
    assert [row.step for row in tk.checkpoints(folder)] == [100, 300]
    assert [row.verified > 0 for row in tk.checkpoints(folder)] == [False, True]
    ran = run("checkpoints", folder, "prune", "--keep", "last=1")
    line = ran.out.splitlines()[0]
    assert line.startswith(f"removed  {_step(folder, 100)}: 1.2")  # and how long it took, in bytes
    assert " MB, 1.2 MB of it shared" in line


def test_prune_counts_a_file_that_all_who_share_it_lose(run: Run, folder: Path) -> None:
    shutil.rmtree(_step(folder, 100))
    with tk.Checkpointer(folder) as ck:
        ck.save(400, {"w": np.zeros(3)})
    found = run("checkpoints", folder, "prune", "--keep", "last=1", "--json").json
    assert found["freed"] > 1_200_000 > sum(row["freed"] for row in found["removed"])


def test_prune_removes_nothing_where_nothing_sound_stays(run: Run, folder: Path) -> None:
    _damage(folder, 300, "model.w")
    ran = run("checkpoints", folder, "prune", "--keep", "last=1")
    assert ran.code == 1
    assert "none was removed" in ran.err
    assert len(tk.checkpoints(folder)) == 3
    with tk.Checkpointer(folder):  # the lock was given back
        pass


def test_prune_keeps_damaged_and_foreign_ones(run: Run, folder: Path) -> None:
    os.truncate(_step(folder, 100) / "state.json", 5)
    caffe2.save({"w": np.zeros(3)}, folder / "old_0007.minidb")
    ran = run("checkpoints", folder, "prune", "--keep", "last=1")
    assert ran.code == 0
    assert "caffe2's, which is never removed" in ran.out
    assert "damaged, which repair looks at" in ran.out
    assert [row.step for row in tk.checkpoints(folder)] == [7, 100, 300]


def test_restore(run: Run, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    ran = run("checkpoints", folder, "restore", "200", "--to", target)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{target}: step 200 as safetensors, 2 tensors, 1.2 MB\n"
    assert tk.load(target)["lr"] == 1 / 200
    ran = run("checkpoints", folder, "restore", "latest", "--to", target)
    assert ran.code == 2
    assert "--force" in ran.err
    arguments = ("--to", target, "--force", "--names", "*.w", "-o", "checksums=false", "--json")
    found = run("checkpoints", folder, "restore", "latest", *arguments)
    assert found.json["step"] == 300
    assert found.json["tensors"] == 1
    assert list(tk.load(target)) == ["model.w"]
    assert not tk.open(target).digests


def test_restore_lists_what_is_lost(run: Run, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.npy"
    arguments = ("checkpoints", folder, "restore", "200", "--to", target, "--names", "model.w")
    ran = run(*arguments)
    assert ran.code == 2
    assert "--lossy" in ran.err
    ran = run(*arguments, "--lossy")
    assert ran.code == 0
    assert ran.out.splitlines()[1].startswith("lost: ")
    assert np.load(target)[0] == 200


def test_restore_of_the_latest_sound_one(run: Run, folder: Path, tmp_path: Path) -> None:
    _damage(folder, 300, "model.w")
    os.truncate(_step(folder, 200) / "state.json", 5)
    target = tmp_path / "x.npz"
    found = run("checkpoints", folder, "restore", "latest", "--to", target, "--json")
    assert found.code == 0
    assert found.json["step"] == 100
    assert [row["path"] for row in found.json["skipped"]] == [
        str(_step(folder, 300)),
        str(_step(folder, 200)),
    ]
    assert found.err.count("skipped ") == 2
    assert tk.load(target)["model"]["w"][0] == 100
    for step in (200, 300):
        ran = run("checkpoints", folder, "restore", step, "--to", tmp_path / "y.npz")
        assert ran.code == 1
        assert not (tmp_path / "y.npz").exists()
    sound = ("--names", "model.frozen", "--to", tmp_path / "y.npz")
    assert run("checkpoints", folder, "restore", "300", *sound).code == 0
    _damage(folder, 100, "model.w")
    ran = run("checkpoints", folder, "restore", "latest", "--to", target, "--force")
    assert ran.code == 1
    assert "none of 3 checkpoints can be restored" in ran.err


def test_a_name_that_is_not_there_is_no_damage(run: Run, folder: Path, tmp_path: Path) -> None:
    arguments = ("--to", tmp_path / "x.npz", "--names", "nothing")
    ran = run("checkpoints", folder, "restore", "latest", *arguments)
    assert ran.code == 2
    assert "skipped" not in ran.err


def test_repair(run: Run, folder: Path) -> None:
    assert run("checkpoints", folder, "repair").out == (
        f"ok       {folder}: 3 checkpoints, all sound\n"
    )
    (_step(folder, 100) / "model.safetensors.index.json").unlink()
    _damage(folder, 200, "model.w")
    ran = run("checkpoints", folder, "repair", "--dry-run")
    assert ran.code == 1
    assert "would be rebuilt from the manifest" in ran.out
    ran = run("checkpoints", folder, "repair")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0].startswith("mended ")
    assert lines[0].endswith("is missing; rebuilt from the manifest")
    assert lines[1].startswith(f"DAMAGED  {_step(folder, 200)}: ")
    assert lines[2].strip() == "lost: model.w"
    assert lines[3].strip() == "sound: model.frozen"
    found = run("checkpoints", folder, "repair", "--json")
    assert found.code == 1
    (row,) = found.json["findings"]
    assert (row["step"], row["lost"], row["action"]) == (200, ["model.w"], "")
    shutil.rmtree(_step(folder, 200))
    (folder / ".step-00000200.deadbeef.tensorkeep.tmp").mkdir()
    ran = run("checkpoints", folder, "repair")
    assert ran.code == 0
    assert "was left by a save that never finished; removed" in ran.out
    assert Folder(folder).leftovers() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("prune",), "--keep last=3"),
        (("verify", "--dry-run"), "--dry-run is for prune and repair"),
        (("prune", "100", "--keep", "last=1"), "prune takes no step"),
        (("prune", "--keep", "last"), "is no rule"),
        (("100",), "there is no action '100'"),
        (("restore", "100"), "restore needs a step and a file"),
        (("restore", "100", "200", "--to", "x.npz"), "restore takes one step"),
        (("restore", "x", "--to", "x.npz"), "'x' is no step"),
        (("verify", "7"), "There are 100, 200, 300"),
        (("repair", "--to", "x.npz"), "--to is for restore"),
    ],
)
def test_wrong_usage(run: Run, folder: Path, arguments: tuple[str, ...], told: str) -> None:
    ran = run("checkpoints", folder, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert run("checkpoints", folder, *arguments, "--json").json["error"]["message"]


def test_wrong_folders(run: Run, folder: Path, tmp_path: Path) -> None:
    ran = run("checkpoints", _step(folder, 100))
    assert ran.code == 2
    assert "is one checkpoint" in ran.err
    assert "verify step-00000100" in ran.err
    assert run("checkpoints", tmp_path / "none").code == 2
    ran = run("checkpoints", _step(folder, 100) / "state.json")
    assert "is a file, not a folder" in ran.err
    (tmp_path / "MANIFEST.json").write_text("[]")  # of another program
    assert run("checkpoints", tmp_path).code == 0


def test_what_caffe2_left(run: Run, tmp_path: Path) -> None:
    for node in ("reader", "trainer"):
        for epoch in (1, 2):
            caffe2.save({"w": np.full(2, epoch)}, tmp_path / f"{node}.{epoch}")
    ran = run("checkpoints", tmp_path)
    assert ran.code == 0
    assert ran.out.splitlines()[1].split()[-1] == "caffe2"
    assert (
        "only the structure of 2 tensors was checked"
        in run("checkpoints", tmp_path, "verify", "2").out
    )
    target = tmp_path / "x.npz"
    assert run("checkpoints", tmp_path, "restore", "latest", "--to", target).code == 0
    assert sorted(tk.load(target)) == ["reader.w", "trainer.w"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert run("checkpoints", tmp_path, "prune", "--keep", "last=1").code == 0
    assert run("checkpoints", tmp_path, "repair").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    os.truncate(tmp_path / "trainer.2", 0)
    assert run("checkpoints", tmp_path).code == 1
    assert run("checkpoints", tmp_path, "verify").code == 1
    found = run("checkpoints", tmp_path, "restore", "latest", "--to", target, "--force", "--json")
    assert found.json["step"] == 1


def test_a_run_folder_is_no_state(run: Run, folder: Path) -> None:
    with pytest.raises(UnknownFormatError, match="3 checkpoints; the newest is step-00000300"):
        tk.open(folder)
    ran = run("ls", folder)
    assert ran.code == 2
    assert f"tensorkeep checkpoints {folder}" in ran.err
    for step in (100, 200):
        shutil.rmtree(_step(folder, step))
    with pytest.raises(UnknownFormatError, match="a folder of one checkpoint, step-00000300"):
        tk.open(folder)


def test_a_step_without_its_zeros(folder: Path) -> None:
    with tk.open(folder / "step-100") as state:
        assert state.where == str(_step(folder, 100))
    assert tk.load(f"{folder}/step-000100/")["lr"] == 1 / 100
    with pytest.raises(tk.TensorKeepError):
        tk.open(folder / "step-7")
    (folder / "step-100").mkdir()  # which is then what is meant
    with pytest.raises(UnknownFormatError):
        tk.open(folder / "step-100")


def test_a_folder_may_be_named_like_a_glob(run: Run, folder: Path) -> None:
    named = folder.rename(folder.with_name("lr=[0.1]"))
    ran = run("checkpoints", named)
    assert (ran.code, len(ran.out.splitlines())) == (0, 4)
    assert run("checkpoints", named, "prune", "--keep", "last=1").code == 0
    assert [row.step for row in tk.checkpoints(named)] == [300]
