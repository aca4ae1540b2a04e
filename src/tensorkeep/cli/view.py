"""`tensorkeep view`: a page in the browser that shows what is in files, checkpoints and runs."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from tensorkeep.cli.progress import progress
from tensorkeep.cli.terminal import JsonOption, clean, say, say_json, warn

_LOOK = 0.5  # seconds between looks at whether the server still runs


def view(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files, folders of shards, or of checkpoints."),
    ],
    port: Annotated[
        int, typer.Option(metavar="N", help="Of the server; a free one otherwise.", min=0)
    ] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    export: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the page as one HTML file instead, and end."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="With --export, read all of every tensor.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the file if it is there.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Look at tensors, graphs, differences and runs in the browser.

    The page is served to this machine alone, at an address that nobody can guess, until Ctrl-C.

    With --json: {"url"}, once it can be opened; with --export {"file", "left_out": [TEXT]}.
    """
    if export is not None:
        return _export(paths, export, exact, force, as_json)
    from tensorkeep.viewer.server import serve

    with serve(paths, port=port) as server:
        server.answering.opened.check()
        if as_json:
            say_json({"url": server.url})
        else:
            say(f"{server.url}  (Ctrl-C ends it)")
        sys.stdout.flush()
        try:
            if browser and _has_display():
                server.browse()
            while server.running:
                time.sleep(_LOOK)
        except KeyboardInterrupt:
            return 0
        warn("error: the server has ended")
        return 2


def _export(paths: list[str], file: str, exact: bool, force: bool, as_json: bool) -> int:
    from tensorkeep.viewer.exporting import export

    with progress("recording") as bar:
        left_out = export(paths, file, exact=exact, replace=force, progress=bar)
    if as_json:
        say_json({"file": file, "left_out": left_out})
        return 0
    say(f"wrote {clean(file)}")
    for sentence in left_out:
        say(f"left out: {clean(sentence)}")
    return 0


def _has_display() -> bool:
    """Whether a browser would have a screen, and not take over the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
