"""Feature rows and lookups against the brute-force oracle: every value, every row."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feature_oracle import Trip

from databricks_steps import schemas
from databricks_steps.features.dropoff import dropoff_features
from databricks_steps.features.lookups import LOOKUPS, Lookup
from databricks_steps.features.pickup import pickup_features
from databricks_steps.features.point_in_time import with_features

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

WEEK = timedelta(days=7)
MADE = {"pickup_features": pickup_features, "dropoff_features": dropoff_features}
NOON = datetime(2022, 2, 10, 12)
COLUMNS = (
    "trip_id string, pickup_datetime timestamp, dropoff_datetime timestamp, "
    "pickup_location_id int, dropoff_location_id int, fare_amount double, trip_distance double, "
    "trip_month string"
)


def frame(spark: SparkSession, trips: list[Trip]) -> DataFrame:
    rows = [
        (str(i), t.pickup, t.dropoff, t.origin, t.target, t.fare, t.miles, f"{t.pickup:%Y-%m}")
        for i, t in enumerate(trips)
    ]
    return spark.createDataFrame(rows, COLUMNS)


def trip(end: datetime, origin: int = 7, target: int = 9, fare: float = 10.0) -> Trip:
    return Trip(end - timedelta(minutes=12), end, origin, target, fare, 2.5)


PICKUP, DROPOFF = LOOKUPS


def approximately(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v if v is None else pytest.approx(v, rel=1e-9) for k, v in row.items()}


def looked_up(
    spark: SparkSession, lookup: Lookup, trips: list[Trip], at: datetime, location: int | None = 7
) -> dict[str, Any]:
    """What one trip from `location` to `location` at `at` looks up."""
    rows = MADE[lookup.table.name](frame(spark, trips), ["2022-01", "2022-02", "2022-03"])
    asked = frame(spark, [Trip(at, at + timedelta(minutes=9), location, location, 9.0, 1.0)])
    row = with_features(asked, rows, lookup, WEEK).first()
    assert row is not None
    return {name: row[name] for name in (*lookup.features, lookup.age)}


def test_a_trip_is_not_known_at_the_instant_it_ends(spark: SparkSession) -> None:
    ended = [trip(NOON)]
    assert looked_up(spark, PICKUP, ended, NOON)["pickup_trip_count_1h"] == 0
    before = looked_up(spark, PICKUP, ended, NOON + timedelta(minutes=14, seconds=59))
    assert (before["pickup_trip_count_1h"], before["pickup_feature_age"]) == (0, None)
    then = looked_up(spark, PICKUP, ended, NOON + timedelta(minutes=15))
    assert (then["pickup_trip_count_1h"], then["pickup_feature_age"]) == (1, 0)


def test_a_trip_leaves_the_window_when_it_is_over(spark: SparkSession) -> None:
    ended = [trip(NOON)]
    at = NOON + timedelta(hours=1)
    assert looked_up(spark, PICKUP, ended, at)["pickup_trip_count_1h"] == 1
    later = looked_up(spark, PICKUP, ended, at + timedelta(minutes=15))
    assert later["pickup_trip_count_1h"] == 0
    assert later["pickup_mean_fare_1h"] == schemas.DEFAULT_FARE
    assert later["pickup_mean_fare_24h"] == 10.0


def test_the_lookback_ends_to_the_microsecond(spark: SparkSession) -> None:
    last_change = NOON + WEEK + timedelta(minutes=15)  # the trip leaves the 7-day window
    within = looked_up(spark, PICKUP, [trip(NOON)], last_change + WEEK)
    assert within["pickup_feature_age"] == 7 * 86_400
    beyond = looked_up(spark, PICKUP, [trip(NOON)], last_change + WEEK + timedelta(microseconds=1))
    assert beyond["pickup_feature_age"] is None
    assert {n: beyond[n] for n in PICKUP.features} == PICKUP.defaults


def test_a_delayed_lookup_takes_the_row_known_so_long_before(spark: SparkSession) -> None:
    late, days = replace(PICKUP, delay=timedelta(days=2)), timedelta(days=2)
    trips = [trip(NOON, fare=10.0), trip(NOON + days, fare=30.0)]
    known = NOON + days + timedelta(minutes=15)  # of the second trip

    def fare_and_age(at: datetime) -> tuple[float, int]:
        found = looked_up(spark, late, trips, at)
        return found["pickup_mean_fare_7d"], found["pickup_feature_age"]

    assert fare_and_age(known) == (10.0, 2 * 86_400)
    assert fare_and_age(known + days) == (20.0, 2 * 86_400)
    assert fare_and_age(known + days - timedelta(microseconds=1))[0] == 10.0


@pytest.mark.parametrize("location", [None, 265])
def test_a_null_key_and_an_unknown_zone_get_the_defaults(
    spark: SparkSession, location: int | None
) -> None:
    for lookup in LOOKUPS:
        found = looked_up(spark, lookup, [trip(NOON)], NOON + timedelta(hours=1), location)
        assert {n: found[n] for n in lookup.features} == lookup.defaults
        assert found[lookup.age] is None


def test_distinct_pickups_count_a_location_once_until_its_last_trip_leaves(
    spark: SparkSession,
) -> None:
    again = NOON + timedelta(hours=20)
    ended = [trip(NOON, 1, 7), trip(again, 1, 7), trip(again, 2, 7)]

    def distinct(hours: float) -> int:
        at = NOON + timedelta(hours=hours)
        return int(looked_up(spark, DROPOFF, ended, at)["dropoff_distinct_pickups_24h"])

    assert [distinct(1), distinct(21), distinct(25), distinct(44), distinct(44.25)] == [
        1,
        2,
        2,
        2,
        0,
    ]


def test_no_trips_make_no_rows(spark: SparkSession) -> None:
    for name, make in MADE.items():
        made = make(frame(spark, []), ["2022-02"])
        assert made.columns == list(schemas.TABLES[name].names)
        assert made.collect() == []


def test_the_timezone_of_the_machine_changes_nothing(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At both ends of a month, and in the hour that New York skips in March."""
    ends = "2022-02-01 00:00:00", "2022-02-28 23:59:59", "2022-03-13 02:30:00"
    quoted = ", ".join(f"('{n}', TIMESTAMP'{end}')" for n, end in enumerate(ends))
    trips = spark.sql(
        "SELECT id AS trip_id, at - INTERVAL 9 MINUTES AS pickup_datetime, at AS dropoff_datetime,"
        " 7 AS pickup_location_id, 9 AS dropoff_location_id, 10.0D AS fare_amount,"
        f" 2.0D AS trip_distance FROM VALUES {quoted} AS t(id, at)"
    )

    def first_known() -> list[str]:
        rows = pickup_features(trips, ["2022-02", "2022-03"]).where("pickup_trip_count_1h = 1")
        texts = rows.selectExpr("date_format(known_at, 'yyyy-MM-dd HH:mm:ss') AS at")
        return [row["at"] for row in texts.orderBy("at").collect()]

    for zone in ("America/New_York", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            assert first_known() == [
                "2022-02-01 00:15:00",
                "2022-03-01 00:00:00",
                "2022-03-13 02:45:00",
            ]
        finally:
            monkeypatch.undo()
            time.tzset()


def test_months_in_any_order_and_at_once_give_the_same_rows(spark: SparkSession) -> None:
    edge = datetime(2022, 2, 1)
    ends = [edge + timedelta(minutes=m) for m in (-9000, -1441, -60, -15, -1, 0, 1, 15, 700)]
    trips = frame(spark, [trip(e, 7 + i % 2, 9, 5.0 + i) for i, e in enumerate(ends)]).cache()
    for name, make in MADE.items():
        kept = [n for n in schemas.TABLES[name].names if n != "computed_at"]

        def rows(months: list[str], make: Any = make, kept: list[str] = kept) -> set[Any]:
            return {tuple(r) for r in make(trips, months).select(*kept).collect()}

        at_once = rows(["2022-01", "2022-02"])
        assert at_once == rows(["2022-02"]) | rows(["2022-01"])
        assert at_once
