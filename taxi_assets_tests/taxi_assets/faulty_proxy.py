"""A proxy before the workspace that lets one thing go wrong, and steps launched through it.

Real sockets, real answers, real runs.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from conftest_run import MONTHS, Home, free_port
from databricks.sdk import WorkspaceClient

from databricks_steps.settings import LOOPBACK, SAIL, STAGING_VOLUME, Settings
from taxi_assets.deployment.online_store import workspace_client
from taxi_assets.emulator import auth, process
from taxi_assets.resources.staging import RUNS

SUBMIT, GET = "/api/2.2/jobs/runs/submit", "/api/2.2/jobs/runs/get"
CREATE = "/api/2.1/clusters/create"
LAUNCH = """
import sys
from taxi_assets import dagster_instance, pipeline
from taxi_assets.resources import targets
from taxi_assets.progress import progress
progress.reset(print)
chosen = targets.target("loopback")
job = pipeline._job(chosen)
with dagster_instance.instance(chosen.settings) as found:
    try:
        pipeline._end_leftovers(chosen, found)
        pipeline._execute(job, found, ("raw_trips", "arrivals"), (sys.argv[1],), {})
    except Exception as error:
        print("said:", error)
        sys.exit(1)
print("said: success")
"""
Fault = Callable[["Request"], None]


class DroppedError(Exception):
    """The connection is to be closed without an answer."""


class AnsweredError(Exception):
    """The proxy answers itself, with this status and error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Request:
    """One request on its way, how often one like it has come, and the body that is passed on."""

    def __init__(self, method: str, path: str, number: int, body: bytes) -> None:
        self.method, self.path, self.number, self.body = method, path, number, body


class FaultyProxy:
    """Passes requests on to the workspace of a home, and has its token: else it were a relay.

    `fault` may raise or alter the request's body, `change` may alter what is answered; `seen` and
    `exchanged` tell what has come by since they were last forgotten.
    """

    def __init__(self, settings: Settings) -> None:
        self.seen: list[tuple[str, str]] = []
        self.exchanged: list[tuple[Request, bytes]] = []  # with the answers that were passed back
        self.forget()
        self._settings = settings
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

    def forget(self) -> None:
        """Pass everything as it comes, as if nothing had come by yet."""
        self.fault: Fault = lambda request: None
        self.change: Callable[[Request, bytes], bytes] = lambda request, answer: answer
        self.seen.clear()
        self.exchanged.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path = handler.path.split("?")[0]
        self.seen.append((handler.command, path))
        request = Request(handler.command, path, self.seen.count((handler.command, path)), body)
        try:
            self.fault(request)
            status, headers, answer = self._ask(handler, request.body)
        except DroppedError:
            handler.close_connection = True
            return
        except AnsweredError as fault:
            status, headers = fault.status, {"Content-Type": "application/json", "Retry-After": "1"}
            answer = json.dumps({"error_code": fault.code, "message": str(fault)}).encode()
        if path == "/health":
            answer = self._proven(handler.path, answer)
        answer = self.change(request, answer)
        self.exchanged.append((request, answer))
        handler.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(answer)

    def _proven(self, path: str, answer: bytes) -> bytes:
        """The answer, with the proof of this port."""
        (nonce,) = parse_qs(urlsplit(path).query)["nonce"]
        secret = auth.token(self._settings.token_file)
        return json.dumps(
            json.loads(answer) | {"proof": auth.proof(secret, self.port, nonce)}
        ).encode()

    def _ask(
        self, handler: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self._settings.port, timeout=60)
        headers = dict(handler.headers)
        if "Content-Length" in headers:
            headers["Content-Length"] = str(len(body))
        try:
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


@contextmanager
def behind_proxy(folder: Path, source: Path) -> Iterator[tuple[Home, FaultyProxy, dict[str, str]]]:
    """A workspace behind a proxy, and the environment of an orchestrator that knows the proxy."""
    home = Home(folder / "home", free_port())
    process.ensure_running(home.settings)
    proxy = FaultyProxy(home.settings)
    try:
        yield (
            home,
            proxy,
            {
                **home.environment,
                "TAXI_PORT": str(proxy.port),
                "TAXI_TARGET": "loopback",
                "TAXI_SOURCE": str(source),
                "TAXI_SPARK": SAIL,  # what is launched is the same, and starts in no time
            },
        )
    finally:
        proxy.close()
        process.stop(home.settings)


def orchestrator(
    month: str, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.Popen[str]:
    """A process that materializes `raw_trips` by the launcher, from the packages in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LAUNCH, month],
        env=dict(environment),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def word(launched: subprocess.Popen[str]) -> tuple[int, str]:
    """Its code and what it said in the end."""
    with launched:
        out, err = launched.communicate(timeout=300)
    said = [line for line in out.splitlines() if line.startswith("said: ")]
    assert said, err[-3000:]
    return launched.returncode, said[-1]


def client(home: Home) -> WorkspaceClient:
    """A client of the workspace itself, past the proxy."""
    return workspace_client(home.settings.host, auth.token(home.settings.token_file))


def runs(home: Home) -> list[dict[str, Any]]:
    """The workspace's runs as it knows them itself, the newest first."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] | None = {"expand_tasks": "true"}
    while query:
        told: Any = client(home).api_client.do("GET", "/api/2.2/jobs/runs/list", query=query)
        found += told["runs"]
        token = told.get("next_page_token")
        query = {**query, "page_token": token} if token else None
    return found


def cancel(home: Home, run_id: int) -> None:
    client(home).jobs.cancel_run(run_id)


def staged(home: Home) -> list[Path]:
    """Files of launched steps that are on the volume now, but for wheels of the code."""
    settings = home.settings
    volume = home.path / "volumes" / settings.catalog / settings.schema / STAGING_VOLUME
    return [file for file in (volume / RUNS).rglob("*") if file.is_file()]


def launch(environment: Mapping[str, str], **more: str) -> tuple[int, str]:
    """Materialize `raw_trips` by the launcher in a process of its own: its code and its word."""
    return word(orchestrator(MONTHS[0], {**environment, **more}))


def tasks(home: Home) -> list[int]:
    """The processes that run launched steps of this home."""
    folder = f"{home.path}/volumes".encode()
    numbers = [each.name for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [int(number) for number in numbers if folder in command(int(number))]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
