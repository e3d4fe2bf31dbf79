"""Both feature tables against the notebook template's sliding windows; long windows, many trips."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _machine, _trips
from databricks_steps import schemas
from databricks_steps.features import windows
from databricks_steps.features.dropoff import dropoff_features
from databricks_steps.features.pickup import pickup_features
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import JVM, SAIL, Settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    Maker = Callable[[DataFrame, Sequence[str]], DataFrame]

FIRST = "2022-01"
MONTH_ROWS = 3_200_000  # as published; a little over three million are valid
DRIVER_MEMORY = "2600m"  # the heap; with all else the driver is to stay below the limit
DRIVER_LIMIT_GIB = 4
SAMPLED = 100  # one trip in so many is enough to compare rows
STOPPED_AT = 15  # times what ours takes
LEAST_SPEED, MOST_BY_WINDOW, MOST_BY_SIZE = 10.0, 1.2, 1.5
MAKERS = {"pickup_features": pickup_features, "dropoff_features": dropoff_features}


def main(arguments: Sequence[str]) -> int:
    """Print ratios: to the template's method, of window lengths, of a busy zone, of sizes."""
    parser = argparse.ArgumentParser("python -m benchmarks features", description=__doc__)
    parser.add_argument("--rows", type=int, default=MONTH_ROWS, help="published trips a month")
    parser.add_argument("--months", type=int, default=12, help="of the large run")
    parts = {"template": against_template, "window": by_window, "skew": by_skew}
    choices = (*parts, "size")
    parser.add_argument("--part", choices=choices, action="append", help="default: all")
    given = parser.parse_args(arguments)
    print(_machine.described())
    chosen = given.part or choices
    with tempfile.TemporaryDirectory() as folder:
        if set(chosen) & set(parts):
            on = _trips.platform(Path(folder), DRIVER_MEMORY)
            trips = _trips.store(on, [FIRST], given.rows)
            print(f"{trips:,} trips of a month, {given.rows:,} as published")
            for part in chosen:
                if part in parts:
                    parts[part](on)
        if "size" in chosen:
            by_size(Path(folder), given.rows, given.months)
    return 0


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def by_window(on: EmbeddedPlatform) -> None:
    """One sum over a window of seven days, against the same over an hour; best of three."""
    trips = on.tables.read("trips", [FIRST])

    def run(window: windows.timedelta) -> float:
        cells = windows.cells(trips, "pickup_location_id", flow=0)
        sums = [windows.WindowSum("fares", "microdollars", window)]
        rows = windows.running_sums([windows.changes(cells, sums)], [FIRST])
        return timed(rows.write.format("noop").mode("overwrite").save)

    run(windows.HOUR)  # warms up
    hour, week = (min(run(w) for _ in range(3)) for w in (windows.HOUR, windows.WEEK))
    print(
        f"one sum: window of an hour {hour:.2f} s, of seven days {week:.2f} s, "
        f"{week / hour:.2f} times; at most {MOST_BY_WINDOW:g} wanted"
    )


def by_skew(on: EmbeddedPlatform) -> None:
    """Nine trips of ten from and to one zone, against the city as it is; best of three."""
    from pyspark.sql import functions as F

    trips = on.tables.read("trips", [FIRST])
    moved = F.pmod(F.xxhash64("trip_id"), F.lit(10)) > 0
    busy = trips.withColumns(
        {
            n: F.when(moved, F.lit(74)).otherwise(F.col(n)).cast("int")
            for n in ("pickup_location_id", "dropoff_location_id")
        }
    )

    def run(given: DataFrame) -> float:
        frames = (make(given, [FIRST]) for make in MAKERS.values())
        return sum(timed(rows.write.format("noop").mode("overwrite").save) for rows in frames)

    even, skewed = (min(run(given) for _ in range(3)) for given in (trips, busy))
    print(f"both tables {even:.1f} s; nine trips of ten in one zone {skewed:.1f} s")


