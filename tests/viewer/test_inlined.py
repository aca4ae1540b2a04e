"""The page as one file: everything inside, nothing that could end the element it is in."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tensorkeep import errors
from tensorkeep.viewer.app import PAGE
from tensorkeep.viewer.inlined import inlined

INDEX = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <title>page</title>
    <script type="module" crossorigin src="./page.js"></script>
    <link rel="stylesheet" crossorigin href="./style.css">
  </head>
  <body>
    <div id="page"></div>
    <noscript>none</noscript>
  </body>
</html>
"""
HOSTILE = "</script><script>pwned()</script><!-- <SCRIPT> \u2028\u2029 ]]> & \" ' \x00"


class Elements(HTMLParser):
    """The elements of a page, with what is in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text(INDEX)
    (tmp_path / "page.js").write_text('let end = "</script><!--<script>";')
    (tmp_path / "style.css").write_text("p { color: red }")
    (tmp_path / "elk-worker.min.js").write_text('onmessage = () => "</ScRipt>";')
    return tmp_path


def elements(page: Path, recorded: dict[str, bytes], left_out: tuple[str, ...] = ()) -> Elements:
    return Elements(b"".join(inlined(recorded, left_out, page)).decode())


def test_a_page_holds_its_scripts_and_names_their_digests(built: Path) -> None:
    found = elements(built, {}).found
    scripts = [(attributes, text) for tag, attributes, text in found if tag == "script"]
    assert [a.get("id") or a["type"] for a, _ in scripts] == ["worker", "recorded", "module"]
    assert scripts[2][1].strip() == r'let end = "\x3c/script>\x3c!--\x3cscript>";'
    assert scripts[0][1].strip() == r'onmessage = () => "\x3c/ScRipt>";'
    policy = next(a["content"] for t, a, _ in found if a.get("http-equiv"))
    assert policy is not None
    for text in (r'let end = "\x3c/script>\x3c!--\x3cscript>";', "p { color: red }"):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


def test_the_policy_comes_before_what_it_is_about(built: Path) -> None:
    text = b"".join(inlined({}, (), built)).decode()
    assert text.index("charset") < text.index("Content-Security-Policy") < text.index("<style")
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_recorded_answers_are_data_whatever_they_hold(built: Path) -> None:
    recorded = {
        "things": json.dumps({"name": HOSTILE}, ensure_ascii=False).encode(),
        HOSTILE: b'{"__proto__": "<!--"}',
    }
    found = elements(built, recorded).found
    assert [tag for tag, _, _ in found].count("script") == 3
    text = next(text for _, attributes, text in found if attributes.get("id") == "recorded")
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {path: json.loads(answer) for path, answer in recorded.items()}


def test_what_is_left_out_is_text(built: Path) -> None:
    text = b"".join(inlined({}, ["<img src=x onerror=pwned()>: its graph"], built)).decode()
    assert "&lt;img src=x onerror=pwned()&gt;: its graph" in text


def test_a_page_that_was_not_built_says_how(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingError, match="npm run build"):
        list(inlined({}, (), tmp_path))


def test_the_page_that_is_shipped_can_be_inlined() -> None:
    text = b"".join(inlined({"things": b"{}"}, (), PAGE)).decode()
    assert 'id="page"' in text
    assert not re.search(r"<(script|link)[^>]+(src|href)=\"\./", text)
