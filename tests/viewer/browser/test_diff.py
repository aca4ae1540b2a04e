"""The sight of a diff: what differs, by how much, and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.viewer.browser.conftest import Show
from tests.viewer.browser.files_made import DATA, Files
from tests.viewer.browser.looking import said, settle, shot
from tests.viewer.browser.test_tensors import cells

import tensorkeep as tk


def test_differences_are_those_that_numpy_finds(show: Show, files: Files, shots: Path) -> None:
    page = show(files.safetensors, files.later, at="#/diff/0")
    page.get_by_role("grid", name="Tensors of both").wait_for()
    later = tk.load(files.later)
    for name, array in files.weights.items():
        apart = np.abs(array.astype(np.float64) - later[name])
        found = cells(page, name)
        assert found[:3] == [name, said(apart.max()), said(apart.mean())]
        assert set(found) & _shares(float(np.mean(apart != 0)))
    page.get_by_role("gridcell", name="conv.weight").click()
    settle(page)
    detail = page.get_by_role("region", name="Compared tensor")
    assert detail.get_by_role("heading", name="conv.weight").is_visible()
    assert shot(page, shots / "viewer-diff.png") > 100
    page.get_by_role("button", name="Beside the tensors").click()
    assert "steps" in page.locator("main").inner_text()


def _shares(part: float) -> set[str]:
    return {f"{100 * part:.1f} %", f"{100 * part:.0f} %"}


def test_equal_states_are_said_to_be(show: Show, files: Files) -> None:
    page = show(files.safetensors, files.pt, at="#/diff/0")
    page.get_by_text("6 tensors are identical").wait_for()
    page = show(files.onnx, DATA / "pytorch" / "module.pt", at="#/diff/0")
    page.get_by_role("button", name="Only in A 6").click()
    settle(page)
    assert "hidden.weight" in page.locator("main").inner_text()
