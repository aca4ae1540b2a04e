"""The page away from its server: as a report in one file, and in a notebook's frames."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.viewer.browser import hostile_made
from tests.viewer.browser.conftest import PAGE, Show, watch
from tests.viewer.browser.files_made import Files
from tests.viewer.browser.looking import faint, overflowing, settle, shot
from tests.viewer.runs_made import make_run

import tensorkeep as tk
from tensorkeep.viewer import View, export

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(PAGE) if PAGE else None


def test_a_report_opens_from_the_disk_and_asks_for_nothing(
    show: Show, files: Files, tmp_path: Path
) -> None:
    export([files.onnx, files.safetensors], tmp_path / "report.html", page=FOLDER)
    page = show(url=(tmp_path / "report.html").as_uri())
    page.context.set_offline(True)
    settle(page)
    assert page.get_by_role("row", name="weight [16, 1, 3, 3] float32").is_visible()
    for sight in page.get_by_role("navigation", name="Sights").get_by_role("button").all():
        sight.click()
        settle(page)
        assert page.locator("main .problem").count() == 0


def test_a_report_of_hostile_files_shows_text(show: Show, tmp_path: Path) -> None:
    things = [*hostile_made.states(tmp_path), hostile_made.model(tmp_path)]
    export(things, tmp_path / "report.html", page=FOLDER)
    page = show(url=(tmp_path / "report.html").as_uri())
    settle(page)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, base").count() == 0
    assert page.locator("script").count() == 3  # the worker's text, the answers, the page


def test_a_report_of_a_run_tells_what_it_leaves_out(
    show: Show, tmp_path: Path, shots: Path
) -> None:
    make_run(tmp_path / "run", steps=4)
    export([tmp_path / "run"], tmp_path / "report.html", page=FOLDER)
    page = show(url=(tmp_path / "report.html").as_uri())
    settle(page)
    assert "hidden.weight" in page.get_by_role("region", name="Tensors over the steps").inner_text()
    assert page.get_by_text("tensors of all checkpoints but the last").is_visible()
    assert (faint(page), overflowing(page)) == ([], [])
    assert shot(page, shots / "report.png") > 30
    page.get_by_role("link", name="Open its tensors").click()
    page.get_by_role("treegrid").wait_for()
    settle(page)
    assert page.locator("main .problem").count() == 0


class _Notebook(http.server.BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.body if self.path == "/" else b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def notebook(cell: str) -> Iterator[str]:
    """Serve a page of another origin with a cell's output in it."""
    body = f"<!doctype html><link rel=icon href=data:,><body>{cell}</body>".encode()
    handler = type("Notebook", (_Notebook,), {"body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("inline", [False, True])
def test_a_notebook_shows_the_page_in_a_frame(browser: Browser, files: Files, inline: bool) -> None:
    complaints: list[str] = []
    shown: View = tk.view(files.onnx, inline=inline, page=PAGE)
    with shown, notebook(shown._repr_html_()) as url:
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.set_default_timeout(10_000)
        watch(page, complaints, url, shown.url or url)
        page.goto(url)
        frame = page.frame_locator("iframe")
        frame.get_by_role("row", name="weight [16, 1, 3, 3] float32").wait_for()
        frame.get_by_role("navigation", name="Sights").get_by_role("button").nth(1).click()
        settle(page.frames[1])
        assert "graph" in page.frames[1].evaluate("location.hash")
        assert frame.locator("main .problem").count() == 0
        page.close()
    assert complaints == []
