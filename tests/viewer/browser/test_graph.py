"""The sight of a graph: nodes, what they take and give, the weights behind them, large ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tests.viewer.browser.conftest import Show
from tests.viewer.browser.files_made import DATA, Files
from tests.viewer.browser.looking import settle, shot
from tests.viewer.large_graph import large_model

_FRAMES = """async () => {
  const canvas = document.querySelector("[role=application]");
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const place = { clientX: left + width / 2, clientY: top + height / 2 };
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  const begin = performance.now();
  const count = 40;
  for (let n = 0; n < count; n += 1) {
    const moved = { deltaX: 12, deltaY: 30, bubbles: true, cancelable: true, ...place };
    canvas.dispatchEvent(new WheelEvent("wheel", moved));
    await frame();
  }
  return (performance.now() - begin) / count;
}"""


def test_a_node_is_found_and_leads_to_its_weights(show: Show, files: Files, shots: Path) -> None:
    page = show(files.onnx, at="#/graph/0")
    page.get_by_role("application", name="Graph of 8 nodes").wait_for()
    settle(page)
    page.keyboard.press("/")
    page.keyboard.type("hidden")
    page.locator("main").get_by_role("option").first.wait_for()
    page.keyboard.press("Enter")
    node = page.get_by_role("complementary", name="Node")
    node.wait_for()
    assert node.get_by_role("heading", name="Gemm").is_visible()
    assert "transB 1" in " ".join(node.get_by_role("list").first.inner_text().split())
    node.get_by_text("float32[1, 256]").wait_for()  # which the file does not say: onnx does
    settle(page)
    assert shot(page, shots / "viewer-graph.png") > 50
    node.get_by_role("link", name="hidden.weight").click()
    chosen = page.get_by_role("complementary", name="Chosen tensor")
    chosen.get_by_role("heading", name="hidden.weight").wait_for()
    page.go_back()
    node.get_by_role("heading", name="Gemm").wait_for()


@pytest.mark.parametrize("kind", ["nnef", "caffe2"])
def test_other_dialects_are_drawn(show: Show, files: Files, kind: str, shots: Path) -> None:
    page = show(getattr(files, kind), at="#/graph/0")
    graph = page.get_by_role("application")
    graph.wait_for()
    settle(page)
    assert shot(page, shots / f"{kind}.png", graph) > 20
    assert page.locator("main .problem").count() == 0


@pytest.mark.parametrize("name", ["alexnet_mini", "brew_mix", "misc_ops", "resnet_mini"])
def test_nets_of_caffe2_are_drawn(show: Show, name: str) -> None:
    page = show(DATA / "caffe2" / f"net_{name}" / "predict_net.pb", at="#/graph/0")
    page.get_by_role("application").wait_for()
    settle(page)
    assert page.locator("main .problem").count() == 0


def test_a_picture_can_be_kept(show: Show, files: Files, tmp_path: Path) -> None:
    page = show(files.onnx, at="#/graph/0")
    page.get_by_role("application").wait_for()
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").click()
    download.value.save_as(tmp_path / "graph.svg")
    text = (tmp_path / "graph.svg").read_text("utf-8")
    assert text.count("Gemm") == 2
    assert "<script" not in text


def test_a_graph_of_5000_nodes_is_laid_out_and_moved(
    show: Show, tmp_path: Path, shots: Path, record_property: Callable[[str, object], None]
) -> None:
    model = large_model(5_000)
    onnx.save(model, tmp_path / "large.onnx")
    page = show(tmp_path / "large.onnx", at="#/graph/0")
    page.get_by_role("application", name="5,000 nodes").or_(
        page.get_by_role("application", name="Graph of 5000 nodes")
    ).wait_for(timeout=30_000)
    settle(page)
    assert shot(page, shots / "large.png", page.get_by_role("application")) > 20
    for _ in range(6):
        page.get_by_role("button", name="Zoom in").click()
    milliseconds = page.evaluate(_FRAMES)
    record_property("milliseconds_per_frame", milliseconds)
    assert milliseconds < 100
