"""The two steps on real Delta tables: first run, second run, corrected and damaged files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from trip_samples import at, collected, green_file, green_table

from databricks_steps import schemas
from databricks_steps.errors import SourceError, TableError
from databricks_steps.interfaces import Outcome
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.trips import ingest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FEBRUARY = {
    "lpep_pickup_datetime": at("2022-02-03 10:00:00"),
    "lpep_dropoff_datetime": at("2022-02-03 10:10:00"),
}
JANUARY_FILE, FEBRUARY_FILE = "green_tripdata_2022-01.parquet", "green_tripdata_2022-02.parquet"


@pytest.fixture
def platform(spark: SparkSession, settings: Settings) -> EmbeddedPlatform:
    return EmbeddedPlatform(settings, lambda: spark)


@pytest.fixture
def two_months(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    green_file(folder, [{}, {"fare_amount": -4.5}])
    green_file(folder, [FEBRUARY], FEBRUARY_FILE)
    return folder


def ingested(platform: EmbeddedPlatform, source: Path | str, **options: Any) -> Outcome:
    raw, ledger = ingest.raw_trips(platform, options.pop("months", None), str(source), **options)
    assert ledger.name == "arrivals"
    return raw


def action(outcome: Outcome) -> str:
    assert outcome.commit is not None
    return outcome.commit.action


def ids(platform: EmbeddedPlatform, name: str) -> list[str]:
    return sorted(row["trip_id"] for row in platform.tables.read(name).select("trip_id").collect())


def test_first_and_second_run(platform: EmbeddedPlatform, two_months: Path) -> None:
    raw = ingested(platform, two_months)
    assert (raw.name, raw.rows, action(raw)) == ("raw_trips", 3, "created")
    assert raw.figures == {
        "source": str(two_months),
        "rows_by_month": {"2022-01": 2, "2022-02": 1},
        "files": [JANUARY_FILE, FEBRUARY_FILE],
        "refused_files": {},
        "skipped_months": [],
        "emptied_demo_months": [],
    }
    valid, quarantined = ingest.trips(platform, None)
    assert (valid.name, valid.rows, action(valid)) == ("trips", 2, "created")
    assert (quarantined.name, quarantined.rows) == ("quarantined_trips", 1)
    assert quarantined.figures["rows_by_rule"] == {"fare": 1}
    assert [(v.check, v.passed) for v in valid.verdicts] == [
        ("rows_conserved", True),
        ("schema_contract", True),
        ("quarantine_rate", True),
        ("volume", True),
        ("month_complete", True),
    ]
    (rejected,) = collected(platform.tables.read("quarantined_trips"))
    assert (rejected["rules"], rejected["reasons"]) == (
        ["fare"],
        ["fare is -4.50 dollars; valid is 2.50 to 250.00"],
    )
    assert (rejected["source_file"], rejected["source_row"]) == (JANUARY_FILE, 1)
    before = {name: ids(platform, name) for name in ("raw_trips", "trips", "quarantined_trips")}

    again = ingested(platform, two_months)
    assert (again.rows, action(again)) == (3, "unchanged")
    assert again.figures["skipped_months"] == ["2022-01", "2022-02"]
    valid, quarantined = ingest.trips(platform, ["2022-01", "2022-02"])
    assert (action(valid), action(quarantined)) == ("unchanged", "unchanged")
    assert valid.figures["skipped_months"] == ["2022-01", "2022-02"]
    assert [verdict.passed for verdict in valid.verdicts] == [True] * 5
    assert quarantined.figures["rows_by_rule"] == {"fare": 1}

    forced = ingested(platform, two_months, force=True)
    assert (forced.rows, action(forced)) == (3, "replaced")
    assert action(ingest.trips(platform, None, force=True)[0]) == "replaced"
    assert before == {name: ids(platform, name) for name in before}


def test_a_corrected_file_replaces_its_month_alone(
    platform: EmbeddedPlatform, two_months: Path
) -> None:
    ingested(platform, two_months)
    ingest.trips(platform, None)
    green_file(two_months, [{}, {"fare_amount": 4.5}, {"fare_amount": 400.0}])
    raw = ingested(platform, two_months)
    assert raw.figures["rows_by_month"] == {"2022-01": 3, "2022-02": 1}
    assert raw.figures["skipped_months"] == ["2022-02"]
    valid, quarantined = ingest.trips(platform, None)
    assert valid.figures["rows_by_month"] == {"2022-01": 2, "2022-02": 1}
    assert valid.figures["skipped_months"] == ["2022-02"]
    assert quarantined.figures["rows_by_month"] == {"2022-01": 1, "2022-02": 0}
    fares = [row["fare_amount"] for row in collected(platform.tables.read("trips", ["2022-01"]))]
    assert sorted(fares) == [4.5, 10.0]


def test_a_month_holds_exactly_what_its_source_holds(
    platform: EmbeddedPlatform, two_months: Path
) -> None:
    pq.write_table(green_table([{"VendorID": 1}]), two_months / "yellow_2022-01.parquet")
    assert ingested(platform, two_months).figures["rows_by_month"]["2022-01"] == 3
    (two_months / "yellow_2022-01.parquet").unlink()
    raw = ingested(platform, two_months, months=["2022-01"])
    assert raw.figures["rows_by_month"] == {"2022-01": 2}
    assert platform.tables.months("raw_trips") == ["2022-01", "2022-02"]


def test_a_header_alone_empties_its_month(platform: EmbeddedPlatform, two_months: Path) -> None:
    ingested(platform, two_months)
    ingest.trips(platform, None)
    pq.write_table(green_table([]), two_months / JANUARY_FILE)
    raw = ingested(platform, two_months)
    assert raw.figures["rows_by_month"] == {"2022-01": 0, "2022-02": 1}
    valid, quarantined = ingest.trips(platform, ["2022-01"])
    assert (valid.rows, quarantined.rows) == (0, 0)
    assert [verdict.passed for verdict in valid.verdicts] == [True] * 5
    assert ingested(platform, two_months).figures["skipped_months"] == ["2022-01", "2022-02"]


def damage(path: Path) -> None:
    """Pages that cannot be read, behind a footer that can."""
    content = bytearray(path.read_bytes())
    first = pq.read_metadata(path).row_group(0).column(0)
    start = first.dictionary_page_offset or first.data_page_offset
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)


def test_pages_damaged_behind_a_good_footer(platform: EmbeddedPlatform, two_months: Path) -> None:
    path = green_file(two_months, [FEBRUARY] * 50, FEBRUARY_FILE)
    damage(path)
    pq.write_table(green_table([{"VendorID": 1}]), two_months / "more_2022-02.parquet")
    for _ in range(2):
        raw = ingested(platform, two_months)
        assert raw.figures["rows_by_month"] == {"2022-01": 2, "2022-02": 1}
        assert raw.figures["files"] == [JANUARY_FILE, "more_2022-02.parquet"]
        (problem,) = raw.figures["refused_files"].items()
        assert problem[0] == FEBRUARY_FILE
        assert re.fullmatch(r"its rows cannot be read: .+", problem[1])
    assert action(raw) == "unchanged"
    with pytest.raises(SourceError, match=f"{FEBRUARY_FILE}: its rows cannot be read"):
        ingested(platform, path)


def test_columns_that_differ_in_case_alone_load(platform: EmbeddedPlatform, tmp_path: Path) -> None:
    import pyarrow as pa

    table = green_table([{}, {"VendorID": 1}])
    for name, fees in (("airport_fee", [1.25, None]), ("Airport_fee", [None, 1.75])):
        table = table.append_column(name, pa.array(fees))
    pq.write_table(table, tmp_path / "joined_2022-01.parquet")
    pq.write_table(table, tmp_path / "joined.parquet")
    assert ingested(platform, tmp_path / "joined_2022-01.parquet").rows == 2
    assert ingested(platform, tmp_path / "joined.parquet").rows == 2
    rows = collected(platform.tables.read("raw_trips"))
    assert sorted(row["airport_fee"] for row in rows) == [1.25, 1.75]
    damage(tmp_path / "joined_2022-01.parquet")
    with pytest.raises(SourceError, match="joined_2022-01.parquet: its rows cannot be read: "):
        ingested(platform, tmp_path / "joined_2022-01.parquet")


def test_real_trips_empty_the_demo_months_everywhere(
    platform: EmbeddedPlatform, spark: SparkSession, tmp_path: Path, two_months: Path
) -> None:
    demo = tmp_path / "demo"
    for month in ("2022-02", "2022-03"):
        changes = {
            "lpep_pickup_datetime": at(f"{month}-03 10:00:00"),
            "lpep_dropoff_datetime": at(f"{month}-03 10:10:00"),
        }
        green_file(demo, [changes, {**changes, "fare_amount": 0.0}], f"demo_{month}.parquet")
    ingested(platform, demo)
    ingest.trips(platform, None)
    prediction = {
        "trip_id": "x",
        "predicted_fare": 9.0,
        "model_version": "1",
        "scored_at": at("2022-04-01"),
        "trip_month": "2022-03",
    }
    schema = schemas.BATCH_PREDICTIONS.spark()
    frame = spark.createDataFrame([tuple(prediction.values())], schema)
    platform.tables.replace("batch_predictions", frame)

    raw = ingested(platform, two_months)
    assert raw.figures["emptied_demo_months"] == ["2022-02", "2022-03"]
    assert raw.figures["rows_by_month"] == {"2022-01": 2, "2022-02": 1}
    assert platform.tables.months("raw_trips") == ["2022-01", "2022-02"]
    for name in ("trips", "quarantined_trips", "batch_predictions"):
        assert platform.tables.rows(name) == 0
    valid, _ = ingest.trips(platform, None)
    assert valid.figures["rows_by_month"] == {"2022-01": 1, "2022-02": 1}
    assert ingested(platform, two_months).figures["emptied_demo_months"] == []
    with pytest.raises(SourceError, match=r"raw_trips holds real trips of 2022-01, 2022-02\. Name"):
        ingested(platform, demo)


def test_a_source_that_cannot_be_read_changes_nothing(
    platform: EmbeddedPlatform, two_months: Path
) -> None:
    ingested(platform, two_months)
    version = platform.tables.version("raw_trips")
    with pytest.raises(SourceError):
        ingested(platform, two_months, months=["2022-01", "2022-07"])
    assert platform.tables.version("raw_trips") == version


def test_trips_before_raw_trips(platform: EmbeddedPlatform, two_months: Path) -> None:
    with pytest.raises(TableError, match=r"no rows of any month\. Ingest the month"):
        ingest.trips(platform, None)
    ingested(platform, two_months, months=["2022-01"])
    with pytest.raises(TableError, match=r"no rows of 2022-02"):
        ingest.trips(platform, ["2022-02"])
    valid, _ = ingest.trips(platform, ["2022-01", "2022-02"])
    assert valid.figures["rows_by_month"] == {"2022-01": 1}


def test_rows_that_are_lost_are_reported(platform: EmbeddedPlatform, two_months: Path) -> None:
    ingested(platform, two_months)
    ingest.trips(platform, None)
    nothing = platform.tables.read("trips", [])
    platform.tables.replace("trips", nothing, ["2022-02"])
    verdict = ingest.rows_conserved(platform.tables, ["2022-01", "2022-02"])
    assert not verdict.passed
    assert verdict.reason == ("Rows differ in 2022-02: raw_trips 1, trips 0, quarantined_trips 0")


def test_schema_contract_names_each_fault(spark: SparkSession) -> None:
    columns = [
        "CAST(NULL AS STRING) AS vendor_id"
        if c.name == "vendor_id"
        else f"CAST(NULL AS {kind}) AS {c.name}"
        for c in schemas.TRIPS.columns
        if c.name not in ("extra", "trip_month")
        for kind in ["BIGINT" if c.type == "long" else c.type.upper()]
    ]
    rows = spark.sql(f"SELECT {', '.join(columns)}, '2022-01' AS trip_month, 1 AS surplus")
    verdict = ingest.schema_contract(ingest.trip_figures(rows, ["2022-01"]))
    assert not verdict.passed
    assert verdict.reason.startswith(
        "extra is missing; surplus is not in the contract; vendor_id is string, not int; "
        "trip_id is null in 1 rows; pickup_datetime is null in 1 rows"
    )
