"""The server's application: the files of the page, and the API below api/."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tensorkeep.errors import MissingError
from tensorkeep.viewer.answering import JSON, Answering
from tensorkeep.viewer.encoding import to_json
from tensorkeep.viewer.guard import GIVEN, NOTHING, Guard
from tensorkeep.viewer.problems import status_of, told
from tensorkeep.viewer.workers import Workers

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).parent / "page"

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.(css|html|js|png|svg)")
_MEDIA = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
}


def application(
    answering: Answering,
    workers: Workers,
    token: str,
    port: int,
    *,
    embed: bool = False,
    page: Path | None = None,
) -> Guard:
    """Make the application of a server.

    Args:
        answering: what answers; it is asked in threads.
        workers: those threads.
        token: what all addresses begin with.
        port: of the server.
        embed: a notebook may show the page in a frame.
        page: the folder of the built page.

    Raises:
        MissingError: the page was not built.
    """
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    files = _files(PAGE if page is None else page)

    async def show(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files or (name == "index.html" and request.path_params):
            return nothing(request)
        data = await asyncio.wrap_future(workers.start(files[name].read_bytes))
        return Response(data, media_type=_MEDIA[name.rpartition(".")[2]])

    async def answer(request: Request) -> Response:
        path = request.scope["raw_path"].decode("ascii").removeprefix("/api/")
        if query := request.scope["query_string"].decode("latin-1"):
            path = f"{path}?{query}"
        try:
            found = await asyncio.wrap_future(workers.start(lambda: answering.answer(path)))
        except Exception as error:
            return refused(request, error)
        return Response(found.body, media_type=found.media)

    def refused(_: Request, error: Exception) -> Response:
        return Response(to_json(told(error)), status_of(error), media_type=JSON)

    def nothing(request: Request, _: object = None) -> Response:
        return refused(request, MissingError(NOTHING, cure=GIVEN))

    routes = [
        Route("/", show),
        Route("/api/{path:path}", answer),
        Route("/{name}", show),
    ]
    app = Starlette(routes=routes, exception_handlers={404: nothing, Exception: refused})
    app.router.redirect_slashes = False
    return Guard(app, token, port, embed=embed)


def _files(page: Path) -> dict[str, Path]:
    """Find the files of the page; no others are ever given, whatever is asked for.

    Raises:
        MissingError: it has none to begin with.
    """
    found = sorted(page.iterdir()) if page.is_dir() else []
    files = {each.name: each for each in found if _FILE.fullmatch(each.name) and each.is_file()}
    if "index.html" not in files:
        cure = "Build it: cd frontend && npm ci && npm run build."
        raise MissingError("the page was not built", where=str(page), cure=cure)
    return files
