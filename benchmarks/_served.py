"""A home with a demo model, its endpoint at work, and the ways to put load on it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from databricks_steps.settings import LOOPBACK, Settings

PORT = 8379
CLI = [sys.executable, "-m", "taxi_assets.cli"]
_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {token}"
done = function(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), bad))
end
"""


@dataclass(frozen=True)
class Load:
    """What a server did under load: answers a second, milliseconds, and failed requests."""

    rate: float
    p50: float
    p99: float
    failed: int


@contextmanager
def endpoint(months: str = "2022-01:2022-02", given: Path | None = None) -> Iterator[Settings]:
    """A running workspace whose endpoint serves a model of demo trips; gone afterwards.

    `given` is a home that holds such a model already; it is copied.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home", port=PORT)
        environment = {**os.environ, "TAXI_HOME": str(settings.home), "TAXI_PORT": str(PORT)}
        try:
            if given is not None:
                shutil.copytree(given, settings.home)
                command = [*CLI, "serve"]
            else:
                command = [*CLI, "run", "--months", months]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            yield settings
        finally:
            subprocess.run([*CLI, "stop"], env=environment, check=False, capture_output=True)


def load(
    url: str, body: Mapping[str, object], connections: int, seconds: int, token: str = ""
) -> Load:
    """Load by wrk on one thread, which leaves the other core to the server.

    Raises:
        SystemExit: there is no wrk.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("this benchmark needs the load tool wrk: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        quoted = f"[==[{json.dumps(body)}]==]"
        script.write(_SCRIPT.replace("{body}", quoted).replace("{token}", token))
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
        done = subprocess.run(
            [*command, "-s", script.name, url], check=True, capture_output=True, text=True
        )
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise SystemExit(f"wrk said nothing: {done.stdout} {done.stderr}")
    requests, micros, p50, p99, failed = (int(text) for text in found.groups())
    return Load(requests / micros * 1e6, p50 / 1000, p99 / 1000, failed)


def await_answer(port: int, path: str, seconds: float = 120) -> None:
    """Wait until a server answers, whatever it says."""
    deadline = time.monotonic() + seconds
    while True:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
            return
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        finally:
            connection.close()


def median(loads: list[Load]) -> Load:
    """The run with the median rate."""
    middle = statistics.median_low([each.rate for each in loads])
    return next(each for each in loads if each.rate == middle)
