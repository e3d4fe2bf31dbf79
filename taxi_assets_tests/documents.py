"""Answers of Databricks' REST API that the emulator does not give: by path, or by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config

from databricks_steps.settings import LOOPBACK

Answers = Callable[[str, str, Any], tuple[int, Any]]
CODES = {
    400: "INVALID_PARAMETER_VALUE",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
}


class Documents(BaseHTTPRequestHandler):
    """Gives the document of a path, or the error its `status` says; 404 where there is none."""

    documents: dict[str, Any]

    def do_GET(self) -> None:
        found = self.documents.get(unquote(urlsplit(self.path).path), {"status": 404})
        status = found.get("status", 200)
        self.answer(status, found if status == 200 else f"{self.path} {CODES[status]}")

    def answer(self, status: int, what: Any) -> None:
        """A document, or the message of an error."""
        error = {"error_code": CODES.get(status), "message": what}
        body = json.dumps(what if status == 200 else error).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def answering(handler: type[Documents]) -> Iterator[str]:
    """The address, on loopback, of a server that answers by a handler."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def databricks(answers: Answers, patience: int = 1) -> Iterator[WorkspaceClient]:
    """A workspace that gives these answers to a method, a path and a body, and a client of it.

    The client sends a request again for `patience` seconds, fewer than anybody's would. Where
    `answers` raises a ConnectionError the connection is closed: the answer is lost.
    """

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, told = answers(self.command, self.path, json.loads(body or b"null"))
            body = json.dumps(told).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == HTTPStatus.TOO_MANY_REQUESTS:  # for longer than the client's own patience
                self.send_header("Retry-After", "2")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # who has asked is gone
                super().handle()

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    host = f"http://{LOOPBACK}:{server.server_address[1]}"
    config = Config(
        host=host,
        token="x",
        auth_type="pat",
        http_timeout_seconds=3,
        retry_timeout_seconds=patience,
    )
    client = WorkspaceClient(config=config)
    client.api_client._api_client._session.trust_env = False
    try:
        yield client
    finally:
        server.shutdown()
        server.server_close()


def refused(status: int, code: str | None = None) -> tuple[int, Any]:
    """An answer that says no."""
    return status, {"error_code": code or CODES[status], "message": f"no: {status}"}
