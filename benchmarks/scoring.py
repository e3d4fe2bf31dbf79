"""Batch predictions by the product's ONNX path, next to MLflow's Spark UDF of the same version."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _machine
from databricks_steps import schemas, scoring
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS
from databricks_steps.training import registry

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROWS = 3_000_000
MONTH = "2022-01"
LIMIT = 3.0
NEAR = 0.01  # dollars
ROUNDS = 3
TAUGHT = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set", "fare_model")
INPUTS = schemas.MODEL_INPUTS


def main(arguments: Sequence[str]) -> int:
    """Print seconds and ratios of each round, alternating; 1 when the median is under 3."""
    parser = argparse.ArgumentParser("python -m benchmarks scoring", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        on = EmbeddedPlatform(Settings(home=Path(folder) / "home"))
        for name in TAUGHT:
            STEPS[name].run(on, [MONTH], False)
        version = registry.require(on.settings, registry.CANDIDATE)
        model = registry.folder(on.settings, version.number)
        rows = _stored(on.spark, given.rows, Path(folder) / "rows")
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        print(_machine.described())
        print(f"{given.rows:,} rows, {len(INPUTS)} inputs, one core a task\n", flush=True)
        ratios = []
        for _ in range(ROUNDS):
            fast = _seconds(lambda: _written(scoring.with_predicted_fares(rows, model), ours))
            slow = _seconds(lambda: _written(_by_mlflow(on, rows, version.number), theirs))
            ratios.append(slow / fast)
            print(f"ONNX {fast:.1f} s, MLflow {slow:.1f} s: {ratios[-1]:.2f}", flush=True)
        farthest = _farthest(on.spark, ours, theirs, given.rows)
    median = sorted(ratios)[len(ratios) // 2]
    print(
        f"median {median:.2f} of at least {LIMIT}; fares differ by at most {farthest:.4f} dollars"
    )
    return int(median < LIMIT or farthest > NEAR)


def _stored(spark: SparkSession, rows: int, path: Path) -> DataFrame:
    """Trips with looked-up features, made up, the same every time, as parquet."""
    from pyspark.sql import functions as F  # noqa: N812

    columns = [
        F.concat(F.lit("trip-"), F.col("id")).alias("trip_id"),
        F.lit(MONTH).alias("trip_month"),
    ]
    for seed, column in enumerate(INPUTS):
        value = F.exp(F.randn(seed) * 0.7 + 1)
        if column.type in ("int", "long"):
            value = F.floor(F.rand(seed) * (24 if column.name == "pickup_hour" else 7))
        kind = "bigint" if column.type == "long" else column.type
        columns.append(value.cast(kind).alias(column.name))
    spark.range(rows, numPartitions=16).select(*columns).write.parquet(str(path))
    return spark.read.parquet(str(path))


def _by_mlflow(on: EmbeddedPlatform, rows: DataFrame, version: str) -> DataFrame:
    import mlflow
    from pyspark.sql import functions as F  # noqa: N812

    uri = f"models:/{on.settings.registered_model}/{version}"
    predict = mlflow.pyfunc.spark_udf(on.spark, uri, result_type="double", env_manager="local")
    fare = predict(F.struct(*(column.name for column in INPUTS)))
    return rows.select("trip_id", fare.alias("predicted_fare"), "trip_month")


def _written(scored: DataFrame, path: Path) -> None:
    scored.write.mode("overwrite").parquet(str(path))


def _farthest(spark: SparkSession, ours: Path, theirs: Path, rows: int) -> float:
    from pyspark.sql import functions as F  # noqa: N812

    both = (spark.read.parquet(str(path)) for path in (ours, theirs))
    left, right = (one.select("trip_id", F.col("predicted_fare")) for one in both)
    joined = left.alias("a").join(right.alias("b"), "trip_id")
    away = F.abs(F.col("a.predicted_fare") - F.col("b.predicted_fare"))
    found = joined.agg(F.count("*").alias("n"), F.max(away).alias("away")).collect()[0]
    assert found["n"] == rows, f"{found['n']:,} rows"
    return float(found["away"])


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
