"""What pages of other sites can do with the viewer, even where they know its address: nothing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.viewer.browser.conftest import PROGRAMS

from tensorkeep.viewer.server import Server, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

PAGE = b"<!doctype html><title>another site</title><body></body>"
NAME = "evil.example"  # which the browser believes to be this machine

# Each tries to get at an address, and says what came of it.
TRIES = {
    "fetch": "fetch(url).then((reply) => reply.text(), () => 'refused')",
    "blind fetch": "fetch(url, {mode: 'no-cors'}).then(() => 'sent', () => 'refused')",
    "post": "fetch(url, {method: 'POST', mode: 'no-cors', body: 'x'})"
    ".then(() => 'sent', () => 'refused')",
    "script": """new Promise((resolve) => {
        const script = document.createElement('script');
        script.onload = () => resolve('ran');
        script.onerror = () => resolve('refused');
        script.src = url;
        document.body.append(script);
    })""",
    "picture": """new Promise((resolve) => {
        const picture = new Image();
        picture.onload = () => resolve('shown');
        picture.onerror = () => resolve('refused');
        picture.src = url;
    })""",
    "style": """new Promise((resolve) => {
        const link = document.createElement('link');
        link.rel = 'stylesheet';
        link.onload = () => resolve('applied');
        link.onerror = () => resolve('refused');
        link.href = url;
        document.body.append(link);
    })""",
}


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """Give the port of another server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Give a browser to which a name was made to point here."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    arguments = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    launched = browser.browser_type.launch(executable_path=program, args=arguments)
    context = launched.new_context()
    context.set_default_timeout(10_000)
    yield context
    launched.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve([{"w": np.arange(6.0)}]) as server:
        yield server


def test_the_tries_work_for_the_page_itself(context: BrowserContext, server: Server) -> None:
    page = context.new_page()
    page.goto(server.url)
    for name, path, told in (
        ("fetch", "api/things", '"things":'),
        ("blind fetch", "api/things", "sent"),
        ("script", "page.js", "ran"),
        ("style", "style.css", "applied"),
    ):
        assert told in page.evaluate(f"(url) => {TRIES[name]}", server.url + path)
    page.close()


@pytest.mark.parametrize("host", [NAME, "127.0.0.1", "localhost"])
def test_other_sites_get_nothing(
    context: BrowserContext, server: Server, site: int, host: str
) -> None:
    page = context.new_page()
    page.goto(f"http://{host}:{site}/")
    for path in ("", "api/things", "page.js", "style.css"):
        for name, attempt in TRIES.items():
            found = page.evaluate(f"(url) => {attempt}", server.url + path)
            assert found == "refused", (name, path)
    page.close()


@pytest.mark.parametrize("host", [NAME, "127.0.0.1", "localhost"])
def test_other_sites_cannot_frame_or_open_the_page(
    context: BrowserContext, server: Server, site: int, host: str
) -> None:
    page = context.new_page()
    page.goto(f"http://{host}:{site}/")
    page.evaluate(
        """(url) => new Promise((resolve) => {
            const frame = document.createElement('iframe');
            frame.onload = resolve;
            frame.src = url;
            document.body.append(frame);
        })""",
        server.url,
    )
    assert [frame.locator("#page").count() for frame in page.frames[1:]] == [0]
    with context.expect_page() as opened:
        page.evaluate("(url) => { window.opened = window.open(url); }", server.url)
    opened.value.wait_for_load_state()
    assert opened.value.locator("#page").count() == 0
    opened.value.close()
    page.close()


def test_a_name_that_was_made_to_point_here_shows_nothing(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    reply = page.goto(server.url.replace("127.0.0.1", NAME))
    assert reply is not None
    assert reply.status == 403
    assert page.locator("#page").count() == 0
    # It has the origin of its address, and so may read what it asks for; but it gets nothing.
    asked = "fetch('api/things').then((reply) => reply.status)"
    assert page.evaluate(asked) == 403
    page.close()


def test_a_notebook_may_frame_the_page(context: BrowserContext, site: int) -> None:
    with serve([{"w": np.arange(6.0)}], embed=True) as server:
        page = context.new_page()
        page.goto(f"http://localhost:{site}/")
        page.evaluate(
            """(url) => {
                const frame = document.createElement('iframe');
                frame.src = url;
                document.body.append(frame);
            }""",
            server.url,
        )
        page.frame_locator("iframe").locator("#page > *").first.wait_for()
        page.close()
        page = context.new_page()
        page.goto(f"http://{NAME}:{site}/")  # a site that is none of this machine's names
        page.evaluate(
            """(url) => new Promise((resolve) => {
                const frame = document.createElement('iframe');
                frame.onload = resolve;
                frame.src = url;
                document.body.append(frame);
            })""",
            server.url,
        )
        assert page.frames[1].locator("#page").count() == 0
        page.close()
