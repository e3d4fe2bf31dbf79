"""Drift of a month against a baseline, next to a plain count-and-sum pass over the same columns."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _machine
from databricks_steps import distributions, histograms, schemas
from databricks_steps.monitoring import drift
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROWS = 36_000_000
MONTH = "2022-03"
LIMIT = 4.0
SAMPLE = 100_000  # rows that the baseline learns from
INPUTS = tuple(column.name for column in schemas.WATCHED_INPUTS)
PLACES = distributions.LOCATIONS
ROUNDS = 3


def main(arguments: Sequence[str]) -> int:
    """Print seconds and ratio of each round, alternating; 1 when the median ratio is over 4."""
    parser = argparse.ArgumentParser("python -m benchmarks drift", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        spark = EmbeddedPlatform(Settings(home=Path(folder))).spark
        frame = _stored(spark, given.rows, Path(folder) / "scored")
        learned = frame.limit(SAMPLE).toPandas()
        baseline = distributions.baseline(learned, INPUTS, learned)
        print(_machine.described())
        print(f"{given.rows:,} rows, {len(baseline.bins)} features\n")
        ratios = []
        for number in range(ROUNDS + 1):
            plain = _seconds(lambda: _count_and_sum(frame))
            compared = _seconds(lambda: _drift(frame, baseline, given.rows))
            if number:  # the first round reads the files into the page cache
                ratios.append(compared / plain)
                print(f"count and sum {plain:.1f} s, drift {compared:.1f} s: {ratios[-1]:.2f}")
        ordered = sorted(ratios)
        print(f"median {ordered[len(ordered) // 2]:.2f} of at most {LIMIT}")
        spark.stop()
    return int(ordered[len(ordered) // 2] > LIMIT)


def _stored(spark: SparkSession, rows: int, path: Path) -> DataFrame:
    """Scored trips, made up, each column with its own spread, and some nulls, as parquet."""
    from pyspark.sql import functions as F

    days = (F.rand(99) * 31).cast("int")
    columns = [
        F.lit(MONTH).alias("trip_month"),
        F.timestamp_seconds(F.lit(1646092800) + days * 86400).alias("pickup_datetime"),
        *((F.rand(seed) * 265 + 1).cast("int").alias(name) for seed, name in enumerate(PLACES)),
    ]
    for seed, name in enumerate((*INPUTS, "predicted_fare")):
        value = F.exp(F.randn(seed) * 0.5 + seed / 10)
        if name in ("pickup_hour", "pickup_weekday", "pickup_is_weekend") or "airport" in name:
            value = F.floor(F.rand(seed) * (24 if name == "pickup_hour" else 2)).cast("double")
        columns.append(F.when(F.rand(seed + 50) > 0.001, value).alias(name))
    spark.range(rows, numPartitions=16).select(*columns).write.parquet(str(path))
    return spark.read.parquet(str(path))


def _count_and_sum(frame: DataFrame) -> None:
    from pyspark.sql import functions as F

    names = (*INPUTS, "predicted_fare", *PLACES)
    # The month and the time are read as well: drift cuts by them.
    cut = [F.count("trip_month"), F.count("pickup_datetime")]
    frame.agg(*cut, *(f(name) for name in names for f in (F.count, F.sum))).collect()


def _drift(frame: DataFrame, baseline: distributions.Baseline, rows: int) -> None:
    found = histograms.counted(frame, baseline.bins, [MONTH], rows)
    rows = drift.measured(found, "1", baseline)
    assert drift.verdicts(rows)["pickup_features"].passed


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
