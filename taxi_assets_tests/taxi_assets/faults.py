"""A proxy before the workspace that lets one thing go wrong: real sockets, real answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from databricks_steps.settings import LOOPBACK

Fault = Callable[["Request"], None]


class DroppedError(Exception):
    """The connection is to be closed without an answer."""


class AnsweredError(Exception):
    """The proxy answers itself, with this status and error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Request:
    """One request on its way, and how often one like it has come."""

    def __init__(self, method: str, path: str, number: int) -> None:
        self.method, self.path, self.number = method, path, number


class FaultyProxy:
    """Passes requests on to a port; `fault` may raise, `change` may alter what is answered."""

    def __init__(self, port: int) -> None:
        self.fault: Fault = lambda request: None
        self.change: Callable[[Request, bytes], bytes] = lambda request, answer: answer
        self.seen: list[tuple[str, str]] = []
        self._to = port
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _pass  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path = handler.path.split("?")[0]
        self.seen.append((handler.command, path))
        request = Request(handler.command, path, self.seen.count((handler.command, path)))
        try:
            self.fault(request)
            status, headers, answer = self._ask(handler, body)
        except DroppedError:
            handler.close_connection = True
            return
        except AnsweredError as fault:
            status, headers = fault.status, {"Content-Type": "application/json", "Retry-After": "1"}
            answer = json.dumps({"error_code": fault.code, "message": str(fault)}).encode()
        answer = self.change(request, answer)
        handler.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(answer)

    def _ask(
        self, handler: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self._to, timeout=60)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()
