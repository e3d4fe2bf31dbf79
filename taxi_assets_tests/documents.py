"""Answers of Databricks' REST API that the emulator does not give: documents by path."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

CODES = {
    400: "INVALID_PARAMETER_VALUE",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "RESOURCE_CONFLICT",
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
