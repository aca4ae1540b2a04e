"""The server of the viewer: in a thread, for this machine alone."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorkeep.errors import ArgumentError, StoreError
from tensorkeep.hidden import reason
from tensorkeep.optional import require
from tensorkeep.viewer.answering import Answering
from tensorkeep.viewer.app import application
from tensorkeep.viewer.workers import Workers

HOST = "127.0.0.1"
_THREADS = 4  # that answer
_PATIENCE = 30.0  # seconds for a start
_CURE = 'Install it with: pip install "tensorkeep[view]".'


class Server:
    """A server that runs until it is closed; a context manager.

    Attributes:
        url: the address to open, with the token that lets one in.
        port: of the server.
        answering: what it answers from.
    """

    def __init__(
        self, targets: Sequence[Any], port: int, *, embed: bool = False, page: Path | None = None
    ) -> None:
        uvicorn = require("uvicorn", "the viewer needs uvicorn", _CURE)
        require("starlette", "the viewer needs starlette", _CURE)
        self.answering = Answering(targets)
        self._workers = Workers(_THREADS, "tensorkeep-view")
        self._socket = _bound(port)
        self.port: int = self._socket.getsockname()[1]
        token = secrets.token_urlsafe(24)
        self.url = f"http://{HOST}:{self.port}/{token}/"
        try:
            self._guard = application(
                self.answering, self._workers, token, self.port, embed=embed, page=page
            )
        except BaseException:
            self._socket.close()
            raise
        config = uvicorn.Config(
            self._guard,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=32 << 10,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="tensorkeep-server", daemon=True)
        self._closed = False

    def start(self) -> Self:
        """Start answering.

        Raises:
            StoreError: it does not start.
        """
        self._thread.start()
        until = time.monotonic() + _PATIENCE
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                self.close()
                raise StoreError("the server did not start")
            time.sleep(0.002)
        return self

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def browse(self) -> None:
        """Open the page in the user's browser."""
        import webbrowser

        webbrowser.open(f"http://{HOST}:{self.port}/{self._guard.ticket()}/")

    @property
    def running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop answering, stop what works in the background, and close what is open."""
        if self._closed:
            return
        self._closed = True
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)
        self._socket.close()
        self._workers.close()
        self.answering.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(
    targets: Sequence[Any],
    *,
    port: int = 0,
    open_browser: bool = False,
    embed: bool = False,
    page: str | os.PathLike[str] | None = None,
) -> Server:
    """Serve a page that shows what is in files, checkpoints and runs, to this machine alone.

    Args:
        targets: paths, URLs, Locations, Stores, States, Checkpointers, or nestings of arrays.
        port: of the server; a free one otherwise.
        open_browser: open the page.
        embed: a notebook may show the page in a frame.
        page: the folder of the built page, for tests; the package's own otherwise.

    Raises:
        MissingDependencyError: the extra `view` is not installed.
        ArgumentError: the port is none that can be had.

    >>> import numpy as np
    >>> with serve([{"w": np.zeros(3)}]) as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """
    server = Server(targets, port, embed=embed, page=None if page is None else Path(page)).start()
    if open_browser:
        server.browse()
    return server


def _bound(port: int) -> socket.socket:
    """Give a socket that listens; whoever connects before the server runs waits for it."""
    if not 0 <= port < 65536:
        raise ArgumentError(f"a port cannot be {port!r}", cure="Give one from 1024 to 65535.")
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have the same port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise ArgumentError(
            f"port {port} cannot be had: {reason(error)}", cure="Give another one, or none."
        ) from None
    return bound
