"""Caffe2's files on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import ESCAPE, Run, is_safe

import tensorkeep as tk

DATA = Path(__file__).parents[1] / "data" / "caffe2"


def rows(text: str) -> dict[str, list[str]]:
    """Give the words of each line that begins with a name, by that name."""
    return {words[0]: words[1:] for words in map(str.split, text.splitlines()) if words}


def test_ls_shows_chunks_and_devices(run: Run) -> None:
    listed = rows(run("ls", DATA / "chunked.minidb").out)
    assert listed["NAME"][-1] == "NOTE"
    assert listed["int16_data"][-2:] == ["4", "chunks"]
    assert rows(run("ls", DATA / "legacy.minidb").out)["cuda_made"][-1] == "CUDA:3"
    assert rows(run("ls", "-l", DATA / "legacy.minidb").out)["cuda_made"][-1] == "CUDA:3"


def test_ls_has_no_notes_column_where_there_are_none(run: Run) -> None:
    assert rows(run("ls", DATA / "dtypes.minidb").out)["NAME"] == ["DTYPE", "SHAPE", "SIZE"]


def test_ls_as_json_has_remarks(run: Run) -> None:
    tensors = run("ls", "--json", DATA / "legacy.minidb").json["tensors"]
    remarks = {row["name"]: row.get("remark") for row in tensors}
    assert remarks["cuda_made"] == "CUDA:3"
    assert remarks["wide"] is None


def test_ls_lists_a_damaged_file_and_says_what_is_missing(run: Run) -> None:
    ran = run("ls", DATA / "cases" / "missing_chunk.minidb")
    assert ran.code == 0
    assert ran.out.splitlines()[0].endswith("caffe2, without checksums")
    assert "elements 3 to 6 missing" in ran.out
    ran = run("ls", DATA / "cases" / "cut_in_value.minidb")
    assert (ran.code, ran.out) == (2, "")
    assert "59 are missing" in ran.err
    assert "'a#%0'" in ran.err


def test_verify_finds_what_is_missing(run: Run) -> None:
    ran = run("verify", DATA / "cases" / "missing_chunk.minidb")
    assert ran.code == 1
    assert "elements 3 to 6" in ran.out
    assert run("verify", DATA / "chunked.minidb").code == 0


def test_show_prints_values_and_the_remark(run: Run) -> None:
    ran = run("show", DATA / "chunked.minidb", "int64_data[:2]")
    assert ran.code == 0
    assert "4 chunks" in ran.out
    found = run("show", "--json", DATA / "chunked.minidb", "int64_data[:2]").json
    assert found["remark"] == "4 chunks"
    with tk.open(DATA / "chunked.minidb") as state:
        assert found["values"] == state["int64_data"][:2].tolist()
    ran = run("show", DATA / "cases" / "missing_chunk.minidb", "a[7:]")
    assert ran.code == 0
    assert run("show", DATA / "cases" / "missing_chunk.minidb", "a[4:]").code == 2


def test_ls_sums_up_nets_and_predictors(run: Run) -> None:
    out = run("ls", DATA / "net_alexnet_mini" / "predict_net.pb").out
    assert "  caffe2.net.outputs    ['prob']" in out.splitlines()
    assert "'Conv': 3" in out
    assert "0 tensors" in out
    out = run("ls", "--long", DATA / "predictor.minidb").out
    assert "caffe2.predictor.inputs" in out
    assert "'ConstantFill': 3" in out


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dtypes.minidb", "y.safetensors"),
        ("net_misc_ops/init_net.pb", "w.json"),
        ("predictor.minidb", "p.sqlite"),
        ("dtypes.minidb", "sqlite:folderless"),
        ("tensors.protodb", "t.safetensors"),
        ("serialize_blob_big.blobproto", "b.npy.minidb"),
        ("checkpoint_manager/trainer.1", "c.tensorprotos"),
    ],
)
def test_convert_and_diff(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("convert", DATA / source, target)
    assert (ran.code, ran.err) == (0, "")
    ran = run("diff", DATA / source, target)
    assert ran.code == 0, ran.out
    assert ran.out.startswith("identical")
    assert run("verify", target).code == 0


def test_convert_says_what_a_net_cannot_hold(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "init_net.pb"
    ran = run("convert", DATA / "dtypes.minidb", target)
    assert ran.code == 2
    assert "int8 (q8) becomes int32" in ran.err
    ran = run("convert", "--lossy", DATA / "dtypes.minidb", target)
    assert ran.code == 0
    assert "lost: int8 (q8) becomes int32" in ran.out
    assert tk.load(target)["q8"].dtype == np.int32


def test_names_in_a_file_cannot_drive_the_terminal(run: Run, tmp_path: Path) -> None:
    name = f"w{ESCAPE}"
    tk.save({name: np.arange(10)}, tmp_path / "a.minidb", chunk_size=4)
    ran = run("ls", tmp_path / "a.minidb")
    assert ran.code == 0
    assert is_safe(ran.out)
