"""Every block of docs/data.md runs with the libraries that it is about."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from tests.test_docs import ROOT, blocks

import tensorkeep as tk

pytestmark = pytest.mark.frameworks
PAGE = ROOT / "docs" / "data.md"


def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("torchdata.stateful_dataloader", "grain", "datasets"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others warn of
        for block in blocks(PAGE):
            if block.language == "python":
                exec(compile(block.text, PAGE.name, "exec"), namespace)
    assert [row.step for row in tk.checkpoints("run-torch") if row.ok][-1] >= 40
