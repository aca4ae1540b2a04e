"""The sight of a run: its steps, what is wrong with them, and its tensors over time."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.viewer.browser.conftest import Show
from tests.viewer.browser.looking import said, settle, shot, until
from tests.viewer.browser.test_tensors import cells
from tests.viewer.runs_made import make_run

import tensorkeep as tk


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "sound")
    make_run(folder / "damaged", steps=8, damaged=6)
    return folder


def test_the_steps_of_a_run_are_shown(show: Show, runs: Path, shots: Path) -> None:
    page = show(runs / "sound", size=(1280, 1000))
    page.get_by_role("grid", name="Checkpoints").wait_for()
    for kept in tk.checkpoints(runs / "sound")[-4:]:
        found = cells(page, str(kept.step))
        metrics = kept.metrics
        assert found[2:4] == [said(float(metrics["loss"])), said(float(metrics["accuracy"]))]
    page.get_by_role("button", name="Follow the tensors").click()
    settle(page)
    course = page.get_by_role("region", name="Tensors over the steps")
    assert "hidden.weight" in course.inner_text()
    assert course.locator("canvas").count() >= 1
    assert page.locator("main .problem").count() == 0
    course.scroll_into_view_if_needed()
    assert shot(page, shots / "course.png", course) > 30
    page.evaluate("scrollTo(0, 0)")
    assert shot(page, shots / "viewer-run.png") > 30


def test_a_step_is_opened_and_compared(show: Show, runs: Path) -> None:
    page = show(runs / "sound")
    page.get_by_role("link", name="Open its tensors").click()
    page.get_by_role("treegrid").wait_for()
    assert page.evaluate("location.hash").startswith("#/tensors/0%4020")
    page.go_back()
    page.get_by_role("link", name="Compare with step 19").click()
    page.get_by_role("grid", name="Tensors of both").wait_for()
    assert "model.hidden.weight" in page.locator("main").inner_text()


def test_a_damaged_step_is_found(show: Show, runs: Path) -> None:
    page = show(runs / "damaged")
    page.get_by_role("button", name="Verify all").click()
    page.get_by_role("gridcell", name="damaged").first.wait_for()
    until(page, "![...document.querySelectorAll('[role=gridcell]')]"
          ".some((cell) => cell.textContent.includes('not verified'))")  # fmt: skip
    assert "damaged" in " ".join(cells(page, "6"))
    assert "damaged" not in " ".join(cells(page, "5"))
