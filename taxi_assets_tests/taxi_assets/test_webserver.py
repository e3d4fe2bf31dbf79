"""Dagster's UI does what its own pages ask, and nothing that a page of another origin asks."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from browser import Page
from conftest_run import free_port

pytestmark = pytest.mark.slow

SET = 'mutation { setConcurrencyLimit(concurrencyKey: "%s", limit: 1) }'
LIMITS = "{ instance { concurrencyLimits { concurrencyKey } } }"
JSON = {"Content-Type": "application/json"}
ATTACK = """<!doctype html><title>attack</title><body><script>
const target = "http://127.0.0.1:%(port)d/graphql", body = JSON.stringify({query: %(query)s});
const post = (type) => fetch(target,
  {method: "POST", mode: "no-cors", headers: {"Content-Type": type}, body}).catch(() => 0);
const image = new Promise((done) => { const made = new Image();
  made.onload = made.onerror = done;
  made.src = target + "?query=" + encodeURIComponent(%(query)s); });
Promise.all([post("text/plain"), post("application/json"), image])
  .then(() => document.body.append("all was tried"));
</script></body>"""


class Webserver:
    """The webserver alone, on an instance of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: str | None = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, text

    def graphql(self, query: str, **headers: str) -> tuple[int, str]:
        given = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/graphql", given, json.dumps({"query": query}))

    def limits(self) -> set[str]:
        _, text = self.graphql(LIMITS)
        found: list[Any] = json.loads(text)["data"]["instance"]["concurrencyLimits"]
        return {each["concurrencyKey"] for each in found}


@pytest.fixture(scope="module")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webserver]:
    home, port = tmp_path_factory.mktemp("dagster"), free_port()
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "taxi_assets.webserver", "--empty-workspace"),
                *("-h", "127.0.0.1", "-p", str(port)),
            ],
            env={"DAGSTER_HOME": str(home), "PATH": "/usr/bin:/bin", "HOME": str(home)},
            stdout=log,
            stderr=log,
        )
    found = Webserver(port)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        try:
            found.ask("GET", "/server_info", {})
            break
        except OSError:
            time.sleep(0.2)
    assert server.poll() is None, (home / "log").read_text()
    yield found
    server.terminate()
    server.wait(30)


def test_its_own_pages_ask_what_they_like(webserver: Webserver) -> None:
    for origin in ({}, {"Origin": f"http://127.0.0.1:{webserver.port}"}):
        assert webserver.graphql(SET % "own", **origin)[0] == 200
    assert "own" in webserver.limits()
    for host in (f"localhost:{webserver.port}", f"127.0.0.1:{webserver.port}"):
        assert webserver.ask("GET", "/runs", {"Host": host})[0] == 200
    assert webserver.ask("GET", "/graphql", {"Accept": "text/html"})[0] == 200  # GraphiQL


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"Origin": "http://127.0.0.1:1"}),
        (403, {"Origin": "https://evil.example"}),
        (403, {"Origin": "null"}),
        (403, {"Origin": ""}),
        (403, {"Host": "evil.example"}),  # a name that was made to mean this machine
        (
            403,
            {"Host": "127.0.0.1.evil.example:3000", "Origin": "http://127.0.0.1.evil.example:3000"},
        ),
        (403, {"Host": ""}),
        (415, {"Content-Type": "text/plain"}),
        (415, {"Content-Type": "text/plain; application/json"}),
        (415, {"Content-Type": "application/x-www-form-urlencoded"}),
        (415, {"Content-Type": "application/graphql"}),
        (415, {"Content-Type": "multipart/form-data; boundary=a"}),
        (415, {"Content-Type": ""}),
    ],
)
def test_what_others_may_send_is_refused(
    webserver: Webserver, status: int, headers: dict[str, str]
) -> None:
    body = json.dumps({"query": SET % "posted"})
    found, text = webserver.ask("POST", "/graphql", JSON | headers, body)
    assert (found, text.count("\n")) == (status, 1)
    assert "posted" not in webserver.limits()


@pytest.mark.parametrize("path", ["/graphql", "/graphql/"])
def test_no_mutation_comes_by_an_address(webserver: Webserver, path: str) -> None:
    asked = f"{path}?query={urllib.parse.quote(SET % 'addressed')}"
    assert webserver.ask("GET", asked, {})[0] == 405
    assert "addressed" not in webserver.limits()


def test_no_socket_opens_for_another_origin(webserver: Webserver) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "graphql-ws",
    }
    assert webserver.ask("GET", "/graphql", upgrade | {"Origin": "http://evil.example"})[0] == 403


def test_a_page_of_another_origin_in_a_browser_changes_nothing(
    webserver: Webserver, page: Page
) -> None:
    attack = ATTACK % {"port": webserver.port, "query": json.dumps(SET % "attacked")}

    class Attack(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(attack.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Attack) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        page.open(f"http://127.0.0.1:{elsewhere.server_port}/")
        page.shows("all was tried")
        elsewhere.shutdown()
    assert "attacked" not in webserver.limits()
