"""The recipes for other libraries in docs/checkpoints.md run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.test_docs import ROOT, blocks

import tensorkeep as tk

pytestmark = pytest.mark.frameworks
PAGE = ROOT / "docs" / "checkpoints.md"
RECIPES = [block for block in blocks(PAGE) if block.marks == "frameworks"]


@pytest.mark.parametrize("block", RECIPES, ids=lambda block: block.text.partition("\n")[0])
def test_recipes_run(block: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(getattr(block, "text", ""), PAGE.name, "exec")
    for _ in range(2):  # from the start, and from where that ended
        exec(code, {"tk": tk})
    assert any(tk.checkpoints(path) for path in tmp_path.iterdir() if path.is_dir())
