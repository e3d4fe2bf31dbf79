"""As-of lookups against the union-and-last-value method, on 3 and 12 million demo trips."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _machine, _trips
from databricks_steps.features.dropoff import dropoff_features
from databricks_steps.features.lookups import LOOKUPS, Lookup
from databricks_steps.features.pickup import pickup_features
from databricks_steps.features.point_in_time import with_features
from databricks_steps.months import between, shift
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MONTH_ROWS = 3_200_000  # as published; a little over three million are valid
LOOKBACK = timedelta(days=7)
MOST_GROWTH = 5.0  # of the time, for four times the trips
COLUMNS = ("trip_id", "pickup_datetime", "pickup_location_id", "dropoff_location_id")
LookUp = Callable[["DataFrame", "DataFrame", Lookup], "DataFrame"]


def main(arguments: Sequence[str]) -> int:
    """Print both methods' times at both sizes, whether their rows are the same, and the growth."""
    parser = argparse.ArgumentParser("python -m benchmarks point_in_time", description=__doc__)
    parser.add_argument("--rows", type=int, default=MONTH_ROWS, help="published trips a month")
    given = parser.parse_args(arguments)
    print(_machine.described())
    ours: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        on = _trips.platform(Path(folder))
        for months in (1, 4):
            ours[months] = _compared(
                on, between("2022-01", shift("2022-01", months - 1)), given.rows
            )
    growth = ours[4] / ours[1]
    print(f"four times the trips take {growth:.1f} times as long; at most {MOST_GROWTH:g} wanted")
    return 0


def _compared(on: EmbeddedPlatform, months: Sequence[str], rows: int) -> float:
    held = on.tables.months("trips")
    _trips.store(on, [m for m in months if m not in held], rows)
    trips = on.tables.read("trips", months).select(*COLUMNS)
    features = {}
    for name, make in (("pickup", pickup_features), ("dropoff", dropoff_features)):
        path = str(on.settings.home / f"{name}_{len(months)}")
        make(on.tables.read("trips", months), months).write.mode("overwrite").parquet(path)
        features[f"{name}_features"] = on.spark.read.parquet(path)
    methods: dict[str, LookUp] = {
        "equi-join on the grid": lambda t, f, x: with_features(t, f, x, LOOKBACK),
        "union and last value": union_and_last_value,
    }
    seconds: dict[str, float] = {}
    sums: dict[str, object] = {}
    for _ in range(2):  # the first warms up
        for name, method in methods.items():
            started = time.monotonic()
            looked_up = trips
            for lookup in LOOKUPS:
                looked_up = method(looked_up, features[lookup.table.name], lookup)
            looked_up.write.format("noop").mode("overwrite").save()
            seconds[name] = time.monotonic() - started
            if name not in sums:
                sums[name] = _trips.fingerprint(looked_up)
    count = on.tables.rows("trips", months)
    same = "identical rows" if len(set(map(str, sums.values()))) == 1 else "ROWS DIFFER"
    for name, taken in seconds.items():
        print(f"{count:>12,} trips, both lookups, {name:<24}{taken:7.1f} s")
    first, second = seconds.values()
    print(f"{count:>12,} trips: {second / first:.1f} times as fast as union and last value; {same}")
    return first


def union_and_last_value(trips: DataFrame, rows: DataFrame, lookup: Lookup) -> DataFrame:
    """The usual method: trips and feature rows in one frame, sorted by key and time."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    asked = trips.select(
        *trips.columns,
        F.col(lookup.key).alias("_key"),
        F.col(lookup.at).alias("_time"),
        F.lit(1).alias("_asked"),
    )
    known = rows.select(
        F.col("location_id").alias("_key"),
        F.col("known_at").alias("_time"),
        F.lit(0).alias("_asked"),
        F.struct("known_at", *lookup.features).alias("_row"),
    )
    past = (
        Window.partitionBy("_key")
        .orderBy("_time", "_asked")
        .rowsBetween(Window.unboundedPreceding, 0)
    )
    both = asked.unionByName(known, allowMissingColumns=True)
    latest = both.withColumn("_row", F.last("_row", ignorenulls=True).over(past)).where(
        "_asked = 1"
    )
    age = F.unix_micros("_time") - F.unix_micros("_row.known_at")
    fresh = F.coalesce(age <= int(LOOKBACK / timedelta(microseconds=1)), F.lit(False))
    kinds = {c.name: c.type.replace("long", "bigint") for c in lookup.table.features}
    features = [
        F.coalesce(F.when(fresh, F.col(f"_row.{n}")), F.lit(lookup.defaults[n]))
        .cast(kinds[n])
        .alias(n)
        for n in lookup.features
    ]
    seconds = F.when(fresh, F.floor(age / 1_000_000)).cast("bigint").alias(lookup.age)
    return latest.select(*trips.columns, *features, seconds)
