"""Requests at a steady rate for minutes, while backups, vacuums and runs go on beside them."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deltalake import DeltaTable

from benchmarks import _machine, _served
from databricks_steps.settings import LOOPBACK, Settings
from taxi_assets.deployment import endpoint

CLIENTS = 3
MONTHS = "2022-01:2022-02"
MOST_GROWTH = 1.1  # of the server's memory, from the second minute on


def main(arguments: Sequence[str]) -> int:
    """Print what failed, the server's memory by the minute, and the counts of a restored home."""
    parser = argparse.ArgumentParser("python -m benchmarks endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second")
    given = parser.parse_args(arguments)
    print(_machine.described(), flush=True)
    with _served.endpoint(MONTHS) as settings:
        before = _captured(settings)
        end = time.monotonic() + 60 * given.minutes
        clients = [_Client(settings, given.rate / CLIENTS, end) for _ in range(CLIENTS)]
        beside = _Beside(settings, end)
        memory = _watched(settings, clients, end)
        for thread in (*clients, beside):
            thread.join()
        restored = settings.home.with_name("restored")
        _restore(settings, restored)
        counts = [_captured(settings), _captured(replace(settings, home=restored))]
    answered, failed = (sum(getattr(c, n) for c in clients) for n in ("answered", "failed"))
    late = max(client.latest for client in clients)
    growth = memory[-1] / memory[min(1, len(memory) - 1)]
    print(f"{answered:,} answered, {answered / 60 / given.minutes:.0f} a second, {failed} failed")
    print(f"beside: {', '.join(f'{n} {name}s' for name, n in beside.done.items())}; {beside.told}")
    print(f"the slowest answer: {late * 1000:.0f} ms")
    print(f"memory of the server, of its second minute: {growth:.2f}; at most {MOST_GROWTH} wanted")
    print(f"captured {counts[0] - before:,}, restored {counts[1]:,}; both as many wanted")
    sound = counts[0] == counts[1] and counts[0] - before == answered
    return int(failed > 0 or growth > MOST_GROWTH or not sound or beside.failed)


class _Client(threading.Thread):
    """Sends the single test request over one connection, so many a second."""

    def __init__(self, settings: Settings, rate: float, end: float) -> None:
        super().__init__()
        self.answered = self.failed = 0
        self.latest = 0.0
        self._settings, self._rate, self._end = settings, rate, end
        self.start()

    def run(self) -> None:
        path = f"/serving-endpoints/{self._settings.endpoint}/invocations"
        token = self._settings.token_file.read_text().strip()
        head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        asked = json.loads(endpoint.SINGLE_FILE.read_text(encoding="utf-8"))
        body = json.dumps({**asked, "client_request_id": "endurance"})
        connection = http.client.HTTPConnection(LOOPBACK, self._settings.port, timeout=30)
        due = time.monotonic()
        while due < self._end:
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / self._rate
            started = time.monotonic()
            try:
                connection.request("POST", path, body, head)
                answer = connection.getresponse()
                answer.read()
                good = answer.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                good = False
            self.latest = max(self.latest, time.monotonic() - started)
            self.answered, self.failed = self.answered + good, self.failed + (not good)


class _Beside(threading.Thread):
    """Backup, vacuum and a run, one after another, until the end."""

    def __init__(self, settings: Settings, end: float) -> None:
        super().__init__()
        self.done = {"backup": 0, "vacuum": 0, "run": 0}
        self.failed, self.told = False, "all well"
        self._settings, self._end = settings, end
        self.start()

    def run(self) -> None:
        file = self._settings.home.with_name("beside.tar.gz")
        try:
            while time.monotonic() < self._end:
                file.unlink(missing_ok=True)
                for words in (("backup", str(file)), ("vacuum",), ("run", "--months", MONTHS)):
                    _command(self._settings, *words)
                    self.done[words[0]] += 1
        except SystemExit as error:  # in a thread nobody would hear of it
            self.failed, self.told = True, str(error)


def _command(settings: Settings, *words: str) -> str:
    environment = {
        **os.environ,
        "TAXI_HOME": str(settings.home),
        "TAXI_PORT": str(settings.port),
    }
    done = subprocess.run(
        [*_served.CLI, *words], env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _watched(settings: Settings, clients: Sequence[_Client], end: float) -> list[float]:
    """The server's memory in MiB at the end of each minute."""
    pid = json.loads(settings.workspace_file.read_text())["pid"]
    found, minute = [], time.monotonic()
    while (minute := minute + 60) <= end + 1:
        time.sleep(max(0.0, min(minute, end) - time.monotonic()))
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        found.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        asked, failed = (sum(getattr(c, n) for c in clients) for n in ("answered", "failed"))
        told = f"minute {len(found)}: {found[-1]:.0f} MiB, {asked:,} answered, {failed} failed"
        print(told, flush=True)
    return found or [1.0]


def _captured(settings: Settings) -> int:
    """Rows of the table of captured requests that the clients here have sent."""
    root = settings.table_path(settings.payload_table)
    if not DeltaTable.is_deltatable(str(root)):
        return 0
    ids = DeltaTable(str(root)).to_pyarrow_table(columns=["client_request_id"])
    return int(sum(name == "endurance" for name in ids.column(0).to_pylist()))


def _restore(settings: Settings, restored: Path) -> None:
    """Stop the workspace, which writes what it holds, and restore a backup of it elsewhere."""
    _command(settings, "stop")
    file = settings.home.with_name("end.tar.gz")
    _command(settings, "backup", str(file))
    _command(replace(settings, home=restored), "restore", str(file))