def by_size(folder: Path, rows: int, count: int) -> None:
    """Both steps, with their Delta tables and checks, on a month and on a year, by each engine."""
    homes = {SAIL: folder / "sail", JVM: folder / "jvm"}
    seconds = {}
    for engine, home in homes.items():
        if engine != SAIL:  # the same trips: their files are linked, not made again
            shutil.copytree(homes[SAIL], home, copy_function=os.link, ignore=_features_and_logs)
        script = Path(__file__).with_name("_feature_sizes.py").stem
        words = [sys.executable, "-m", f"benchmarks.{script}", str(home), engine, DRIVER_MEMORY]
        done = subprocess.run(
            [*words, FIRST, str(rows), str(count)], check=True, stdout=subprocess.PIPE, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        seconds[engine] = found["seconds"]
        trips, per_million = (
            found["trips"],
            [s / t * 1e6 for s, t in zip(found["seconds"], found["trips"], strict=True)],
        )
        print(
            f"{engine}: {trips[0]:,} and {trips[1]:,} trips in {found['seconds'][0]:.1f} and "
            f"{found['seconds'][1]:.1f} s"
        )
        print(
            f"  seconds for a million trips: {per_million[0]:.2f}, and {per_million[1]:.2f} of "
            f"{count} months, {per_million[1] / per_million[0]:.2f} times; at most "
            f"{MOST_BY_SIZE:g} wanted"
        )
        print(f"  all processes at most {found['gib']:.2f} GiB; limit {DRIVER_LIMIT_GIB} GiB")
    ratios = [s / j for s, j in zip(seconds[SAIL], seconds[JVM], strict=True)]
    print(f"Sail takes {ratios[0]:.2f} and {ratios[1]:.2f} of the time of Spark in a JVM")
    for name in MAKERS:
        one, other = (_of_files(home, name) for home in homes.values())
        print(f"{name}: {one[0]:,} rows, {'equal' if one == other else f'NOT EQUAL: {other}'}")


def _features_and_logs(folder: str, names: list[str]) -> set[str]:
    return {*MAKERS, "logs", "scratch"} & set(names)


def _of_files(home: Path, name: str) -> tuple[int, str]:
    """Rows of a table and a sum over their hashes, by DuckDB: neither engine judges itself."""
    import duckdb
    from deltalake import DeltaTable

    table = schemas.TABLES[name]
    uris = DeltaTable(str(Settings(home=home).table_path(name))).file_uris()
    columns = ", ".join(c for c in table.names if c not in (*table.computed, table.month))
    ((rows, total),) = duckdb.sql(
        f"SELECT count(*), sum(hash({columns})::HUGEINT)::VARCHAR FROM read_parquet({uris})"
    ).fetchall()
    return int(rows), str(total)


def against_template(on: EmbeddedPlatform) -> None:
    """The whole feature set both ways: the rows of a sample compared, all trips timed.

    At full size sliding windows take the better part of an hour, so they are stopped once they
    are slower by more than is asked; the ratio is then a lower bound.
    """
    from pyspark.sql import functions as F

    trips = on.tables.read("trips", [FIRST])
    sample = trips.where(F.pmod(F.xxhash64("trip_id"), F.lit(SAMPLED)) == 0)
    for name, make in MAKERS.items():
        made, peer = _both(on, name, make, sample)
        wrong = differences(schemas.TABLES[name], made, peer)
        print(f"{name} of 1 in {SAMPLED} trips: {made.count():,} rows, {wrong:,} of them differ")
    ours = theirs = 0.0
    for name, make in MAKERS.items():
        rows = make(trips, [FIRST])
        path = str(on.settings.home / f"ours_{name}")
        taken = min(timed(partial(rows.write.mode("overwrite").parquet, path)) for _ in range(2))
        instants = on.spark.read.parquet(path).select("location_id", "known_at")
        limit = STOPPED_AT * taken
        slow = _until(on, limit, TEMPLATE[name](trips, instants))
        stopped = ", when it was stopped" if slow >= limit else ""
        print(f"{name} of all: {taken:.1f} s; sliding windows {slow:.1f} s{stopped}")
        ours, theirs = ours + taken, theirs + slow
    print(f"at least {theirs / ours:.1f} times as fast as sliding windows; {LEAST_SPEED:g} wanted")


def _both(
    on: EmbeddedPlatform, name: str, make: Maker, trips: DataFrame
) -> tuple[DataFrame, DataFrame]:
    """The rows of either method, computed."""
    made = make(trips, [FIRST]).cache()
    made.count()
    return made, TEMPLATE[name](trips, made.select("location_id", "known_at")).cache()


def _until(on: EmbeddedPlatform, limit: float, rows: DataFrame) -> float:
    """Seconds to compute the rows, which are given up at the limit."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    context, group = on.spark.sparkContext, "sliding windows"
    context.setJobGroup(group, group, interruptOnCancel=True)
    timer = threading.Timer(limit, context.cancelJobGroup, [group])
    timer.start()
    started = time.monotonic()
    try:
        rows.write.format("noop").mode("overwrite").save()
    except (Py4JError, PySparkException):
        if time.monotonic() - started < limit:
            raise
    finally:
        timer.cancel()
    return time.monotonic() - started


def differences(table: schemas.Table, one: DataFrame, other: DataFrame) -> int:
    """Rows of either side that the other lacks or gives another value."""
    from pyspark.sql import functions as F

    keys = ["location_id", "known_at"]
    pairs = one.alias("a").join(other.alias("b"), keys, "full_outer")
    features = [c.name for c in table.features]
    same = reduce(
        lambda all_so_far, n: (
            all_so_far
            & (
                F.col(f"a.{n}").eqNullSafe(F.col(f"b.{n}"))
                | F.coalesce(F.abs(F.col(f"a.{n}") - F.col(f"b.{n}")) < 1e-6, F.lit(False))
            )
        ),
        features,
        F.lit(True),
    )
    return pairs.where(~same).count()


def _sliding(trips: DataFrame, location: str, window: str, **features: Column) -> DataFrame:
    """The template's method: every trip goes into each of the overlapping windows it is in."""
    from pyspark.sql import functions as F

    slices = F.window("dropoff_datetime", window, "15 minutes")
    grouped = trips.groupBy(F.col(location).alias("location_id"), slices.alias("slice"))
    return (
        grouped.agg(*(column.alias(name) for name, column in features.items()))
        .withColumn("known_at", F.col("slice.end"))
        .drop("slice")
    )


def _template_pickup(trips: DataFrame, instants: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    here, fare, miles = "pickup_location_id", F.col("fare_amount"), F.col("trip_distance")
    seconds = F.unix_seconds("dropoff_datetime") - F.unix_seconds("pickup_datetime")
    count = F.count(F.lit(1))
    hour = _sliding(
        trips,
        here,
        "1 hour",
        pickup_trip_count_1h=count,
        pickup_mean_fare_1h=F.avg(fare),
        pickup_mean_speed_1h=F.sum(miles) / (F.sum(seconds) / 3600),
    )
    day = _sliding(
        trips, here, "24 hours", pickup_trip_count_24h=count, pickup_mean_fare_24h=F.avg(fare)
    )
    week = _sliding(
        trips,
        here,
        "7 days",
        pickup_mean_fare_7d=F.avg(fare),
        pickup_fare_per_mile_7d=F.sum(fare) / F.sum(miles),
    )
    rows = _joined(instants, [hour, day, week])
    airports = [1, 132, 138, 11430, 11371, 7114]
    return _counted(
        rows.withColumn("pickup_is_airport", F.col("location_id").isin(airports).cast("int")),
        schemas.PICKUP_FEATURES,
    )


def _template_dropoff(trips: DataFrame, instants: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    here, fare, miles = "dropoff_location_id", F.col("fare_amount"), F.col("trip_distance")
    count = F.count(F.lit(1))
    frames = [
        _sliding(trips, here, "30 minutes", dropoff_trip_count_30m=count),
        _sliding(
            trips,
            here,
            "24 hours",
            dropoff_trip_count_24h=count,
            dropoff_distinct_pickups_24h=F.countDistinct("pickup_location_id"),
        ),
        _sliding(
            trips,
            here,
            "7 days",
            dropoff_mean_fare_7d=F.avg(fare),
            dropoff_fare_per_mile_7d=F.sum(fare) / F.sum(miles),
        ),
        _sliding(trips, here, "1 hour", arrived=count),
        _sliding(trips, "pickup_location_id", "1 hour", departed=count),
    ]
    flow = F.coalesce("arrived", F.lit(0)) - F.coalesce("departed", F.lit(0))
    rows = _joined(instants, frames).withColumn("dropoff_net_flow_1h", flow)
    return _counted(rows.drop("arrived", "departed"), schemas.DROPOFF_FEATURES)


def _joined(instants: DataFrame, frames: Sequence[DataFrame]) -> DataFrame:
    """The windows at the instants at which a sum changes: the same rows as ours."""
    return reduce(lambda a, b: a.join(b, ["location_id", "known_at"], "left"), frames, instants)


def _counted(rows: DataFrame, table: schemas.Table) -> DataFrame:
    """Where a window is empty, its counts are zero."""
    return rows.fillna(0, [c.name for c in table.features if c.type == "long"])


TEMPLATE = {"pickup_features": _template_pickup, "dropoff_features": _template_dropoff}
