"""Both feature steps on one month and on many, by one engine, in a process of its own.

Usage: python -m benchmarks._feature_sizes HOME ENGINE MEMORY FIRST ROWS MONTHS, prints JSON: trips
and seconds of both sizes, and the most memory of all processes in GiB.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from benchmarks import _machine, _trips
from databricks_steps.months import between, shift
from databricks_steps.steps import STEPS

TABLES = ("pickup_features", "dropoff_features")


def main(home: str, engine: str, memory: str, first: str, rows: str, count: str) -> None:
    on = _trips.platform(Path(home), memory, engine)
    peak = _machine.Peak(os.getpid())
    trips, seconds = [], []
    for months in (between(first, first), between(first, shift(first, int(count) - 1))):
        held = on.tables.months("trips")
        _trips.store(on, [month for month in months if month not in held], int(rows))
        trips.append(on.tables.rows("trips", months))
        started = time.monotonic()
        with peak:
            for name in TABLES:
                (outcome,) = STEPS[name].run(on, months, True)
                assert all(verdict.passed for verdict in outcome.verdicts), outcome
        seconds.append(time.monotonic() - started)
    print(json.dumps({"trips": trips, "seconds": seconds, "gib": peak.gib}))


if __name__ == "__main__":
    main(*sys.argv[1:])
