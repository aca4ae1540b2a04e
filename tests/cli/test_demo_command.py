from __future__ import annotations

from pathlib import Path

from tests.cli.running import Run

from tensorkeep.formats import WRITTEN


def test_the_story_and_its_summary(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    ran = run("demo", folder, "--json")
    assert ran.code == 0
    found = ran.json
    assert found["ok"] is True
    assert found["folder"] == str(folder)
    assert found["files"].keys() == {path.name for path in folder.iterdir()}
    told = {done["format"] for done in found["conversions"]} | set(found["skipped"])
    assert told == set(WRITTEN)
    assert "Kill it" in ran.err
    ran = run("demo", folder)  # which is not empty now
    assert (ran.code, ran.out) == (2, "")
    assert str(folder) in ran.err
