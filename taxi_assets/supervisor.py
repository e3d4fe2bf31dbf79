"""The processes of `taxi-assets dev`, which end together: code server, webserver and daemon.

`dagster dev` starts the same, and keeps 130 MB to watch them; this imports no Dagster.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

LOCATION = "taxi_assets.definitions"  # of the code, and the name that runs and pages give it
ENDS_WITHIN = 30.0  # seconds, before it is killed
LOGS = ("--log-level", "info", "--log-format", "colored")


def main(host: str, port: str) -> int:
    """Start them and wait: 0 when told to end, 1 when one of them has ended by itself."""
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taxi-dev-")))
        started: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(_end, started)
        try:
            code = folder / "code"
            serve = ("code-server", "start", "--log-level", "warning", "--socket", str(code))
            ours = ("-m", LOCATION, "-d", str(Path.cwd()))
            _start(started, "code server", "dagster", *serve, *ours)
            while not _listens(code) and not _ended(started):
                time.sleep(0.1)
            workspace = folder / "workspace.yaml"  # JSON is YAML
            server = {"socket": str(code), "location_name": LOCATION}
            workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
            where = ("-w", str(workspace))
            _start(started, "webserver", "taxi_assets.webserver", *where, "-h", host, "-p", port)
            _start(started, "daemon", "dagster._daemon", "run", *LOGS, *where)
            while not (ended := _ended(started)):
                time.sleep(1)
        except KeyboardInterrupt:
            return 0
        for name, status in ended.items():
            print(f"error: the {name} has ended with {status}: see above", file=sys.stderr)
        return 1


def _start(
    started: dict[str, subprocess.Popen[bytes]], name: str, module: str, *arguments: str
) -> None:
    """A process that keeps what this one may hand down: the home's lock of `dev`.

    On Linux it ends with this one, however that ends: nobody would know of it else.
    """
    command = [sys.executable, "-m", "taxi_assets.dagster_process", module, *arguments]
    ends_too = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    started[name] = subprocess.Popen([*ends_too, *command], close_fds=False)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _ended(started: Mapping[str, subprocess.Popen[bytes]]) -> dict[str, int]:
    """Name → exit status of those that have ended."""
    found = {name: process.poll() for name, process in started.items()}
    return {name: status for name, status in found.items() if status is not None}


def _end(started: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """End all of them, whatever this process is told meanwhile."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for process in started.values():
        process.terminate()
    deadline = time.monotonic() + ENDS_WITHIN
    while len(_ended(started)) < len(started) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in started.values():
        if process.poll() is None:
            process.kill()
        process.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
