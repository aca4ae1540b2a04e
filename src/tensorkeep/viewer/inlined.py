"""The page as one file: its scripts and styles inside it, and answers in place of a server.

Nothing of it is fetched, and a content security policy allows only the scripts and styles whose
digests it names. Data is written so that nothing of it can end the element it is in.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tensorkeep.errors import MissingError

_SCRIPT = re.compile(r'\s*<script type="module"[^>]* src="\./([^"/]+)"></script>')
_STYLE = re.compile(r'\s*<link rel="stylesheet"[^>]* href="\./([^"/]+)">')
_WORKER = "*worker*.js"  # the one that the page starts from the text of an element of this name
# What begins or ends a script in HTML stands only in literals of JavaScript, where \x3c is a <.
_MARKUP = re.compile(r"<(?=/?script|!--)", re.IGNORECASE)


def inlined(recorded: Mapping[str, bytes], left_out: Sequence[str], page: Path) -> Iterator[bytes]:
    """Give the page with recorded answers inside, piece by piece.

    Args:
        recorded: JSON, by the path that is asked for.
        left_out: sentences for the reader on what is not there.
        page: the folder of the built page.

    Raises:
        MissingError: the page was not built.
    """
    text = _read(page / "index.html")
    scripts = [_MARKUP.sub(r"\\x3c", _read(page / name)) for name in _SCRIPT.findall(text)]
    styles = [_read(page / name) for name in _STYLE.findall(text)]
    workers = [_MARKUP.sub(r"\\x3c", _read(each)) for each in page.glob(_WORKER)]
    text = _STYLE.sub("", _SCRIPT.sub("", text))
    head, _, rest = text.partition("<meta charset")
    charset, _, rest = rest.partition(">")
    yield f'{head}<meta charset{charset}>\n    <meta http-equiv="Content-Security-Policy" '.encode()
    yield f'content="{_policy(scripts, styles)}" />'.encode()
    before, _, body = rest.partition("</head>")
    yield before.encode()
    for style in styles:
        yield f"<style>{style}</style>\n".encode()
    top, _, bottom = body.partition("<noscript>")
    yield f"  </head>{top}{_told(left_out)}<noscript>{bottom.partition('</body>')[0]}".encode()
    for worker in workers:
        yield f'<script type="text/plain" id="worker">{worker}</script>\n'.encode()
    yield b'<script type="application/json" id="recorded">{'
    for place, (path, answer) in enumerate(recorded.items()):
        yield (b"," if place else b"") + escaped(json.dumps(path).encode()) + b":" + escaped(answer)
    yield b"}</script>\n"
    for script in scripts:
        yield f'<script type="module">{script}</script>\n'.encode()
    yield b"</body></html>\n"


def escaped(answer: bytes) -> bytes:
    r"""Write JSON so that HTML sees no markup in it, and JavaScript no end of a line.

    >>> escaped(b'"</script>"')
    b'"\\u003c/script>"'
    """
    answer = answer.replace(b"<", rb"\u003c")
    return answer.replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")


def _policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    # Preact sets styles through the CSSOM, which no policy holds back.
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src {_digests(scripts)}; style-src {_digests(styles)}; "
        "img-src data: blob:; worker-src blob:"
    )


def _digests(texts: Iterable[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests) or "'none'"


def _told(left_out: Sequence[str]) -> str:
    if not left_out:
        return ""
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in left_out)
    return f'<aside class="left-out">This report leaves out:<ul>{sentences}</ul></aside>\n'


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        cure = "Build it: cd frontend && npm ci && npm run build."
        raise MissingError("the page was not built", where=str(path), cure=cure) from None
