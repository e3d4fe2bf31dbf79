"""Real months: every row is kept, and lands where it was measured to land."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from trip_samples import collected, months_of

from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.trips import ingest, normalize
from databricks_steps.trips.files import inspected
from databricks_steps.trips.validation_rules import with_broken_rules

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow  # real months


def counts(spark: SparkSession, path: Path) -> tuple[int, int, dict[str, int]]:
    """Valid rows, quarantined rows, and rows by rule."""
    file = inspected(path)
    if not file.named:
        file = replace(file, months=months_of(file))
    checked = with_broken_rules(normalize.raw_trips(spark, [file], file.months))
    found: dict[str, int] = {}
    valid = quarantined = 0
    for row in checked.groupBy("rules").count().collect():
        valid += 0 if row["rules"] else row["count"]
        quarantined += row["count"] if row["rules"] else 0
        for rule in row["rules"]:
            found[rule] = found.get(rule, 0) + row["count"]
    return valid, quarantined, found


def test_three_green_months_conserve_every_row(
    spark: SparkSession, settings: Settings, real_data: Path
) -> None:
    platform = EmbeddedPlatform(settings, lambda: spark)
    months = ["2022-01", "2022-02", "2022-03"]
    raw, _ = ingest.raw_trips(platform, months, str(real_data / "tlc" / "green"))
    assert raw.figures["rows_by_month"] == {"2022-01": 62495, "2022-02": 69399, "2022-03": 78537}
    valid, quarantined = ingest.trips(platform, months)
    assert (raw.rows, valid.rows, quarantined.rows) == (210_431, 194_882, 15_549)
    assert {verdict.check: verdict.passed for verdict in valid.verdicts} == dict.fromkeys(
        ("rows_conserved", "schema_contract", "quarantine_rate", "volume", "month_complete"), True
    )
    assert valid.verdicts[0].reason == "All 210,431 raw trips are valid or quarantined"
    assert quarantined.figures["rows_by_rule"] == {
        "outside_month": 51,
        "duration": 6356,
        "distance": 12965,
        "fare": 1126,
        "total": 8,
        "speed": 784,
        "voided": 1186,
    }


@pytest.mark.parametrize(
    ("path", "valid", "quarantined", "rules"),
    [
        ("tlc/green/green_tripdata_2023-02.parquet", 60958, 3851, {"voided": 364}),
        (
            "other/yellow_2022-01_first_days.parquet",
            96797,
            3203,
            {"voided": 1084, "outside_month": 25},
        ),
        ("tlc/yellow_samples/yellow_tripdata_sample_2018-08.csv", 9882, 118, {"fare": 12}),
        ("tlc/yellow_samples/yellow_tripdata_sample_2019-01.csv", 9880, 120, {"fare": 13}),
        ("other/nyctaxi_with_zipcodes_sample.parquet", 9929, 71, {"distance": 40}),
    ],
)
def test_other_real_files(
    spark: SparkSession,
    real_data: Path,
    path: str,
    valid: int,
    quarantined: int,
    rules: dict[str, Any],
) -> None:
    found = counts(spark, real_data / path)
    assert found[:2] == (valid, quarantined)
    assert rules.items() <= found[2].items()


def test_zip_codes_stand_in_for_locations(spark: SparkSession, real_data: Path) -> None:
    file = inspected(real_data / "other" / "nyctaxi_with_zipcodes_sample.parquet")
    months = months_of(file)
    assert months == ("2016-02", "2016-01")
    rows = normalize.raw_trips(spark, [replace(file, months=months)], months)
    first = collected(rows.where("source_row = 0"))[0]
    assert (first["pickup_location_id"], first["vendor_id"]) == (10103, None)
    assert first["fare_amount"] == 8.0
