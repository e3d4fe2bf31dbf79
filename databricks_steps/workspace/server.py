"""How the workspace's servers listen: on loopback, without access log, with limited patience."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from databricks_steps.settings import LOOPBACK

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HEAD_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 10
BACKLOG = 2048
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Impatient(HttpToolsProtocol):
    """Closes a connection that takes longer than `HEAD_SECONDS` for a request's head.

    Uvicorn itself would wait for ever, and a thousand such connections are all it can hold.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def server(app: ASGIApp, access_log: bool = False, lifespan: bool = True) -> uvicorn.Server:
    """A server for this application; run it on sockets of `listen`."""
    if not access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Impatient,
            ws="none",
            lifespan="on" if lifespan else "off",
            access_log=access_log,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=STOP_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )


def listen(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
