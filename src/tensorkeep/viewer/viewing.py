"""`view`: the viewer from Python, and inside a notebook."""

from __future__ import annotations

import atexit
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tensorkeep.errors import ClosedError
from tensorkeep.stores import Target
from tensorkeep.viewer.app import PAGE
from tensorkeep.viewer.exporting import export, report
from tensorkeep.viewer.inlined import inlined
from tensorkeep.viewer.server import Server, serve

_INLINE = 8_000_000  # bytes: a notebook keeps them, and some refuse larger ones
_open: set[View] = set()  # a page in a notebook outlives the name of what it shows


class View:
    """A page that shows something; in a notebook, the page itself.

    It is served until `close` or the end of the program. A context manager.
    """

    def __init__(
        self, targets: Sequence[Any], *, port: int, inline: bool, height: int, page: Path | None
    ) -> None:
        self._targets = list(targets)
        self._height = height
        self._page = PAGE if page is None else page
        self._server: Server | None = None
        self._report = ""
        if inline:
            recorded = report(self._targets, exact=False, budget=_INLINE)
            pieces = inlined(recorded.answers, recorded.left_out, self._page)
            self._report = b"".join(pieces).decode()
        else:
            self._server = serve(self._targets, port=port, embed=True, page=self._page)
            _open.add(self)

    @property
    def url(self) -> str:
        """The address of the page, for this machine alone; empty of a view that is inline."""
        return self._server.url if self._server is not None else ""

    def export(self, file: Target, *, exact: bool = False) -> list[str]:
        """Write the page as one HTML file; see `tensorkeep.viewer.export`."""
        return export(self._targets, file, exact=exact, page=self._page)

    def close(self) -> None:
        """Stop serving; a page that is inline goes on."""
        _open.discard(self)
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"View({self.url!r})"

    def _repr_html_(self) -> str:
        """Give a frame with the page, which is how notebooks show it."""
        if self._server is not None and not self._server.running:
            raise ClosedError("the view is closed", cure="Open it again: tensorkeep.view(...).")
        if self._report:
            # Without an origin of its own the page can reach nothing of the notebook around it.
            what = f'sandbox="allow-scripts allow-downloads" srcdoc="{html.escape(self._report)}"'
        else:
            what = f'src="{html.escape(self.url)}"'
        size = f'width="100%" height="{int(self._height)}" style="border: 1px solid #8884"'
        return f'<iframe title="tensorkeep" {size} {what}></iframe>'


def view(
    x: Any, *more: Any, port: int = 0, inline: bool = False, height: int = 640, page: Any = None
) -> View:
    """Show files, states, checkpoints or arrays as a web page, in a notebook at once.

    The page is served by this program, to this machine alone. In a notebook whose kernel runs on
    another machine take `inline=True`: the page is then inside the notebook, with a sample of the
    values, and stays there when the notebook is kept.

    Args:
        x: a path, an URL, a State, a Checkpointer, or a nesting of arrays.
        more: others beside it, to compare.
        port: of the server; a free one otherwise.
        inline: have the page inside the notebook, without a server.
        height: of the frame in a notebook, in pixels.
        page: the folder of the built page, for tests; the package's own otherwise.

    Raises:
        MissingDependencyError: the extra `view` is not installed.
        TensorKeepError: nothing of what was given can be opened.

    >>> import numpy as np
    >>> with view({"w": np.zeros(3)}) as shown:
    ...     shown.url.startswith("http://127.0.0.1:")
    True
    """
    folder = None if page is None else Path(os.fspath(page))
    return View((x, *more), port=port, inline=inline, height=height, page=folder)


def _close_all() -> None:
    for each in list(_open):
        each.close()


atexit.register(_close_all)
