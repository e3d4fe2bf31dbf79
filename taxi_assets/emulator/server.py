"""How the workspace's servers listen: on loopback, without access log, with limited patience."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from databricks_steps.settings import LOOPBACK
from taxi_assets.emulator.auth import WHOLE

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HEAD_SECONDS = 30.0
HEAD_BYTES = 64 * 1024
FRAMING = 8  # a chunk of one byte takes six
READ_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 10
BACKLOG = 2048
COLLECTED_AFTER = 20_000, 50, 100  # objects more than before; collections of the younger ones


class Impatient(HttpToolsProtocol):
    """Ends connections that would hold memory or a place for as long as they like.

    A request's head has `HEAD_SECONDS` and `HEAD_BYTES`, an answer `READ_SECONDS` to be read. What
    frames a body in chunks, and the fields after it, may be `FRAMING` times as long as the body.
    Uvicorn itself would wait for ever for all of them, and keep all of them.
    """

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head_bytes = 0  # of the request but for its body
    _body_bytes = 0
    _in_head = True
    _begun = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        allowed = HEAD_BYTES if self._in_head else HEAD_BYTES + FRAMING * self._body_bytes
        if self._head_bytes > allowed:
            self.transport.close()
        elif self._late is None and (
            # Most heads come whole. Bytes of no request have stopped uvicorn's own timer.
            self._begun or self.cycle is None or self.cycle.response_complete
        ):
            self._wait()

    def on_message_begin(self) -> None:
        self._stop_waiting()
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._begun = self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes -= len(body)
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes, self._body_bytes = True, 0, 0
        self.scope[WHOLE] = True  # type: ignore[literal-required]
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _wait(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Stoppable(uvicorn.Server):
    """Returns after a signal: uvicorn's own dies by it, before anything is written."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then spare the collector of cycles what was imported and loaded by now.

        A collection of all that takes 40 ms, in which nobody is answered.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTED_AFTER)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def server(app: ASGIApp, access_log: bool = False) -> uvicorn.Server:
    """A server for this application; run it on sockets of `listen`."""
    if not access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    return Stoppable(
        uvicorn.Config(
            app,
            http=Impatient,
            ws="none",
            lifespan="on",
            access_log=access_log,
            server_header=False,
            proxy_headers=False,
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
