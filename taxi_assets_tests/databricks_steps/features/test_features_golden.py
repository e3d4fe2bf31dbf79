"""One day worked out by hand: see golden/README.md. Every row, every lookup."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_features import MADE

from databricks_steps.features.lookups import LOOKUPS, Lookup
from databricks_steps.features.point_in_time import with_features

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

GOLDEN = Path(__file__).with_name("golden")
TRIPS = (
    "trip_id string, pickup_datetime timestamp, dropoff_datetime timestamp, pickup_location_id int,"
    " dropoff_location_id int, fare_amount double, trip_distance double"
)
ASKED = (
    "trip_id string, pickup_datetime timestamp, pickup_location_id int, dropoff_location_id int,"
    " pickup_feature_age long, pickup_mean_fare_7d double, dropoff_feature_age long,"
    " dropoff_net_flow_1h long"
)


def golden(spark: SparkSession, name: str, schema: str) -> DataFrame:
    return spark.read.schema(schema).option("header", True).csv(str(GOLDEN / f"{name}.csv"))


def values(rows: DataFrame) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in rows.collect()]


@pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda x: x.table.name)
def test_every_row_of_the_day(engine: SparkSession, lookup: Lookup) -> None:
    table = lookup.table
    kinds = {c.name: c.type for c in table.columns}
    made = ("computed_at", "known_month")
    names = tuple(name for name in lookup.table.names if name not in made)
    expected = golden(engine, table.name, ", ".join(f"{n} {kinds[n]}" for n in names))
    made = MADE[table.name](golden(engine, "trips", TRIPS), ["2022-02"])
    ordered = made.select(*names).orderBy("location_id", "known_at")
    assert values(ordered) == [
        tuple(pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for v in row)
        for row in values(expected)
    ]


def test_every_lookup_of_the_day(engine: SparkSession) -> None:
    trips, expected = golden(engine, "trips", TRIPS), golden(engine, "lookups", ASKED)
    found = expected.select(
        "trip_id", "pickup_datetime", "pickup_location_id", "dropoff_location_id"
    )
    for lookup in LOOKUPS:
        rows = MADE[lookup.table.name](trips, ["2022-02"])
        found = with_features(found, rows, lookup, timedelta(days=7))
    ordered = found.select(*expected.columns).orderBy("pickup_datetime", "trip_id")
    assert values(ordered) == values(expected.orderBy("pickup_datetime", "trip_id"))
