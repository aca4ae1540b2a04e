"""The sight of tensors: the listing, statistics, slices, filters, metadata; numbers are NumPy's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.viewer.browser.conftest import Show
from tests.viewer.browser.files_made import DATA, Files
from tests.viewer.browser.looking import percent, said, settle, shot, until

import tensorkeep as tk

if TYPE_CHECKING:
    from playwright.sync_api import Page

PLACED = re.compile(r"\[(\d+), (\d+)\]\s*=?\s*(-?[0-9.]+(?:e-?[0-9]+)?)")


def cells(page: Page, name: str) -> list[str]:
    """Give the texts of the row of a tensor."""
    row = page.get_by_role("row").filter(has=page.get_by_role("gridcell", name=name, exact=True))
    return row.first.get_by_role("gridcell").all_inner_texts()


def expected(array: npt.NDArray[Any]) -> list[str]:
    values = array.astype(np.float64)
    return [
        f"[{', '.join(map(str, array.shape))}]",
        str(array.dtype),
        *map(said, (values.min(), values.max(), values.mean(), values.std())),
        percent(float(np.mean(array == 0))),
        "0",
    ]


@pytest.mark.parametrize("kind", ["onnx", "nnef", "pt", "h5", "safetensors"])
def test_statistics_are_those_that_numpy_finds(show: Show, files: Files, kind: str) -> None:
    path = getattr(files, kind)
    page = show(path)
    page.get_by_role("button", name="List", exact=True).click()
    page.get_by_role("button", name="Measure all exactly").click()
    until(page, "![...document.querySelectorAll('[role=gridcell]')]"
          ".some((cell) => /[≈…]/.test(cell.textContent))")  # fmt: skip
    with tk.open(path) as state:
        assert len(state) == 6
        for name, tensor in state.items():
            found = cells(page, name)
            assert found[:1] == [name]
            assert [*found[1:3], *found[4:10]] == expected(tensor.numpy()), name


def test_a_slice_shows_the_values_of_the_file(show: Show, files: Files) -> None:
    page = show(files.safetensors)
    page.get_by_role("button", name="List", exact=True).click()
    page.get_by_role("gridcell", name="hidden.weight").click()
    settle(page)
    chosen = page.get_by_role("complementary", name="Chosen tensor")
    assert "131,072 elements" in chosen.inner_text()
    chosen.get_by_role("application").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    chosen.get_by_text(PLACED).wait_for()
    place = PLACED.search(chosen.inner_text())
    assert place is not None
    value = files.weights["hidden.weight"][int(place[1]), int(place[2])]
    assert np.float32(place[3]) == value


def test_filters_metadata_and_map_are_drawn(show: Show, files: Files, shots: Path) -> None:
    page = show(files.safetensors, at="#/tensors/0/tensor%3D0")
    page.get_by_role("button", name="Filters").click()
    settle(page)
    assert shot(page, shots / "viewer-tensors.png") > 100
    assert shot(page, shots / "filters.png", page.get_by_role("complementary")) > 50
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="Map").click()
    settle(page)
    assert shot(page, shots / "map.png", page.locator("main")) > 20
    page.get_by_role("button", name="Metadata").click()
    settle(page)
    assert "0123456789" in page.locator("main").inner_text()


def test_names_are_searched(show: Show, files: Files) -> None:
    page = show(files.pt)
    page.get_by_role("treegrid").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("bias")
    page.get_by_text("3 of 6").wait_for()
    assert page.get_by_role("row").filter(has_text="float32").count() == 3


@pytest.mark.parametrize(
    "path", ["keras/nested.keras", "keras/keras2.h5", "pytorch/training.pt", "pytorch/types.pt",
             "caffe2/dtypes.minidb", "caffe2/string_tensors.minidb", "tensorflow/saved_model"]
)  # fmt: skip
def test_every_tensor_of_other_files_is_shown(show: Show, path: str) -> None:
    page = show(DATA / path)
    page.get_by_role("button", name="List", exact=True).click()
    settle(page)
    with tk.open(DATA / path) as state:
        for place in range(min(len(state), 6)):
            page.evaluate(f"location.hash = '#/tensors/0/tensor%3D{place}'")
            page.get_by_role("complementary", name="Chosen tensor").wait_for()
            settle(page)
            assert page.locator("main .problem").all_inner_texts() == []
