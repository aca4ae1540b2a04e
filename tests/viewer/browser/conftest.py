"""A real browser on the viewer's page: what it complains of fails the test.

TENSORKEEP_SCREENSHOTS=FOLDER keeps the screenshots, which docs/images are taken from;
TENSORKEEP_VIEWER_PAGE=FOLDER tries another build of the page than the one that is shipped. Where
CI_CHROMIUM is set, a missing browser fails instead of skipping.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.viewer.browser import files_made

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGE = os.environ.get("TENSORKEEP_VIEWER_PAGE")  # another build than the one that is shipped
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE = 10_000  # milliseconds
Show = Callable[..., "Page"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start one browser for all tests."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    missing = [
        *(["playwright"] if importlib.util.find_spec("playwright") is None else []),
        *([] if program else ["a chromium"]),
    ]
    if missing:
        reason = f"there is no {' and no '.join(missing)}"
        if os.environ.get("CI_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--force-color-profile=srgb", "--disable-gpu"]
        launched = playwright.chromium.launch(executable_path=program, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> files_made.Files:
    """Make the files that are shown, once."""
    return files_made.make(tmp_path_factory.mktemp("shown"))


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """Give what opens paths in the viewer: show(path, ..., size=(1280, 800), scheme="light").

    At the end nothing may have been complained of, and nothing asked of anyone but the server.
    """
    with ExitStack() as stack:
        complaints: list[str] = []

        def open_page(
            *paths: Path,
            url: str = "",
            at: str = "",
            size: tuple[int, int] = (1280, 800),
            scheme: Any = "light",
            **options: Any,
        ) -> Page:
            if not url:
                url = stack.enter_context(serving(*paths)).url
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, **options
            )
            context.set_default_timeout(_PATIENCE)
            stack.callback(context.close)
            page = context.new_page()
            watch(page, complaints, url)
            page.goto(url + at)
            page.locator("header.top").wait_for()
            return page

        yield open_page
        assert complaints == []


def serving(*paths: Path, **options: Any) -> Any:
    """Serve paths until the end of the context; what it gives has an url."""
    from tensorkeep.viewer import server

    return server.serve([str(path) for path in paths], page=PAGE, **options)


def watch(page: Page, complaints: list[str], *urls: str) -> None:
    """Note what goes wrong on a page, and what it asks of others than those."""
    own = [url.split("#")[0].rstrip("/") for url in urls]

    def requested(request: Any) -> None:
        if not request.url.startswith((*own, "data:", "blob:", "about:srcdoc")):
            complaints.append(f"asked for {request.url}")

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.type}: {message.text}")

    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(f"failed: {error}"))
    page.on("request", requested)
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.add_init_script(
        "addEventListener('securitypolicyviolation',"
        "(event) => console.error('policy: ' + event.violatedDirective + event.blockedURI))"
    )


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that screenshots are kept in."""
    folder = os.environ.get("TENSORKEEP_SCREENSHOTS")
    return Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
