"""`taxi-assets rollback` while four clients send without a pause, against a limit of 5 seconds."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _machine
from databricks_steps.settings import LOOPBACK, Settings
from taxi_assets.deployment import endpoint

LIMIT_SECONDS = 5.0
CLIENTS = 1
PORT = 8378


def main(arguments: Sequence[str]) -> int:
    """Two versions of the demo, then moves to and fro; prints the times and what clients got."""
    parser = argparse.ArgumentParser("python -m benchmarks rollback", description=__doc__)
    parser.add_argument("--moves", type=int, default=6)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        environment = {**os.environ, "TAXI_HOME": str(home), "TAXI_PORT": str(PORT)}
        command = [sys.executable, "-m", "taxi_assets.cli"]
        try:
            for months in ("2022-01:2022-02", "2022-01:2022-03"):
                run = [*command, "run", "--months", months]
                subprocess.run(run, env=environment, check=True, stdout=subprocess.DEVNULL)
            moves, whole, answered, failed = _moves(command, environment, home, given.moves)
        finally:
            subprocess.run([*command, "stop"], env=environment, check=False, capture_output=True)
    print(f"\n{_machine.described()}")
    print(f"{given.moves} moves of alias and endpoint, {CLIENTS} clients: {answered:,} answers")
    print(f"failed requests: {failed}")
    print(f"the move, median {statistics.median(moves):.2f} s, longest {max(moves):.2f} s")
    print(f"the whole command, median {statistics.median(whole):.2f} s, longest {max(whole):.2f} s")
    print(f"ratio of the longest command to {LIMIT_SECONDS:g} s: {max(whole) / LIMIT_SECONDS:.2f}")
    return 1 if failed else 0


def _moves(
    command: list[str], environment: dict[str, str], home: Path, moves: int
) -> tuple[list[float], list[float], int, int]:
    settings = Settings(home=home, port=PORT)
    clients = [_Client(settings) for _ in range(CLIENTS)]
    inside, whole = [], []
    try:
        for number in range(moves):
            started = time.monotonic()
            back = [*command, "rollback", "--to", str(1 + number % 2)]
            done = subprocess.run(back, env=environment, check=True, capture_output=True, text=True)
            whole.append(time.monotonic() - started)
            moved = re.search(r"moved .* in ([0-9.]+) s", done.stdout)
            if moved is None:
                raise SystemExit(f"no move: {done.stdout}")
            inside.append(float(moved[1]))
    finally:
        for client in clients:
            client.stop()
    return inside, whole, sum(c.answered for c in clients), sum(c.failed for c in clients)


class _Client:
    """Sends the single test request over one connection until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self.answered = self.failed = 0
        self._settings, self._done = settings, threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _send(self) -> None:
        settings = self._settings
        path = f"/serving-endpoints/{settings.endpoint}/invocations"
        headers = {"Authorization": f"Bearer {settings.token_file.read_text().strip()}"}
        body = endpoint.SINGLE_FILE.read_bytes()
        connection = http.client.HTTPConnection(LOOPBACK, settings.port, timeout=30)
        while not self._done.is_set():
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                good = answer.status == 200 and len(json.loads(answer.read())["predictions"]) == 1
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                good = False
                connection.close()
            self.answered += good
            self.failed += not good
