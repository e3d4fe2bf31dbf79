"""The main job on the three green months of 2022: on Sail, on Spark in a JVM, against polars."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _environments, _machine
from databricks_steps.months import parse
from databricks_steps.settings import JVM, SAIL
from databricks_steps.steps import STEPS

MONTHS = "2022-01:2022-03"
DATA_STEPS = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set")
MOST_OF_SPARK, MOST_CPU_SECONDS, MOST_OF_POLARS, MOST_GIB = 0.42, 70, 5, 4
ROUNDS = 3  # of the polars process, which takes no longer than its imports on a bad day


@dataclass(frozen=True)
class Run:
    """What one run of the main job took; `report` is its `last_run.json`."""

    seconds: float
    cpu: float
    gib: float
    report: dict[str, Any]

    def of(self, steps: Sequence[str]) -> float:
        return sum(s["seconds"] for s in self.report["stages"] if s["name"] in steps)


def main(arguments: Sequence[str]) -> int:
    """Print the stages, and the ratios to Spark in a JVM and to polars, of one run of each."""
    parser = argparse.ArgumentParser("python -m benchmarks pipeline", description=__doc__)
    data = os.environ.get("TAXI_REAL_DATA", "../shared/data")
    parser.add_argument("--source", default=f"{data}/tlc/green")
    parser.add_argument("--months", default=MONTHS)
    parser.add_argument("--python", help="one that has polars; default: made for this run")
    parser.add_argument("--alone", action="store_true", help="Sail's run, without its peers")
    given = parser.parse_args(arguments)
    _environments.compile_packages()
    with tempfile.TemporaryDirectory() as folder:
        sail = run(Path(folder) / "sail", SAIL, given.source, given.months)
        print(f"\n{_machine.described()}")
        for stage in sorted(sail.report["stages"], key=lambda stage: -stage["seconds"]):
            print(f"  {stage['name']:<42}{stage['seconds']:7.1f} s")
        computing = sail.of(tuple(STEPS))
        print(f"Sail: {sail.seconds:.1f} s, {sail.cpu:.0f} CPU seconds; {MOST_CPU_SECONDS} allowed")
        print(f"not spent in steps: {1 - computing / sail.seconds:.0%}")
        print(f"all processes at most {sail.gib:.2f} GiB; limit {MOST_GIB} GiB")
        if given.alone:
            return 0
        spark = run(Path(folder) / "spark", JVM, given.source, given.months)
        print(
            f"Spark in a JVM: {spark.seconds:.1f} s, {spark.cpu:.0f} CPU seconds; Sail takes "
            f"{sail.seconds / spark.seconds:.2f} of it; at most {MOST_OF_SPARK} wanted"
        )
        python = given.python or _environments.python_with("polars", Path(folder))
        polars, rows = min(
            (by_polars(python, given.source, given.months, Path(folder)) for _ in range(ROUNDS)),
            key=lambda found: found[0],
        )
        ours = sail.of(DATA_STEPS)
        same = all(sail.report["tables"].get(name) == count for name, count in rows.items())
    print(
        f"data steps with their checks: Sail {ours:.1f} s, Spark {spark.of(DATA_STEPS):.1f} s; "
        f"polars {polars:.2f} s, to {'the same' if same else 'OTHER'} numbers of rows"
    )
    print(f"Sail takes {ours / polars:.1f} times the polars process; {MOST_OF_POLARS} allowed")
    return 0


def run(home: Path, engine: str, source: str, months: str) -> Run:
    """The main job on an empty home."""
    environment = {
        **os.environ,
        "TAXI_HOME": str(home),
        "TAXI_PORT": "8377",
        "TAXI_SPARK": engine,
    }
    command = [sys.executable, "-m", "taxi_assets.cli"]
    words = [*command, "run", "--source", source, "--months", months]
    started = time.monotonic()
    process = subprocess.Popen(words, env=environment)
    with _machine.Peak(process.pid) as peak:
        code = process.wait()
    seconds = time.monotonic() - started
    subprocess.run([*command, "stop"], env=environment, check=False, capture_output=True)
    if code:
        raise SystemExit(code)
    return Run(seconds, peak.cpu, peak.gib, json.loads((home / "last_run.json").read_text()))


def by_polars(python: str, source: str, months: str, folder: Path) -> tuple[float, dict[str, int]]:
    """Seconds of the polars process, its start included, and table → rows."""
    out = folder / "polars_tables"
    out.mkdir(exist_ok=True)
    script = Path(__file__).with_name("_polars_steps.py")
    started = time.monotonic()
    done = subprocess.run(
        [python, str(script), source, str(out), *parse(months)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return time.monotonic() - started, json.loads(done.stdout)
