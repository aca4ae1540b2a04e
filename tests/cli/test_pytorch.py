"""The command line on PyTorch files: what is listed, refused and converted."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import Run

DATA = Path(__file__).parents[1] / "data" / "pytorch"
REFUSED = "'args' would need argparse.Namespace"


def test_what_is_refused_has_a_line_of_its_own(run: Run) -> None:
    ran = run("ls", DATA / "args.pt")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    at = lines.index("Not read, since it is not data")
    assert lines[at + 1] == f"  {REFUSED}"
    assert "args.tensor  float32  (2,)     8 B" in lines
    assert lines[-1] == "2 tensors, 6 elements, 24 B"


def test_what_is_refused_as_json(run: Run) -> None:
    assert run("ls", DATA / "args.pt", "--json").json["refused"] == [REFUSED]
    assert run("ls", DATA / "types.pt", "--json").json["refused"] == []


def test_a_module_lists_its_tensors(run: Run) -> None:
    ran = run("ls", DATA / "module.pt")
    assert "  the whole would need __main__.Net" in ran.out.splitlines()
    assert "layer1.weight" in ran.out


def test_a_remark_on_parts(run: Run) -> None:
    ran = run("ls", DATA / "sparse.pt")
    assert "of a tensor of layout sparse_coo" in ran.out


def test_converting_what_is_not_all_data(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    ran = run("convert", DATA / "args.pt", target)
    assert ran.code != 0
    assert REFUSED in ran.err
    assert not target.exists()
    ran = run("convert", DATA / "args.pt", target, "--lossy")
    assert ran.code == 0
    assert f"lost: {REFUSED}" in ran.out
