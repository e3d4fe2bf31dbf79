"""The checks of features catch what they are for: planted leaks and broken keys."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from feature_oracle import Trip
from test_features import MADE, WEEK, frame

from databricks_steps import schemas
from databricks_steps.features import honesty

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FEATURES = (schemas.PICKUP_FEATURES, schemas.DROPOFF_FEATURES)


@pytest.fixture(scope="module")
def trips(spark: SparkSession) -> DataFrame:
    chance = random.Random(7)
    made = []
    for _ in range(600):
        end = datetime(2022, 2, 1) + timedelta(seconds=chance.randrange(4 * 86_400))
        minutes = chance.randrange(3, 60)
        zones = chance.choice([74, 75, 132]), chance.choice([74, 75, 138])
        fare = chance.randrange(250, 9000) / 100
        made.append(Trip(end - timedelta(minutes=minutes), end, *zones, fare, fare / 4))
    return frame(spark, made).cache()


@pytest.mark.parametrize("table", FEATURES, ids=lambda t: t.name)
def test_honest_rows_pass(trips: DataFrame, table: schemas.Table) -> None:
    rows = MADE[table.name](trips, ["2022-02"])
    verdict = honesty.no_future_knowledge(trips, rows, table, WEEK)
    assert (verdict.passed, verdict.figures["values_that_differ"]) == (True, 0), verdict.reason
    assert verdict.figures["trips_compared"] == honesty.SAMPLE
    assert honesty.key_unique(rows, table).passed


@pytest.mark.parametrize("table", FEATURES, ids=lambda t: t.name)
def test_a_window_stamped_a_quarter_too_early_is_caught(
    trips: DataFrame, table: schemas.Table
) -> None:
    from pyspark.sql import functions as F

    early = F.col("known_at") - F.expr("INTERVAL 15 MINUTES")
    rows = MADE[table.name](trips, ["2022-02"]).withColumn("known_at", early)
    verdict = honesty.no_future_knowledge(trips, rows, table, WEEK)
    assert not verdict.passed
    assert "values differ; trip " in verdict.reason


@pytest.mark.parametrize("table", FEATURES, ids=lambda t: t.name)
def test_features_by_pickup_instead_of_end_are_caught(
    trips: DataFrame, table: schemas.Table
) -> None:
    from pyspark.sql import functions as F

    leaking = trips.withColumn("dropoff_datetime", F.col("pickup_datetime"))
    rows = MADE[table.name](leaking, ["2022-02"])
    assert not honesty.no_future_knowledge(trips, rows, table, WEEK).passed


def test_a_key_twice_or_null_is_named(trips: DataFrame) -> None:
    table = schemas.PICKUP_FEATURES
    rows = MADE[table.name](trips, ["2022-02"]).limit(3).cache()
    first = rows.orderBy("location_id", "known_at").first()
    assert first is not None
    twice = honesty.key_unique(rows.unionAll(rows), table)
    assert not twice.passed
    assert f"location_id={first['location_id']}, known_at={first['known_at']}" in twice.reason
    from pyspark.sql import functions as F

    null = honesty.key_unique(rows.withColumn("location_id", F.lit(None).cast("int")), table)
    assert (null.passed, "location_id=None" in null.reason) == (False, True)
