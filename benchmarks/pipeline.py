"""The whole main job on the three green months of 2022, against a limit of 120 seconds."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _machine
from databricks_steps.steps import STEPS

LIMIT_SECONDS = 120
DRIVER_LIMIT_GIB = 4
MONTHS = "2022-01:2022-03"
# Stages that wait for Spark or the fit; the rest is overhead of ours.
COMPUTING = tuple(STEPS)


def main(arguments: Sequence[str]) -> int:
    """Print the stage times, the total as a ratio to the limit, and the peak memory."""
    parser = argparse.ArgumentParser("python -m benchmarks pipeline", description=__doc__)
    data = os.environ.get("TAXI_REAL_DATA", "../shared/data")
    parser.add_argument("--source", default=f"{data}/tlc/green")
    parser.add_argument("--months", default=MONTHS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        environment = {**os.environ, "TAXI_HOME": str(home), "TAXI_PORT": "8377"}
        command = [sys.executable, "-m", "taxi_assets.cli"]
        started = time.monotonic()
        run = subprocess.Popen(
            [*command, "run", "--source", given.source, "--months", given.months],
            env=environment,
        )
        with _machine.Peak(run.pid) as peak:
            code = run.wait()
        seconds = time.monotonic() - started
        subprocess.run([*command, "stop"], env=environment, check=False, capture_output=True)
        if code:
            return code
        report = json.loads((home / "last_run.json").read_text())
    stages = sorted(report["stages"], key=lambda stage: -stage["seconds"])
    computing = sum(s["seconds"] for s in stages if s["name"] in COMPUTING)
    print(f"\n{_machine.described()}")
    for stage in stages:
        print(f"  {stage['name']:<42}{stage['seconds']:7.1f} s")
    print(
        f"total {seconds:.1f} s; ratio to the limit of {LIMIT_SECONDS} s: "
        f"{seconds / LIMIT_SECONDS:.2f}"
    )
    print(f"not spent in steps of Spark or the fit: {1 - computing / seconds:.0%}")
    print(f"driver, Python and JVM, at most {peak.gib:.2f} GiB; limit {DRIVER_LIMIT_GIB} GiB")
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor time {children.ru_utime + children.ru_stime:.0f} s")
    return 0
