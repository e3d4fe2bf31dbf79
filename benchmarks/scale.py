"""Month after month in one home: what the last of many months costs, against the first ones."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from benchmarks import _machine
from databricks_steps.months import shift
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS
from databricks_steps.trips.demo import demo_trips

FIRST = "2009-01"
WANTED = 1.2  # times the first months' seconds
WARM = 3  # months before the first that counts: the champion learns from them
COMPARED = 6  # months at either end
JUDGED = ("batch_predictions", "drift_report")
EACH = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set")


def main(arguments: Sequence[str]) -> int:
    """Print for each step the median seconds of the first and the last months, and the ratio."""
    parser = argparse.ArgumentParser("python -m benchmarks scale", description=__doc__)
    parser.add_argument("--months", type=int, default=180)
    parser.add_argument("--rows", type=int, default=5_000, help="trips of each month")
    given = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, _machine.Peak(os.getpid()) as peak:
        source, home = Path(folder) / "source", Path(folder) / "home"
        source.mkdir()
        on = EmbeddedPlatform(Settings(home=home, source=str(source)))
        for name, took in lived(on, source, given.months, given.rows):
            seconds[name].append(took)
        files = sum(1 for each in home.rglob("*.parquet"))
        size = sum(each.stat().st_size for each in home.rglob("*") if each.is_file())
    print(_machine.described())
    print(f"{given.months} months of {given.rows:,} trips; seconds, medians of {COMPARED} months")
    whole = [sum(each) for each in zip(*seconds.values(), strict=True)]
    for name, each in {**seconds, "all of these": whole}.items():
        first, last = median(each[WARM : WARM + COMPARED]), median(each[-COMPARED:])
        print(f"  {name:<20}{first:7.2f}{last:7.2f}  {last / first:5.2f} times")
    ratio = median(whole[-COMPARED:]) / median(whole[WARM : WARM + COMPARED])
    print(f"the last months against the first: {ratio:.2f}; at most {WANTED} wanted")
    print(f"{files:,} parquet files, {size / 2**20:,.0f} MiB, memory at most {peak.gib:.2f} GiB")
    return 0


def lived(
    on: EmbeddedPlatform, source: Path, months: int, rows: int
) -> Iterator[tuple[str, float]]:
    """Step and its seconds, month by month; a model is trained once."""
    for number in range(months):
        month = shift(FIRST, number)
        pq.write_table(demo_trips(month, rows), source / f"green_tripdata_{month}.parquet")
        steps = (*EACH, *(("fare_model", "champion_model") if number == WARM - 1 else ()))
        for name in (*steps, *(JUDGED if number >= WARM - 1 else ())):
            started = time.perf_counter()
            STEPS[name].run(on, [month], False)
            if name in (*EACH, *JUDGED):
                yield name, time.perf_counter() - started
        if number < WARM - 1:
            yield from ((name, 0.0) for name in JUDGED)
        print(f"{month} of {months}", end="\r", flush=True)
