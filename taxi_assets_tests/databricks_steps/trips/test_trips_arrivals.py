"""The ledger of arrivals: one row an entry, whoever looks; and the parts of a month."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from trip_samples import at, collected, green_file, green_table

from databricks_steps.errors import SourceError
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.trips import arrivals, ingest, sources
from databricks_steps.trips.demo import demo_trips

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JANUARY, FEBRUARY = "green_tripdata_2022-01.parquet", "green_tripdata_2022-02.parquet"


@pytest.fixture
def platform(spark: SparkSession, settings: Settings) -> EmbeddedPlatform:
    return EmbeddedPlatform(settings, lambda: spark)


def ledger(platform: EmbeddedPlatform) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Name and status → cause, rows, months."""
    return {
        (row["name"], row["status"]): (row["cause"], row["rows"], *row["months"])
        for row in platform.tables.records("arrivals")
    }


def test_every_entry_is_a_row_and_what_changes_is_told(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    green_file(folder, [{}, {"fare_amount": -4.5}])
    (folder / FEBRUARY).write_bytes(b"PAR1 and no more")
    (folder / "copy_2022-01.parquet").write_bytes((folder / JANUARY).read_bytes())
    os.utime(folder / JANUARY, ns=(1, 1))
    (folder / "notes.txt").write_text("as promised")
    raw, outcome = ingest.raw_trips(platform, ["2022-01"], str(folder))
    assert ledger(platform) == {
        (JANUARY, "loaded"): ("", 2, "2022-01"),
        (FEBRUARY, "refused"): ("truncated", None, "2022-02"),
        ("copy_2022-01.parquet", "passed over"): ("copy", 2, "2022-01"),
        ("notes.txt", "passed over"): ("other", None),
    }
    readable = next(v for v in raw.verdicts if v.check == "arrivals.readable")
    assert (readable.passed, readable.severity) == (False, "warn")
    assert list(readable.figures["refused"]) == [FEBRUARY]
    assert outcome.figures["entries"] == {"loaded": 1, "refused": 1, "passed over": 2}
    version = platform.tables.version("arrivals")
    ingest.raw_trips(platform, ["2022-01"], str(folder))
    assert platform.tables.version("arrivals") == version, "nothing new is no commit"

    february = {
        "lpep_pickup_datetime": at("2022-02-03 10:00:00"),
        "lpep_dropoff_datetime": at("2022-02-03 10:10:00"),
    }
    green_file(folder, [february], FEBRUARY)
    (folder / "notes.txt").unlink()
    ingest.raw_trips(platform, ["2022-01"], str(folder))
    now = ledger(platform)
    assert now[FEBRUARY, "passed over"] == ("waits", 1, "2022-02")
    assert now[FEBRUARY, "replaced"] == ("", None, "2022-02")
    assert now["notes.txt", "replaced"] == ("", None)
    raw, _ = ingest.raw_trips(platform, None, str(folder))
    now = ledger(platform)
    assert now[FEBRUARY, "loaded"] == ("", 1, "2022-02")
    assert next(v for v in raw.verdicts if v.check == "arrivals.readable").passed
    assert len(now) == 5


def test_a_source_that_nothing_can_be_read_of_is_in_the_ledger(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / JANUARY).write_bytes(b"<html>")
    for _ in range(2):
        with pytest.raises(SourceError):
            ingest.raw_trips(platform, None, str(folder))
    (row,) = platform.tables.records("arrivals")
    assert (row["status"], row["cause"], row["bytes"]) == ("refused", "format", 6)
    assert row["remedy"]


IN_FEBRUARY = {
    "lpep_pickup_datetime": at("2022-02-03 10:00:00"),
    "lpep_dropoff_datetime": at("2022-02-03 10:10:00"),
}


def of_sources(platform: EmbeddedPlatform) -> list[tuple[str, str, list[str]]]:
    """Each entry's folder, status and months."""
    rows = platform.tables.records("arrivals")
    return [(Path(row["source"]).name, row["status"], row["months"]) for row in rows]


def test_what_another_source_has_made_anew_is_replaced(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    green_file(tmp_path / "one", [{}, IN_FEBRUARY], "trips.parquet")
    green_file(tmp_path / "other", [{"VendorID": 1}])
    green_file(tmp_path / "third", [IN_FEBRUARY | {"VendorID": 1}], FEBRUARY)
    both, january, february = ["2022-01", "2022-02"], ["2022-01"], ["2022-02"]
    ingest.raw_trips(platform, None, str(tmp_path / "one"))
    assert of_sources(platform) == [("one", "loaded", both)]
    ingest.raw_trips(platform, None, str(tmp_path / "other"))
    now = [("one", "loaded", february), ("other", "loaded", january)]
    assert of_sources(platform) == now
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / JANUARY).write_bytes((tmp_path / "other" / JANUARY).read_bytes())
    ingest.raw_trips(platform, None, str(tmp_path / "copy"))
    assert of_sources(platform) == [("copy", "loaded", january), *now]
    ingest.raw_trips(platform, None, str(tmp_path / "third"))
    assert of_sources(platform) == [
        ("copy", "loaded", january),
        ("one", "replaced", february),
        ("other", "loaded", january),
        ("third", "loaded", february),
    ]
    version = platform.tables.version("arrivals")
    ingest.raw_trips(platform, None, str(tmp_path / "third"))
    assert platform.tables.version("arrivals") == version


def test_demo_trips_that_real_ones_have_replaced_are_told(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    pq.write_table(demo_trips("2022-01", 50), tmp_path / "demo_2022-01.parquet")
    ingest.raw_trips(platform, None, str(tmp_path / "demo_2022-01.parquet"))
    green_file(tmp_path, [IN_FEBRUARY], FEBRUARY)
    ingest.raw_trips(platform, None, str(tmp_path / FEBRUARY))
    assert ledger(platform) == {
        ("demo_2022-01.parquet", "replaced"): ("", 50, "2022-01"),
        (FEBRUARY, "loaded"): ("", 1, "2022-02"),
    }


def test_trips_of_a_month_that_is_not_over_wait_for_its_end(
    platform: EmbeddedPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = green_file(tmp_path, [{}, {}, {}, IN_FEBRUARY, IN_FEBRUARY], "trips.parquet")
    for month, held in (("2022-02", {"2022-01": 3}), ("2022-03", {"2022-01": 3, "2022-02": 2})):
        monkeypatch.setattr(sources, "this_month", lambda month=month: month)
        raw, _ = ingest.raw_trips(platform, None, str(path))
        assert raw.figures["rows_by_month"] == held
        assert platform.tables.rows("raw_trips") == sum(held.values())
        ((_, status, months),) = of_sources(platform)
        assert (status, months) == ("loaded", [*held])


def test_a_corrected_file_takes_back_the_months_that_it_no_longer_holds(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    path = green_file(tmp_path, [{}, IN_FEBRUARY], "trips.parquet")
    ingest.raw_trips(platform, None, str(path))
    ingest.trips(platform, None)
    green_file(tmp_path, [{}, {"fare_amount": 11.0}], "trips.parquet")
    for _ in range(2):  # the second run changes nothing
        ingest.raw_trips(platform, ["2022-01"], str(path))
        ingest.trips(platform, ["2022-01"])
        for name, rows in (("raw_trips", 2), ("trips", 2), ("quarantined_trips", 0)):
            assert platform.tables.rows(name) == rows, name
        assert platform.tables.months("raw_trips") == ["2022-01"]
    statuses = [(status, months) for _, status, months in of_sources(platform)]
    assert sorted(statuses) == [("loaded", ["2022-01"]), ("replaced", ["2022-01", "2022-02"])]


def test_the_next_month_under_the_same_name_is_no_correction(
    platform: EmbeddedPlatform, tmp_path: Path
) -> None:
    for row in ({}, IN_FEBRUARY):
        ingest.raw_trips(platform, None, str(green_file(tmp_path, [row], "trips.parquet")))
    assert platform.tables.months("raw_trips") == ["2022-01", "2022-02"]
    statuses = [(status, months) for _, status, months in of_sources(platform)]
    assert sorted(statuses) == [("loaded", ["2022-01"]), ("loaded", ["2022-02"])]


def days(count: int = 30) -> dict[str, list[dict[str, Any]]]:
    """File of a day → its trips, and two that every day has alike."""
    found = {}
    for day in range(1, count + 1):
        rows = [
            {
                "lpep_pickup_datetime": at(f"2022-04-{day:02d} {hour:02d}:00:00"),
                "lpep_dropoff_datetime": at(f"2022-04-{day:02d} {hour:02d}:10:00"),
                "fare_amount": fare,
            }
            for hour, fare in ((8, 10.0 + day), (9, 9.0), (9, 9.0), (10, -4.0))
        ]
        found[f"green_2022-04-{day:02d}.parquet"] = rows
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_a_month_in_daily_files_is_the_whole_month_row_for_row(
    spark: SparkSession, settings: Settings, tmp_path: Path, seed: int
) -> None:
    month, parts = tmp_path / "whole", tmp_path / "parts"
    files = days()
    green_file(month, [row for rows in files.values() for row in rows], "green_2022-04.parquet")
    whole = EmbeddedPlatform(settings, lambda: spark)
    ingest.raw_trips(whole, None, str(month))
    ingest.trips(whole, None)

    order = random.Random(seed).sample(sorted(files), len(files))
    split = EmbeddedPlatform(Settings(home=tmp_path / "split"), lambda: spark)
    corrected = order[5]
    for number, name in enumerate(order):
        rows = files[name] if name != corrected else files[name][:1]
        green_file(parts, rows, name)
        if number == 12:
            (parts / "again.parquet").write_bytes((parts / order[2]).read_bytes())
        if number in (10, 20):
            ingest.raw_trips(split, None, str(parts))
    green_file(parts, files[corrected], corrected)
    raw, _ = ingest.raw_trips(split, None, str(parts))
    ingest.trips(split, None)
    assert raw.rows == 120
    assert arrivals.counts(split.tables.records("arrivals")) == {
        "loaded": 30,
        "passed over": 1,
        "replaced": 1,
    }
    of_a_file = {"source_file", "source_row", "source_hash"}
    for name in ("raw_trips", "trips", "quarantined_trips"):
        one, other = (
            sorted(
                ({k: v for k, v in row.items() if k not in of_a_file} for row in rows),
                key=lambda row: str(row["trip_id"]),
            )
            for rows in (collected(p.tables.read(name)) for p in (whole, split))
        )
        assert one == other, name
        assert one


def test_whoever_looks_writes_the_same(platform: EmbeddedPlatform, tmp_path: Path) -> None:
    """The sensor writes the ledger of a folder, too, from what lies there."""
    folder = tmp_path / "source"
    green_file(folder)
    pq.write_table(green_table([{"VendorID": 1}]), folder / "trips.parquet")
    ingest.raw_trips(platform, None, str(folder))
    version = platform.tables.version("arrivals")
    here = sources.looked_at(str(folder), None, platform.settings, lambda: platform.spark)
    assert ingest.recorded(platform.tables, here) is None
    assert platform.tables.version("arrivals") == version
