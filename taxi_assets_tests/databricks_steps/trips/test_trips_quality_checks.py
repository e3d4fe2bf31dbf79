"""What is told of a month: quarantined share, volume, days without trips, a month due, columns."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trip_samples import at, green_table

from databricks_steps import schemas
from databricks_steps.check_cache import CheckCache
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.trips import ingest, quality_checks
from databricks_steps.trips.quality_checks import TripLimits

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SMALL = TripLimits(least=4)


@pytest.fixture
def platform(spark: SparkSession, settings: Settings) -> EmbeddedPlatform:
    return EmbeddedPlatform(settings, lambda: spark)


def ingested(
    platform: EmbeddedPlatform, folder: Path, months: dict[str, list[dict[str, object]]]
) -> None:
    """Each month's rows as a green file; a row without a day is of the month's third."""
    folder.mkdir(parents=True, exist_ok=True)
    for month, rows in months.items():
        timed = [
            {
                "lpep_pickup_datetime": at(f"{month}-03 10:00:{n:02d}"),
                "lpep_dropoff_datetime": at(f"{month}-03 10:10:{n:02d}"),
                **row,
            }
            for n, row in enumerate(rows)
        ]
        pq.write_table(green_table(timed), folder / f"green_tripdata_{month}.parquet")
    ingest.raw_trips(platform, None, str(folder))
    ingest.trips(platform, None)


BAD = {"trip_distance": 0.0}


def test_a_share_of_broken_rows_warns_and_then_is_in_error(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    tables = platform.tables
    rows = {
        "2022-01": [{}] * 10,
        "2022-02": [*[{}] * 8, BAD, BAD],
        "2022-03": [*[{}] * 5, *[BAD] * 5],
    }
    ingested(platform, tmp_path / "in", rows)
    usual = quality_checks.quarantine_rate(tables, ["2022-01"], SMALL)
    assert (usual.passed, usual.reason) == (
        True,
        "0.0% of the rows of 2022-01 break a rule; allowed are 12%",
    )
    warned = quality_checks.quarantine_rate(tables, ["2022-01", "2022-02"], SMALL)
    assert (warned.passed, warned.severity) == (False, "warn")
    assert warned.reason == "20.0% of the rows of 2022-02 break a rule; allowed are 12%"
    assert warned.figures["quarantined_share"] == {"2022-01": 0.0, "2022-02": 0.2}
    broken = quality_checks.quarantine_rate(tables, ["2022-03"], SMALL)
    assert (broken.passed, broken.severity) == (False, "error")
    # Exactly the limit is allowed.
    edge = quality_checks.quarantine_rate(
        tables, ["2022-02"], replace(SMALL, quarantined=(0.2, 0.5))
    )
    assert edge.passed


def test_too_few_rows_and_no_month_tell_nothing(platform: EmbeddedPlatform, tmp_path: Path) -> None:
    ingested(platform, tmp_path / "in", {"2022-01": [BAD, BAD]})
    few = quality_checks.quarantine_rate(platform.tables, ["2022-01", "2030-01"])
    assert few.passed
    assert few.reason == "too few rows to tell: 2022-01, 2030-01; 1,000 are needed"
    assert quality_checks.quarantine_rate(platform.tables, []).passed
    assert quality_checks.volume(platform.tables, []).reason == "no month before to compare with"


def test_volume_is_compared_with_the_months_before_by_the_day(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    tables = platform.tables
    rows = {"2022-01": 31, "2022-02": 28, "2022-03": 15, "2022-04": 6, "2022-09": 3}
    ingested(platform, tmp_path / "in", {m: [{}] * n for m, n in rows.items()})
    first = quality_checks.volume(tables, ["2022-01"], SMALL)
    assert (first.passed, first.reason) == (True, "no month before to compare with")
    same = quality_checks.volume(tables, ["2022-02"], SMALL)
    assert (same.passed, same.reason) == (
        True,
        "trips a day against the months before: 2022-02 100%",
    )
    half = quality_checks.volume(tables, ["2022-03"], SMALL)
    assert (half.passed, half.severity) == (False, "warn")
    assert half.reason == "2022-03 has 48% of the trips a day of the months before"
    fifth = quality_checks.volume(tables, ["2022-03", "2022-04"], SMALL)
    assert (fifth.passed, fifth.severity) == (False, "error")
    assert fifth.reason == (
        "2022-03 has 48%, 2022-04 has 20% of the trips a day of the months before"
    )
    later = quality_checks.volume(tables, ["2022-09"], SMALL)  # nothing is known of summer
    assert later.reason == "no month before to compare with"


@pytest.mark.parametrize(
    ("today", "due"),
    [
        (date(2022, 6, 14), "2022-02"),
        (date(2022, 6, 13), "2022-02"),
        (date(2022, 6, 15), "2022-03"),
        (date(2022, 3, 16), "2021-11"),
        (date(2022, 3, 17), "2021-12"),
    ],
)
def test_a_month_is_due_75_days_after_its_end(today: date, due: str) -> None:
    # March ends as April 1 begins; 75 days later is June 15.
    if today == date(2022, 6, 14):
        assert (date(2022, 6, 15) - date(2022, 4, 1)).days == 75
    assert quality_checks.due_month(today) == due


def test_the_month_that_is_due_is_missed_whatever_was_backfilled(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    tables = platform.tables
    ingested(platform, tmp_path / "in", {"2022-01": [{}] * 5, "2022-02": [{}] * 5})
    figures = ingest.trip_figures(tables.read("trips"), ["2022-01", "2022-02", "2022-03"])
    days = {month: each["days"] for month, each in figures.items()}
    assert days == {"2022-01": ["2022-01-03"], "2022-02": ["2022-02-03"], "2022-03": []}
    in_time = quality_checks.month_complete(tables, ["2022-02"], days, date(2022, 6, 14))
    assert (in_time.passed, in_time.reason) == (
        True,
        "every day has trips; the month that is due, 2022-02, is in",
    )
    late = quality_checks.month_complete(tables, ["2022-02"], days, date(2022, 6, 15))
    assert (late.passed, late.severity) == (False, "warn")
    assert late.reason == "2022-03 is due since 2022-06-15 and not in; the newest is 2022-02"
    ingested(platform, tmp_path / "old", {"2021-12": [{}] * 5})  # a backfill turns nothing green
    again = quality_checks.month_complete(tables, ["2021-12"], days, date(2022, 6, 15))
    assert again.reason == late.reason
    # Who stopped following more than a year ago waits for nothing.
    assert (
        quality_checks.month_complete(tables, ["2022-02"], days, date(2023, 2, 28)).passed is False
    )
    assert quality_checks.month_complete(tables, ["2022-02"], days, date(2023, 3, 1)).passed is True


def test_days_without_a_trip_are_named(platform: EmbeddedPlatform, tmp_path: Path) -> None:
    ingested(platform, tmp_path / "in", {"2022-02": [{}] * 5})
    days = {"2022-02": [f"2022-02-{n:02d}" for n in range(1, 27)]}
    found = quality_checks.month_complete(
        platform.tables, ["2022-02"], days, date(2022, 5, 1), SMALL
    )
    assert found.reason == "2022-02 has no trip on 2 of its days: 2022-02-27, 2022-02-28"


def test_columns_that_come_go_or_are_unknown_are_told(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    ingested(platform, folder, {"2022-01": [{}, {}], "2022-02": [{}, {}]})
    calm, _ = ingest.raw_trips(platform, ["2022-02"], str(folder))[0].verdicts
    assert (calm.check, calm.passed, calm.reason) == (
        "source_schema",
        True,
        "the columns are those of the month before",
    )
    file = folder / "green_tripdata_2022-02.parquet"
    changed = pq.read_table(file)
    changed = changed.append_column("cbd_congestion_fee", pa.array([0.75, 0.75]))
    changed = changed.append_column("Robot_Fee", pa.array([1.0, 2.0]))
    changed = changed.drop_columns(["tolls_amount"])
    pq.write_table(changed, file)
    told, _ = ingest.raw_trips(platform, ["2022-02"], str(folder))[0].verdicts
    assert (told.passed, told.severity) == (False, "warn")
    assert told.reason == (
        "2022-02: cbd_congestion_fee came, tolls_amount went; "
        "not read, for it is no column of ours: Robot_Fee"
    )
    cache = CheckCache(platform.settings, "raw_trips")
    first = quality_checks.source_schema(platform.tables, ["2022-01"], cache)  # nothing before it
    assert first.passed
    assert quality_checks.filled_columns(platform.tables, [], cache) == {}
    empty = quality_checks.filled_columns(platform.tables, ["2031-01"], cache)
    assert empty == {"2031-01": set()}
    assert {c.name for c in schemas.PUBLISHED} >= quality_checks.filled_columns(
        platform.tables, ["2022-01"], cache
    )["2022-01"]
