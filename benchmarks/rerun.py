"""A run in which nothing changed, against the cold run before it; the light commands beside."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from benchmarks import _machine
from taxi_assets.deployment.endpoint import SINGLE_FILE

MONTHS = "2022-01:2022-03"
MOST_SECONDS, MOST_OF_COLD = 5.0, 1 / 6
MOST_CPU = {"status": 1.5, "query": 0.7}
ROUNDS = 3


def main(arguments: Sequence[str]) -> int:
    """Print the seconds of each, and what changed on disk between two runs without news."""
    parser = argparse.ArgumentParser("python -m benchmarks rerun", description=__doc__)
    data = os.environ.get("TAXI_REAL_DATA", "../shared/data")
    parser.add_argument("--source", default=f"{data}/tlc/green")
    parser.add_argument("--months", default=MONTHS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        run = ("run", "--source", given.source, "--months", given.months)
        try:
            cold, _ = taxi_assets(home, *run)
            taxi_assets(home, *run)  # a cold run leaves requests that the next one has to leave out
            before = state(home)
            found = [taxi_assets(home, *run) for _ in range(ROUNDS)]
            changed = sorted(name for name, at in state(home).items() if before.get(name) != at)
            light = {
                "status": [taxi_assets(home, "status") for _ in range(ROUNDS)],
                "query": [taxi_assets(home, "query", str(SINGLE_FILE)) for _ in range(ROUNDS)],
            }
        finally:
            taxi_assets(home, "stop")
    print(_machine.described())
    seconds, cpu = min(found)
    print(f"cold run {cold:.1f} s; nothing changed {seconds:.1f} s, {cpu:.1f} CPU seconds")
    print(f"of {ROUNDS} runs the fastest; at most {MOST_SECONDS:g} s wanted")
    print(f"of the cold run: {seconds / cold:.2f}; at most {MOST_OF_COLD:.2f} wanted")
    print(f"tables, reports and kept figures that {ROUNDS} runs changed: {changed or 'none'}")
    for name, runs in light.items():
        seconds, cpu = min(runs)
        print(f"{name}: {seconds:.2f} s, {cpu:.2f} CPU seconds; at most {MOST_CPU[name]} wanted")
    return 0


def taxi_assets(home: Path, *words: str) -> tuple[float, float]:
    """Seconds and processor seconds of a command; processes that stay are not counted."""
    environment = {**os.environ, "TAXI_HOME": str(home), "TAXI_PORT": "8378"}
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "taxi_assets.cli", *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, cpu


def state(home: Path) -> dict[str, Any]:
    """Version of every Delta table on disk, and when reports and kept figures were written."""
    tables = {log.parent.name: DeltaTable(log.parent).version() for log in home.rglob("_delta_log")}
    files = [f for name in ("reports", "check_cache") for f in (home / name).rglob("*")]
    return tables | {file.name: file.stat().st_mtime_ns for file in files}
