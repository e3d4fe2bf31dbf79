"""Starting, finding and stopping the emulator of a home, from any other process."""

from __future__ import annotations

import fcntl
import hmac
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from databricks_steps.errors import ServingError
from databricks_steps.settings import LOOPBACK, REPOSITORY, Settings
from taxi_assets.emulator import auth

START_SECONDS = 60.0
STOP_SECONDS = 90.0


@dataclass(frozen=True)
class Status:
    """Whether the workspace of a home runs, and where."""

    running: bool
    pid: int | None = None
    port: int | None = None

    @property
    def host(self) -> str | None:
        return f"http://{LOOPBACK}:{self.port}" if self.running else None


def lock_file(settings: Settings) -> Path:
    """Locked by the server as long as it lives."""
    return settings.home / "workspace.lock"


def log_file(settings: Settings) -> Path:
    return settings.home / "logs" / "workspace.log"


def ensure_running(settings: Settings, *options: str) -> str:
    """The host of this home's workspace, started with these options when it was not running.

    Raises:
        ServingError: the port is taken, the home's workspace is on another port, or it dies.
    """
    if _health(settings, settings.port) is not None:
        return settings.host
    settings.home.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.home / "workspace.start.lock"):
        found = status(settings)
        if found.running:
            _await_running(settings, found, *options)
        else:
            _start(settings, *options)
    return settings.host


def page_link(settings: Settings) -> str:
    """The address that signs a browser in to the pages, and to nothing else, for some hours."""
    return f"{settings.host}/#pass={auth.page_pass(auth.token(settings.token_file))}"


def require_port(settings: Settings) -> None:
    """Refuse a port that something else than this home's workspace listens on.

    Raises:
        ServingError: the port is taken.
    """
    if _taken(settings.port) and _health(settings, settings.port) is None:
        raise _port_in_use(settings)


def status(settings: Settings) -> Status:
    """Whether a server holds this home, and what it wrote about itself."""
    if not _held(settings):
        return Status(running=False)
    try:
        written = json.loads(settings.workspace_file.read_text(encoding="utf-8"))
        return Status(True, int(written["pid"]), int(written["port"]))
    except (OSError, ValueError, KeyError):  # it has just begun to start, or to stop
        return Status(running=True)


def stop(settings: Settings) -> bool:
    """Stop this home's workspace after it has written what it holds; False when none runs.

    Raises:
        ServingError: it does not answer, or does not end.
    """
    found = status(settings)
    if not found.running:
        return False
    deadline = time.monotonic() + START_SECONDS
    while found.port is None or _health(settings, found.port) != found.pid:
        # Only a process that proves to be this home's workspace is ever signalled.
        if time.monotonic() > deadline:
            raise ServingError(
                "The workspace must answer to be stopped",
                f"process {found.pid} of {settings.home} does not",
                f"Look at {log_file(settings)}, then end that process",
            )
        time.sleep(0.1)
        found = status(settings)
        if not found.running:
            return True
    assert found.pid is not None  # noqa: S101 - it equals the answer's
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _held(settings):
        if time.monotonic() > deadline:
            raise ServingError(
                f"The workspace must end within {STOP_SECONDS:g} seconds",
                f"process {found.pid} runs on",
                f"Look at {log_file(settings)}",
            )
        time.sleep(0.05)
    return True


def _start(settings: Settings, *options: str) -> None:
    if _taken(settings.port):
        raise _port_in_use(settings)
    log = log_file(settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    auth.token(settings.token_file)
    with log.open("ab") as out:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "taxi_assets.emulator"),
                *("--home", str(settings.home.absolute()), "--port", str(settings.port)),
                *options,
            ],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while _health(settings, settings.port) is None:
        if server.poll() is not None:
            if _taken(settings.port):
                raise _port_in_use(settings)
            raise ServingError("The workspace must start", _last_line(log), f"Look at {log}")
        if time.monotonic() > deadline:
            server.terminate()
            raise ServingError(
                f"The workspace must start within {START_SECONDS:g} seconds",
                _last_line(log),
                f"Look at {log}",
            )
        time.sleep(0.05)


def _await_running(settings: Settings, found: Status, *options: str) -> None:
    """The home has a server: wait for it, unless it is on another port."""
    deadline = time.monotonic() + START_SECONDS
    while _health(settings, settings.port) is None:
        found = status(settings)
        if found.port not in (None, settings.port):
            raise ServingError(
                "A home has one workspace",
                f"{settings.home} has its own on port {found.port}, not {settings.port}",
                f"Stop it, or set TAXI_PORT={found.port}",
            )
        if not found.running:
            _start(settings, *options)
            return
        if time.monotonic() > deadline:
            raise ServingError(
                "The workspace must answer",
                f"process {found.pid} on port {settings.port} does not",
                f"Look at {log_file(settings)}",
            )
        time.sleep(0.1)


def _health(settings: Settings, port: int) -> int | None:
    """The process id of this home's workspace when it answers on a port.

    Whatever else listens there cannot prove that it knows the token, and never gets to see it.
    """
    if not settings.token_file.exists():
        return None
    nonce = secrets.token_hex(16)
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", f"/health?nonce={nonce}")
        answer = json.loads(connection.getresponse().read(10_000))
        expected = auth.proof(auth.token(settings.token_file), port, nonce)
        if hmac.compare_digest(str(answer["proof"]).encode(), expected.encode()):
            return int(answer["pid"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()
    return None


def _held(settings: Settings) -> bool:
    """Whether a live process holds the home's lock: true of nothing but its workspace."""
    try:
        with lock_file(settings).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _port_in_use(settings: Settings) -> ServingError:
    return ServingError(
        "The workspace needs a free port",
        f"port {settings.port} is in use by another program",
        "Set TAXI_PORT to a free one",
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it ended without a word"
