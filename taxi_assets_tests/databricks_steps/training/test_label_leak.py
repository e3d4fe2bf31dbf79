"""`no_label_leak` on whole demo months: honest features pass, the template's rounding fails."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import template_features

from databricks_steps import steps
from databricks_steps.features.dropoff import dropoff_features
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.features.pickup import pickup_features
from databricks_steps.features.point_in_time import with_features
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.training import leakage_checks
from databricks_steps.trips.demo import demo_trips

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.slow  # trainings
MONTHS = ("2022-01", "2022-02")
WEEK = timedelta(days=7)
LOOKED_UP = [name for lookup in LOOKUPS for name in lookup.features]


@pytest.fixture(scope="module")
def trips(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> DataFrame:
    home = tmp_path_factory.mktemp("label_leak")
    (home / "source").mkdir()
    for month in MONTHS:
        pq.write_table(demo_trips(month, 8_000), home / "source" / f"trips_{month}.parquet")
    platform = EmbeddedPlatform(Settings(home=home, source=str(home / "source")), lambda: spark)
    for step in ("raw_trips", "trips"):
        steps.STEPS[step].run(platform, MONTHS, False)
    return platform.tables.read("trips").cache()


def test_honest_features_know_nothing_of_shuffled_fares(trips: DataFrame) -> None:
    featured = partial(leakage_checks.featured, months=MONTHS, lookback=WEEK)
    verdict = leakage_checks.no_label_leak(trips, featured, 0.2)
    assert verdict.passed, verdict.reason
    r2 = verdict.figures["r2_of_shuffled_fares"]
    assert verdict.figures == {"r2_of_shuffled_fares": r2, "limit": 0.05, "trips": trips.count()}
    assert verdict.reason == (
        f"with shuffled fares the holdout R² is {r2:.3f}; allowed is within ±0.05"
    )


@pytest.mark.long  # part of the template's rounding, which is caught below
def test_rounding_the_pickup_up_alone_is_caught(trips: DataFrame) -> None:
    def featured(shuffled: DataFrame) -> DataFrame:
        """Features as they should be, looked up at the pickup rounded up to the quarter."""
        rounded = template_features.with_pickup_rounded_up(shuffled)
        made = leakage_checks.featured(shuffled, MONTHS, WEEK).drop(*LOOKED_UP)
        rows = {"pickup_features": pickup_features, "dropoff_features": dropoff_features}
        looked_up = rounded
        for lookup in LOOKUPS:
            table = rows[lookup.table.name](shuffled, MONTHS)
            looked_up = with_features(looked_up, table, lookup, WEEK)
        return made.join(looked_up.select("trip_id", *LOOKED_UP), "trip_id")

    verdict = leakage_checks.no_label_leak(trips, featured, 0.2)
    assert not verdict.passed, verdict.reason


def test_fewer_trips_than_can_tell_are_said_to_be_too_few(trips: DataFrame) -> None:
    featured = partial(leakage_checks.featured, months=MONTHS, lookback=WEEK)
    verdict = leakage_checks.no_label_leak(trips.limit(999), featured, 0.2)
    assert (verdict.passed, verdict.reason) == (
        True,
        "too few trips to tell: 999; 1,000 are needed",
    )


def test_the_rounding_of_the_template_with_its_windows_by_pickup_is_caught(
    trips: DataFrame,
) -> None:
    featured = partial(template_features.featured, months=MONTHS, lookback=WEEK)
    verdict = leakage_checks.no_label_leak(trips, featured, 0.2)
    assert not verdict.passed
    assert verdict.figures["r2_of_shuffled_fares"] > 0.3


@pytest.mark.long  # a reason, no promise
def test_shuffling_the_label_alone_would_miss_it(trips: DataFrame) -> None:
    """Why the fares are shuffled before features are made."""
    real = template_features.featured(trips, MONTHS, WEEK).cache()
    dealt = leakage_checks.with_shuffled_fares(real)
    names = ["pickup_datetime", "trip_id", *leakage_checks.INPUTS, "fare_amount"]
    assert (
        abs(leakage_checks.holdout_r2(dealt.select(*names).toPandas(), 0.2)) <= leakage_checks.LIMIT
    )
