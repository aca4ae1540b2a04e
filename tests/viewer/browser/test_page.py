"""The page as a whole: in each theme, by keyboard alone, on a narrow screen, back and forth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.viewer.browser.conftest import Show
from tests.viewer.browser.files_made import Files
from tests.viewer.browser.looking import faint, overflowing, settle, shot, unnamed
from tests.viewer.runs_made import make_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIGHTS = ("tensors/0", "tensors/0/tensor%3D2", "graph/0", "diff/1", "run/3")


@pytest.fixture(scope="session")
def things(files: Files) -> list[Path]:
    make_run(files.folder / "short", steps=4)
    return [files.onnx, files.safetensors, files.later, files.folder / "short"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_sight_is_legible(show: Show, things: list[Path], shots: Path, scheme: str) -> None:
    page = show(*things, scheme=scheme)
    for sight in SIGHTS:
        page.evaluate(f"location.hash = '#/{sight}'")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            settle(page)
            assert page.locator("main .problem").all_inner_texts() == []
            assert overflowing(page) == [], (sight, width)
            assert faint(page) == [], (sight, width)
            assert unnamed(page) == [], (sight, width)
            name = f"{sight.replace('/', '-').replace('%3D', '-')}-{scheme}-{width}.png"
            assert shot(page, shots / name) > 15, (sight, width)


def test_the_theme_is_chosen_and_kept(show: Show, things: list[Path]) -> None:
    page = show(*things, scheme="light")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("combobox", name="Theme").select_option("Dark")
    assert page.evaluate(paper) != light
    page.reload()
    page.get_by_role("combobox", name="Theme").wait_for()
    assert page.evaluate(paper) != light


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement?.textContent?.trim().slice(0, 40) ?? ''"))


def test_the_page_is_used_by_keyboard_alone(show: Show, things: list[Path]) -> None:
    page = show(*things)
    settle(page)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("2")
    page.get_by_role("application").wait_for()
    assert page.evaluate("location.hash").startswith("#/graph/0")
    page.keyboard.press("1")
    page.get_by_role("treegrid").wait_for()
    for _ in range(40):
        if page.evaluate("document.activeElement.matches('[role=treegrid]')"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_role("complementary", name="Chosen tensor").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("complementary", name="Chosen tensor").wait_for(state="hidden")
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")


def test_back_and_reload_keep_the_place(show: Show, things: list[Path]) -> None:
    page = show(*things)
    page.get_by_role("button", name="Graph").click()
    page.get_by_role("application").wait_for()
    page.get_by_role("combobox", name="What is open").select_option(index=1)
    page.get_by_role("treegrid").wait_for()
    page.go_back()
    page.get_by_role("application").wait_for()
    page.reload()
    page.get_by_role("application").wait_for()


def test_a_file_that_cannot_be_opened_says_why(show: Show, files: Files, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
    page = show(files.pt, tmp_path / "broken.safetensors")
    page.get_by_role("combobox", name="What is open").select_option(index=1)
    page.get_by_text("is longer than the file").or_(page.locator("main .problem")).first.wait_for()
    assert "broken.safetensors" in page.locator("main").inner_text()
