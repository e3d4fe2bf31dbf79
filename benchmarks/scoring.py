"""Batch predictions by the product's ONNX path, next to MLflow's Spark UDF of the same version."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _machine
from databricks_steps import schemas
from databricks_steps.inference import batch
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
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        on = EmbeddedPlatform(Settings(home=Path(folder) / "home"))
        for name in TAUGHT:
            STEPS[name].run(on, [MONTH], False)
        version = registry.require(on.settings, registry.CANDIDATE)
        model = registry.folder(on.settings, version.number)
        rows = _stored(on.spark, given.rows, Path(folder) / "rows")
        by_onnx = batch.with_predicted_fares(rows, model)
        by_mlflow = _by_mlflow(on, rows, version.number)
        print(_machine.described())
        print(f"{given.rows:,} rows, {len(INPUTS)} inputs, one core a task\n", flush=True)
        ratios = []
        for warm in (by_onnx, by_mlflow):  # the JVM compiles, workers start: once for all rounds
            _seconds(warm)
        for _ in range(ROUNDS):
            fast = _seconds(by_onnx)
            slow = _seconds(by_mlflow)
            ratios.append(slow / fast)
            print(f"ONNX {fast:.1f} s, MLflow {slow:.1f} s: {ratios[-1]:.2f}", flush=True)
        farthest = _farthest(by_onnx, by_mlflow, given.rows)
    median = sorted(ratios)[len(ratios) // 2]
    print(
        f"median {median:.2f} of at least {LIMIT}; fares differ by at most {farthest:.4f} dollars"
    )
    return int(median < LIMIT or farthest > NEAR)


def _stored(spark: SparkSession, rows: int, path: Path) -> DataFrame:
    """Trips with looked-up features, made up, the same every time, as parquet."""
    from pyspark.sql import functions as F

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
    from pyspark.sql import functions as F

    uri = f"models:/{on.settings.registered_model}/{version}"
    predict = mlflow.pyfunc.spark_udf(on.spark, uri, result_type="double", env_manager="local")
    fare = predict(F.struct(*(column.name for column in INPUTS)))
    return rows.select("trip_id", fare.alias("predicted_fare"), "trip_month")


def _farthest(ours: DataFrame, theirs: DataFrame, rows: int) -> float:
    """The largest difference of two fares of one trip; every trip has both."""
    from pyspark.sql import functions as F

    away = F.abs(F.col("predicted_fare") - F.col("other_fare"))
    other = theirs.select("trip_id", F.col("predicted_fare").alias("other_fare"))
    joined = ours.join(other, "trip_id")
    found = joined.agg(F.count(away).alias("n"), F.max(away).alias("away")).collect()[0]
    assert found["n"] == rows, f"{found['n']:,} rows"
    return float(found["away"])


def _seconds(scored: DataFrame) -> float:
    """To every row, kept nowhere: what keeping them takes is the same for both."""
    started = time.perf_counter()
    scored.write.format("noop").mode("overwrite").save()
    return time.perf_counter() - started
