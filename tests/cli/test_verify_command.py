from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.cli.running import Run, is_safe

import tensorkeep as tk


def test_a_sound_file(run: Run, file: Path) -> None:
    ran = run("verify", file)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"ok       {file}: 7 tensors (190 B) match what was saved\n"


def test_a_flipped_bit_is_named(run: Run, file: Path, damaged: Path) -> None:
    ran = run("verify", file, damaged)
    assert (ran.code, ran.err) == (1, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("ok ")
    assert lines[1] == f"DAMAGED  {damaged}: 1 of 7 tensors"
    assert lines[2].startswith("         encoder.w: its XXH3-128 is ")


def test_without_digests_it_says_so(run: Run, file: Path) -> None:
    bare = file.with_name("bare.safetensors")
    tk.convert(file, bare, checksums=False)
    ran = run("verify", bare)
    assert ran.code == 0
    assert "no checksums; only the structure of 7 tensors was checked" in ran.out
    assert len(run("verify", bare, "--json").json["files"][0]["unchecked"]) == 7


def test_json(run: Run, file: Path, damaged: Path) -> None:
    ran = run("verify", file, damaged, "--json")
    assert ran.code == 1
    assert ran.json["ok"] is False
    good, bad = ran.json["files"]
    assert good == {
        "path": str(file),
        "ok": True,
        "format": "safetensors",
        "tensors": 7,
        "bytes": 190,
        "checked": 7,
        "unchecked": [],
        "damaged": [],
    }
    assert bad["ok"] is False
    assert [entry["name"] for entry in bad["damaged"]] == ["encoder.w"]
    assert run("verify", file, "--json").json["ok"] is True


def test_a_damaged_header_is_damage(run: Run, file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    ran = run("verify", file)
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith(f"DAMAGED  {file}: ")
    found = run("verify", file, "--json")
    assert found.code == 1
    assert found.json["files"][0]["error"]["kind"] == "CorruptError"


def test_what_cannot_be_read_is_no_damage(run: Run, file: Path) -> None:
    missing = file.with_name("none.safetensors")
    unknown = file.with_name("notes.txt")
    unknown.write_text("these are no tensors")
    for path in (missing, unknown):
        ran = run("verify", path)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: ")
        assert run("verify", path, file).code == 2
        found = run("verify", path, "--json")
        assert found.code == 2
        assert found.json["files"][0]["error"]["message"]


def test_damage_outweighs_what_cannot_be_read(run: Run, damaged: Path) -> None:
    missing = damaged.with_name("none.safetensors")
    assert run("verify", damaged, missing).code == 1
    assert run("verify", missing, damaged).code == 1


def test_much_damage_is_cut_short(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({f"w{i}": np.zeros(1, np.uint8) for i in range(50)}, path)
    data = bytearray(path.read_bytes())
    data[-50:] = b"\xff" * 50
    path.write_bytes(data)
    lines = run("verify", path).out.splitlines()
    assert lines[0].endswith("50 of 50 tensors")
    assert len(lines) == 22
    assert lines[-1].strip() == "and 30 more"
    assert len(run("verify", path, "--json").json["files"][0]["damaged"]) == 50


def test_hostile_names(run: Run, hostile: Path) -> None:
    data = bytearray(hostile.read_bytes())
    data[-1] ^= 1
    with tk.open(hostile) as state:
        for tensor in state.values():
            data[tensor.offset] ^= 1
    hostile.write_bytes(data)
    ran = run("verify", hostile)
    assert ran.code == 1
    assert is_safe(ran.out)
    assert is_safe(run("verify", hostile, "--json").out)
