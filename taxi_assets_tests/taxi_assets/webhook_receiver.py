"""A webhook of a test's own, a real HTTP server that keeps what it is sent; and what is told."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from taxi_assets.resources.alerts import Observation, Where, instant


class Receiver:
    """Listens on a port of its own (or a given one) until it is closed."""

    def __init__(self, port: int = 0, status: int = 200, seconds: int = 0) -> None:
        received: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(json.loads(body))
                self.send_response(status)
                for _ in range(seconds):  # a field a second, never long enough to be given up
                    self.send_header("x", "y")
                    self.flush_headers()
                    time.sleep(1)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: the test's output is its own."""

        self.received = received
        self.server = HTTPServer(("127.0.0.1", port), Handler)
        self.port = int(self.server.server_port)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        """As apprise wants it, with things in it that nobody may see."""
        return f"json://ann:s3cret-pass@127.0.0.1:{self.port}/hook/T0KEN-9f8e7d6c"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.received]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def seen(
    second: int, subject: str = "trips: volume", month: str = "2022-03", **other: Any
) -> Observation:
    given: dict[str, Any] = {
        "kind": "check",
        "subject": subject,
        "passed": False,
        "what": "30% of the trips",
        "at": instant(1_700_000_000 + second),
        "where": Where("trips", month, "http://127.0.0.1:3000/runs/1"),
        "remedy": "Bring the file again",
    }
    return Observation(**{**given, **other})
