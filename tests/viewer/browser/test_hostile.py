"""Names, metadata, graphs and metrics that try to be more than text stay text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.viewer.browser import hostile_made
from tests.viewer.browser.conftest import Show
from tests.viewer.browser.looking import overflowing, settle

import tensorkeep as tk


@pytest.mark.parametrize("sight", ["tensors", "graph", "diff", "run"])
@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_texts_stay_text(show: Show, tmp_path: Path, sight: str, width: int) -> None:
    things = {
        "tensors": lambda: [hostile_made.states(tmp_path)[0]],
        "graph": lambda: [hostile_made.model(tmp_path)],
        "diff": lambda: list(hostile_made.states(tmp_path)),
        "run": lambda: [hostile_made.run(tmp_path)],
    }[sight]()
    page = show(*things, at=f"#/{sight}/0", size=(width, 800))
    settle(page)
    for name in {
        "tensors": ("List", "Metadata", "Map", "Tree"),
        "graph": ("Show all",),
        "diff": (),
        "run": ("Follow the tensors",),
    }[sight]:
        page.get_by_role("button", name=name, exact=True).click()
        settle(page)
    with_rows = page.get_by_role("row").filter(has=page.get_by_role("gridcell"))
    for row in with_rows.all()[:3]:
        row.click(position={"x": 40, "y": 8})
        settle(page)
    page.mouse.move(width / 2, 300)
    page.mouse.click(width / 2, 300)
    settle(page)
    assert page.evaluate("window.pwned") is None
    assert page.locator("iframe, base, body style, body script:not([src])").count() == 0
    assert page.locator("img:not([src^='data:']):not([src^='blob:'])").count() == 0
    assert page.locator("svg[onload], [onerror], [onmouseover]").count() == 0
    assert overflowing(page) == []


def test_a_hundred_thousand_hostile_names_are_listed(show: Show, tmp_path: Path) -> None:
    import numpy as np

    array = np.zeros(1, np.uint8)
    names = [f"{text[:50]}.{n}" for n in range(5_000) for text in hostile_made.TEXTS]
    tk.save(dict.fromkeys(names, array), tmp_path / "many.safetensors", checksums=False)
    page = show(tmp_path / "many.safetensors")
    page.get_by_role("button", name="List", exact=True).click()
    settle(page)
    assert page.get_by_role("row").count() < 200
    assert page.evaluate("window.pwned") is None
