"""The checks of features catch what they are for: planted leaks and broken keys."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from feature_oracle import Trip
from pyspark.sql import functions as F
from template_features import with_pickup_rounded_up
from test_features import MADE, WEEK, frame

from databricks_steps import schemas
from databricks_steps.features import leakage_checks
from databricks_steps.features.lookups import LOOKUPS, Lookup
from databricks_steps.features.point_in_time import with_features
from databricks_steps.interfaces import Verdict

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

lookups = pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda x: x.table.name)


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
    return frame(spark, made).withColumn("trip_month", F.lit("2022-02")).cache()


def judged(
    trips: DataFrame,
    lookup: Lookup,
    rows: DataFrame,
    at_lookup: Callable[[DataFrame], DataFrame] = lambda sample: sample,
) -> Verdict:
    """The check on these feature rows; `at_lookup` is done to the trips as they look up."""

    def look_up(sample: DataFrame) -> DataFrame:
        return with_features(at_lookup(sample), rows, lookup, WEEK)

    return leakage_checks.no_future_knowledge(
        leakage_checks.compared({"2022-02": trips}, trips, lookup, look_up).values()
    )


def unique(rows: DataFrame, table: schemas.Table) -> Verdict:
    bad = leakage_checks.bad_keys(rows, table)
    return leakage_checks.key_unique(text for each in bad.values() for text in each)


@lookups
def test_honest_rows_pass(trips: DataFrame, lookup: Lookup) -> None:
    rows = MADE[lookup.table.name](trips, ["2022-02"])
    verdict = judged(trips, lookup, rows)
    assert verdict.passed, verdict.reason
    assert verdict.reason == "200 trips looked up exactly what the trips ended by then tell"
    assert verdict.figures == {
        "trips_compared": 200,
        "values_compared": 200 * len(lookup.features),
        "values_that_differ": 0,
    }
    assert unique(rows, lookup.table).passed


@lookups
def test_honest_rows_of_distances_that_nobody_rounded_pass(
    trips: DataFrame, lookup: Lookup
) -> None:
    """Miles of kilometers: a millionth of a mile is more than that in miles an hour."""
    miles = trips.withColumn("trip_distance", F.col("trip_distance") / 1.609344)
    rows = MADE[lookup.table.name](miles, ["2022-02"])
    verdict = judged(miles, lookup, rows)
    assert verdict.passed, verdict.reason


@lookups
def test_a_window_stamped_at_its_start_is_caught(trips: DataFrame, lookup: Lookup) -> None:
    """Planted: a row carries the quarter of an hour that begins, not ends, at its stamp."""
    early = F.col("known_at") - F.expr("INTERVAL 15 MINUTES")
    rows = MADE[lookup.table.name](trips, ["2022-02"]).withColumn("known_at", early)
    assert_caught(judged(trips, lookup, rows), trips)


@lookups
def test_time_rounded_up_is_caught(trips: DataFrame, lookup: Lookup) -> None:
    """Planted: the template's rounding of the pickup up to the next quarter of an hour."""
    rows = MADE[lookup.table.name](trips, ["2022-02"])
    assert_caught(judged(trips, lookup, rows, with_pickup_rounded_up), trips)


@lookups
def test_pickup_instead_of_end_is_caught(trips: DataFrame, lookup: Lookup) -> None:
    """Planted: a trip counts from its pickup on, when its fare is not known yet."""
    leaking = trips.withColumn("dropoff_datetime", F.col("pickup_datetime"))
    assert_caught(judged(trips, lookup, MADE[lookup.table.name](leaking, ["2022-02"])), trips)


def assert_caught(verdict: Verdict, trips: DataFrame) -> None:
    """The reason names a trip, a feature, and both values."""
    assert not verdict.passed
    assert verdict.figures["values_that_differ"] > 0
    found = re.search(
        r"differ; for one, trip (\d+) looked up (\w+) \S+, but trips ended by then give -?\d",
        verdict.reason,
    )
    assert found, verdict.reason
    assert trips.where(F.col("trip_id") == found.group(1)).count() == 1


def test_a_key_twice_or_null_is_named(trips: DataFrame) -> None:
    table = schemas.PICKUP_FEATURES
    rows = MADE[table.name](trips, ["2022-02"]).orderBy("location_id", "known_at").limit(3)
    first = rows.orderBy("location_id", "known_at").first()
    assert first is not None
    twice = unique(rows.unionAll(rows), table)
    assert not twice.passed
    assert f"location_id={first['location_id']}, known_at={first['known_at']}" in twice.reason
    null = unique(rows.withColumn("location_id", F.lit(None).cast("int")), table)
    assert (null.passed, "location_id=None" in null.reason) == (False, True)


@lookups
def test_a_key_twice_does_not_break_the_lookup(trips: DataFrame, lookup: Lookup) -> None:
    """So that key_unique can tell of it."""
    rows = MADE[lookup.table.name](trips, ["2022-02"])
    assert judged(trips, lookup, rows.unionAll(rows)).passed


def test_no_trips_are_no_leak(trips: DataFrame) -> None:
    lookup = LOOKUPS[0]
    rows = MADE[lookup.table.name](trips, ["2022-02"])
    nothing = trips.limit(0)
    found = leakage_checks.compared(
        {"2022-02": nothing}, trips, lookup, lambda s: with_features(s, rows, lookup, WEEK)
    )
    verdict = leakage_checks.no_future_knowledge(found.values())
    assert found == {}
    assert (verdict.passed, verdict.reason) == (True, "there is no trip to look up for")


def test_every_month_with_a_bad_key_is_named_however_many_another_has(trips: DataFrame) -> None:
    """What is not named is kept as sound, and not judged again."""
    table = schemas.PICKUP_FEATURES
    rows = MADE[table.name](trips, ["2022-02"]).orderBy("location_id", "known_at").limit(5)
    first = rows.orderBy("location_id", "known_at").limit(1)
    other = first.withColumn("known_month", F.lit("2022-03"))
    bad = leakage_checks.bad_keys(rows.unionAll(rows).unionAll(other).unionAll(other), table)
    assert {month: len(keys) for month, keys in bad.items()} == {"2022-02": 3, "2022-03": 1}


def test_each_month_has_its_share_of_the_sample(trips: DataFrame) -> None:
    """A small month beside a large one is looked at, too: what was not looked at is no proof."""
    lookup = LOOKUPS[0]
    rows = MADE[lookup.table.name](trips, ["2022-02"])
    small = trips.limit(5).withColumn("trip_month", F.lit("2022-03"))
    found = leakage_checks.compared(
        {"2022-02": trips, "2022-03": small},
        trips,
        lookup,
        lambda sample: with_features(sample, rows, lookup, WEEK),
    )
    assert {month: each["trips"] for month, each in found.items()} == {"2022-02": 100, "2022-03": 5}
