"""`verify`, `convert` and `checkpoints prune` of many."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.bulk.tasks import without_main
from tests.cli.running import ESCAPE, Run, is_safe

import tensorkeep as tk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of four sound files and a damaged one."""
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    for name in ("a", "b", "damaged", "deep/c", "deep/d"):
        tk.save({"w": np.ones(3), "b": np.ones(2)}, folder / f"{name}.safetensors", durable=False)
    data = bytearray((folder / "damaged.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "damaged.safetensors").write_bytes(data)
    return folder


def counts(text: str) -> list[str]:
    """Give the row of the last table, without the time."""
    head, row = [line for line in text.splitlines() if line.strip()][-2:]
    assert head.split() == ["ITEMS", "OK", "DAMAGED", "FAILED", "SKIPPED", "BYTES", "TIME"]
    return row.split()[:5]


# --- verify -------------------------------------------------------------------------------------


def test_verify_of_a_folder(run: Run, folder: Path) -> None:
    ran = run("verify", folder)
    assert (ran.code, ran.err) == (1, "")
    first, second, *_ = ran.out.splitlines()
    assert first == f"DAMAGED  {folder}/damaged.safetensors: 1 of 2 tensors"
    assert second.startswith("         w: its XXH3-128 is ")
    assert counts(ran.out) == ["5", "4", "1", "0", "0"]
    (folder / "damaged.safetensors").unlink()
    assert len(run("verify", folder).out.splitlines()) == 2
    ran = run("verify", folder, "--all")
    assert ran.code == 0
    assert f"ok       {folder}/a.safetensors: 2 tensors (40 B) match what was saved" in ran.out


def test_verify_in_processes(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_main(monkeypatch)
    ran = run("verify", folder, "--jobs", 2, "--json")
    assert ran.code == 1
    found = ran.json
    assert found["ok"] is False
    assert [file["path"] for file in found["files"]] == sorted(map(str, folder.rglob("*.s*")))
    bad = found["files"][2]
    assert (bad["ok"], bad["status"], bad["tries"]) == (False, "damaged", 1)
    assert [each["name"] for each in bad["damaged"]] == ["w"]
    assert found["summary"].pop("seconds") > 0
    assert found["summary"] == {
        "items": 5,
        "done": 4,
        "damaged": 1,
        "failed": 0,
        "skipped": 0,
        "bytes": 200,
    }


def test_verify_names_what_it_could_not_do(run: Run, folder: Path) -> None:
    (folder / "damaged.safetensors").unlink()
    missing = folder / "none.npz"
    ran = run("verify", folder, missing)
    assert ran.code == 2
    assert f"FAILED   {missing}: there is no such file" in ran.out
    assert counts(ran.out) == ["5", "4", "0", "1", "0"]


def test_verify_of_names_that_are_read(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tmp_path / "names"
    names.write_text(f"{folder}/a.safetensors\n\n{folder}/deep\n")
    assert counts(run("verify", "--from", names).out)[:2] == ["3", "3"]
    assert counts(run("verify", folder / "b.safetensors", "--from", names).out)[:2] == ["4", "4"]
    for arguments in (("-",), ("--from", "-")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(names.read_text()))
        assert counts(run("verify", *arguments).out)[:2] == ["3", "3"]
    ran = run("verify", "--from", tmp_path / "none")
    assert (ran.code, ran.out) == (2, "")
    assert "none: cannot be read: No such file or directory" in ran.err


def test_verify_with_a_journal(run: Run, folder: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for expected in (["5", "4", "1", "0", "0"], ["5", "0", "1", "0", "4"]):
        ran = run("verify", folder, "--journal", journal)
        assert ran.code == 1
        assert counts(ran.out) == expected


def test_verify_of_nothing(run: Run, tmp_path: Path) -> None:
    assert "there is nothing to verify" in run("verify").err
    (tmp_path / "empty").touch()
    assert "there is nothing to do" in run("verify", "--from", tmp_path / "empty").err
    for arguments in (("--jobs", -1), ("--on", "slurm"), ("--jobs", 2, f"{tmp_path}/*.npz")):
        ran = run("verify", tmp_path / "empty", *arguments)
        assert (ran.code, ran.out) == (2, "")


def test_hostile_names_of_many(run: Run, hostile: Path, tmp_path: Path) -> None:
    data = bytearray(hostile.read_bytes())
    data[-1] ^= 1
    (tmp_path / f"x{ESCAPE}.safetensors".replace("/", "")).write_bytes(data[:-1])
    for options in ((), ("--all",), ("--json",)):
        assert is_safe(run("verify", tmp_path, *options).out)


def resident() -> int:
    """Give the bytes of memory that this process has; 0 where the system does not tell."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if told.exists() else 0


def test_many_files_in_flat_memory(run: Run, tmp_path: Path) -> None:
    tk.save({"w": np.ones(3)}, tmp_path / "0.npz")
    data = (tmp_path / "0.npz").read_bytes()
    for number in range(1, 800):
        (tmp_path / f"{number}.npz").write_bytes(data)
    run("verify", tmp_path / "0.npz", "--jobs", 1)
    before = resident()
    ran = run("verify", tmp_path)
    assert counts(ran.out) == ["800", "800", "0", "0", "0"]
    assert resident() - before < 8e6


def test_no_cluster_is_imported_unless_it_is_asked_for(folder: Path) -> None:
    code = (
        "import sys; from tensorkeep.cli import main\n"
        "try: main(['verify', sys.argv[1]])\n"
        "except SystemExit: print({'ray', 'dask', 'distributed'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


# --- convert ------------------------------------------------------------------------------------


def test_convert_of_a_folder(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "damaged.safetensors").unlink()
    out = tmp_path / "out"
    ran = run("convert", folder, out, "--to", "npz", "--jobs", 1)
    assert (ran.code, ran.err) == (0, "")
    line = f"ok       {folder}/deep/c.safetensors: {out}/deep/c.npz: npz, 2 tensors, 40 B"
    assert line in ran.out
    assert counts(ran.out) == ["4", "4", "0", "0", "0"]
    again = run("convert", folder, out, "--to", "npz", "--jobs", 1, "--json")
    assert again.code == 0
    assert {file["status"] for file in again.json["files"]} == {"skipped"}
    forced = run("convert", folder, out, "--to", "npz", "--force")  # the folder is there by now
    assert counts(forced.out) == ["4", "4", "0", "0", "0"]


def test_convert_refuses_before_anything_is_written(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tk.save({"w": np.ones(3)}, folder / "a.json")
    for arguments, told in (
        (("--to", "npz"), "would be the target of both"),
        ((), "Give --to"),
        (("--to", "pickle"), "pickle is read only"),
        (("--to", "npz", "--split"), "--split is for one conversion"),
    ):
        ran = run("convert", folder, out, "--jobs", 1, *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert told in ran.err
    assert not out.exists()
    for address, told in (("s3://", "names no bucket"), ("http://127.0.0.1:9/x/", "over HTTP")):
        ran = run("convert", folder, address, "--to", "npz", "--jobs", 1)
        assert (ran.code, ran.out) == (2, "")
        assert told in ran.err
    ran = run("convert", folder / "b.safetensors", folder / "a.json", "--to", "npz", "--jobs", 1)
    assert "cannot be written: File exists" in ran.out


def test_convert_passes_its_options_on(run: Run, folder: Path, tmp_path: Path) -> None:
    options = ("--to", "npz", "--include", "w", "--rename", "w=v", "--dtype", "float16")
    source = folder / "a.safetensors"
    assert run("convert", source, tmp_path / "out", "--jobs", 1, *options).code == 0
    state = tk.load(tmp_path / "out" / "a.npz")
    assert list(state) == ["v"]
    assert state["v"].dtype == np.float16


def test_convert_lists_what_is_lost(run: Run, tmp_path: Path) -> None:
    tk.save({"w": np.ones(3)}, tmp_path / "a.npz")
    target = tmp_path / "out"
    ran = run("convert", tmp_path / "a.npz", target, "--to", "npy", "--jobs", 1)
    assert ran.code == 2
    assert "accept it with --lossy" in ran.out
    ran = run("convert", tmp_path / "a.npz", target, "--to", "npy", "--jobs", 1, "--lossy")
    assert ran.code == 0
    assert f"lost: {tmp_path}/a.npz: " in ran.out


# --- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        with tk.Checkpointer(tmp_path / "runs" / name) as checkpointer:
            for step in (100, 200, 300):
                checkpointer.save(step, {"w": np.ones(30)})
    return tmp_path / "runs"


def test_prune_of_many_runs(run: Run, runs: Path) -> None:
    keep = ("prune", "--keep", "last=1")
    ran = run("checkpoints", runs / "one", runs / "two", *keep, "--dry-run")
    assert ran.code == 0
    assert f"ok       {runs}/one: 2 checkpoints would be removed, " in ran.out
    assert len(list((runs / "one").glob("step-*"))) == 3
    ran = run("checkpoints", f"{runs}/*", *keep, "--json")
    assert ran.code == 0
    assert [(each["path"], each["removed"]) for each in ran.json["runs"]] == [
        (f"{runs}/one", [100, 200]),
        (f"{runs}/two", [100, 200]),
    ]
    assert [path.name for path in sorted(runs.glob("*/step-*"))] == ["step-00000300"] * 2


def test_a_run_that_cannot_be_pruned_holds_up_no_other(run: Run, runs: Path) -> None:
    keep = ("prune", "--keep", "last=1", "--jobs", 1)
    ran = run("checkpoints", runs / "none", runs / "two", *keep)
    assert ran.code == 2
    assert f"FAILED   {runs}/none: there is no such folder" in ran.out
    assert len(list((runs / "two").glob("step-*"))) == 1


def test_only_prune_takes_many_runs(run: Run, runs: Path) -> None:
    for action in ("list", "verify", "repair"):
        ran = run("checkpoints", runs / "one", runs / "two", action)
        assert ran.code == 2
        assert f"{action} takes one folder" in ran.err
    for wrong, told in (((), "--keep last=3"), (("--keep", "best"), "is no rule")):
        ran = run("checkpoints", runs / "one", runs / "two", "prune", *wrong)
        assert ran.code == 2
        assert told in ran.err
    assert len(list(runs.glob("*/step-*"))) == 6
