"""The rules: each boundary instant and value, voided pairs, copies, and every row in one place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from trip_samples import DROPOFF, PICKUP, at, collected, green_file, read

from databricks_steps import schemas
from databricks_steps.trips import normalize, validation_rules
from databricks_steps.trips.kinds import kind

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SECOND, MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)


def checked(spark: SparkSession, folder: Path, rows: Sequence[dict[str, Any]]) -> DataFrame:
    file = read(green_file(folder, rows))
    return validation_rules.with_broken_rules(normalize.raw_trips(spark, [file], ["2022-01"]))


def reasons(
    spark: SparkSession, folder: Path, rows: Sequence[dict[str, Any]]
) -> list[dict[str, str]]:
    """For each row, rule → reason. Every row must come out as valid or quarantined, not both."""
    frame = checked(spark, folder, rows).cache()
    judged = sorted(collected(frame), key=lambda row: row["source_row"])
    valid = validation_rules.valid_trips(frame)
    quarantined = validation_rules.quarantined_trips(frame)
    assert valid.columns == list(schemas.TRIPS.names)
    assert quarantined.columns == list(schemas.QUARANTINED_TRIPS.names)
    ids = {row["trip_id"] for row in collected(valid)}
    others = {row["trip_id"] for row in collected(quarantined)}
    assert ids == {row["trip_id"] for row in judged if not row["rules"]}
    assert others == {row["trip_id"] for row in judged if row["rules"]}
    assert len(ids) + len(others) == len(rows)
    frame.unpersist()
    return [dict(zip(row["rules"], row["reasons"], strict=True)) for row in judged]


def trip(seconds: float = 750, **changes: Any) -> dict[str, Any]:
    """A trip of that duration; its total is the sum of its parts unless it is given."""
    if "fare_amount" in changes:
        changes = {"total_amount": changes["fare_amount"] + 3.3, **changes}
    return {"lpep_dropoff_datetime": PICKUP + timedelta(seconds=seconds), **changes}


def test_rules_at_their_boundaries(spark: SparkSession, tmp_path: Path) -> None:
    slow = {"trip_distance": 0.5}
    took = "trip took {} seconds; valid is 30 seconds to 4 hours"
    fares = "fare is {} dollars; valid is 2.50 to 250.00"
    apart = (
        "fare is no fare: with all its parts it makes {} dollars, the total is {}; "
        "valid is a difference of 5 dollars or half of the total"
    )
    miles = "distance is {} miles; valid is 0.05 to 100"
    cases: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({}, {}),
        (trip(30, **slow), {}),
        (trip(30 - 1e-6, **slow), {"duration": took.format("29.999999")}),
        (trip(4 * 3600), {}),
        (trip(4 * 3600 + 1e-6), {"duration": took.format("14400.000001")}),
        (trip(0, **slow), {"duration": took.format("0")}),
        (trip(-60, **slow), {"duration": took.format("-60")}),
        (trip(trip_distance=0.05), {}),
        (trip(trip_distance=0.0499), {"distance": miles.format("0.0499")}),
        (trip(trip_distance=0.0), {"distance": miles.format("0.00")}),
        (trip(4 * 3600, trip_distance=100.0), {}),
        (trip(4 * 3600, trip_distance=100.01), {"distance": miles.format("100.01")}),
        (trip(fare_amount=2.5), {}),
        (trip(fare_amount=2.49), {"fare": fares.format("2.49")}),
        (trip(fare_amount=250.0), {}),
        (trip(fare_amount=250.01), {"fare": fares.format("250.01")}),
        (trip(fare_amount=0.0), {"fare": fares.format("0.00")}),
        (trip(fare_amount=-4.5), {"fare": fares.format("-4.50")}),
        (trip(PULocationID=1, DOLocationID=99_999), {}),
        (trip(PULocationID=0), {"location": "pickup location id is 0; valid is 1 to 99999"}),
        (
            trip(PULocationID=-1, DOLocationID=100_000),
            {
                "location": "pickup location id is -1 and dropoff location id is 100000; "
                "valid is 1 to 99999"
            },
        ),
        (trip(fare_amount=2.9, total_amount=11.0), {}),  # 4.80 apart
        (trip(fare_amount=2.9, total_amount=12.5), {"total": apart.format("6.20", "12.50")}),
        (trip(fare_amount=16.7, total_amount=39.9), {}),  # 19.90 apart, half of it 19.95
        (trip(fare_amount=16.7, total_amount=40.1), {"total": apart.format("20.00", "40.10")}),
        (trip(fare_amount=16.7, total_amount=None), {}),
        (trip(900, trip_distance=20.0), {}),
        (
            trip(899, trip_distance=20.0),
            {"speed": "speed is 80.1 miles per hour; valid is at most 80"},
        ),
        (
            trip(fare_amount=429_490.2, trip_distance=259_778.0),
            {
                "distance": miles.format("259778.00"),
                "fare": fares.format("429490.20"),
                "speed": "speed is 1246934.4 miles per hour; valid is at most 80",
            },
        ),
    ]
    assert reasons(spark, tmp_path, [case for case, _ in cases]) == [told for _, told in cases]


def test_the_month_and_its_first_and_last_instants(spark: SparkSession, tmp_path: Path) -> None:
    first, after = at("2022-01-01"), at("2022-02-01")

    def picked_up(instant: Any) -> dict[str, Any]:
        return {"lpep_pickup_datetime": instant, "lpep_dropoff_datetime": instant + 600 * SECOND}

    instants = [first, after - MICROSECOND, first - MICROSECOND, after, at("2008-12-31")]
    told = reasons(spark, tmp_path, [picked_up(instant) for instant in instants])
    outside = "picked up on {}; the month of the file is 2022-01"
    assert told == [
        {},
        {},
        {"outside_month": outside.format("2021-12-31")},
        {"outside_month": outside.format("2022-02-01")},
        {"outside_month": outside.format("2008-12-31")},
    ]


def test_what_is_not_given(spark: SparkSession, tmp_path: Path) -> None:
    empty = dict.fromkeys(
        ("lpep_pickup_datetime", "lpep_dropoff_datetime", "PULocationID", "DOLocationID")
    )
    told = reasons(
        spark,
        tmp_path,
        [
            {"lpep_pickup_datetime": None},
            {"lpep_dropoff_datetime": None},
            {"PULocationID": None},
            {"DOLocationID": None},
            {"trip_distance": None},
            {"fare_amount": None},
            {**empty, "trip_distance": None, "fare_amount": None, "VendorID": None},
            {"fare_amount": float("inf"), "trip_distance": float("nan"), "extra": float("inf")},
        ],
    )
    assert told == [
        {"time_missing": "pickup datetime not given"},
        {"time_missing": "dropoff datetime not given"},
        {"location_missing": "pickup location id not given"},
        {"location_missing": "dropoff location id not given"},
        {"distance": "distance not given"},
        {"fare": "fare not given"},
        {
            "time_missing": "pickup datetime and dropoff datetime not given",
            "location_missing": "pickup location id and dropoff location id not given",
            "distance": "distance not given",
            "fare": "fare not given",
        },
        {"unreadable": "fare_amount cannot be read", "distance": "distance not given"},
    ]


def test_unknown_codes_and_absent_options_are_valid(spark: SparkSession, tmp_path: Path) -> None:
    block = ("passenger_count", "RatecodeID", "payment_type", "trip_type", "congestion_surcharge")
    rows: list[dict[str, Any]] = [
        {"RatecodeID": 99.0},
        {"passenger_count": 0.0},
        {"passenger_count": 9.0},
        {"payment_type": 0.0},
        {"VendorID": 6},
        {"VendorID": None},
        {"PULocationID": 264, "DOLocationID": 265},
        dict.fromkeys((*block, "store_and_fwd_flag")),
        {"tip_amount": float("inf")},
    ]
    assert reasons(spark, tmp_path, rows) == [{}] * len(rows)


VOIDING = "voids a trip with the same vendor, times, locations and fare"
VOIDED = "voided by a row with the same vendor, times and locations and the fare negative"
NEGATIVE = "fare is -10.00 dollars; valid is 2.50 to 250.00"


def test_voided_trips_lose_both_halves(spark: SparkSession, tmp_path: Path) -> None:
    negative = {"fare_amount": -10.0, "total_amount": -13.3, "payment_type": 3.0}
    rows: list[dict[str, Any]] = [
        {},  # 0: voided by 1
        negative,
        {"VendorID": 1},  # 2: another vendor, valid
        {"PULocationID": 7, **negative},  # 3: no twin
        {"DOLocationID": 8, "VendorID": None},  # 4 and 5: twins without a vendor
        {"DOLocationID": 8, "VendorID": None, **negative},
        {"PULocationID": 9, "tip_amount": 1.0},  # 6 to 8: the first of two is voided
        {"PULocationID": 9, "tip_amount": 2.0},
        {"PULocationID": 9, **negative},
        {"PULocationID": 10, **negative, "tip_amount": 0.0},  # 9 to 11: one void too many
        {"PULocationID": 10, **negative, "tip_amount": -1.0},
        {"PULocationID": 10},
        {"PULocationID": 11, "lpep_dropoff_datetime": DROPOFF + SECOND},  # 12 and 13: other times
        {"PULocationID": 11, **negative},
        {"PULocationID": 12, "fare_amount": 10.01},  # 14 and 15: another fare
        {"PULocationID": 12, **negative},
        {"PULocationID": 13, "fare_amount": 0.0},  # 16 and 17: nothing is not voided by nothing
        {"PULocationID": 13, "fare_amount": -0.0, "total_amount": 1.0},
        {"PULocationID": 14, "lpep_dropoff_datetime": None},  # 18 and 19: times not known
        {"PULocationID": 14, "lpep_dropoff_datetime": None, **negative},
    ]
    told = reasons(spark, tmp_path, rows)
    voids = {i: row["voided"] for i, row in enumerate(told) if "voided" in row}
    assert voids == {
        0: VOIDED,
        1: VOIDING,
        4: VOIDED,
        5: VOIDING,
        6: VOIDED,
        8: VOIDING,
        9: VOIDING,
        11: VOIDED,
    }
    assert told[1] == {"fare": NEGATIVE, "voided": VOIDING}
    assert told[0] == {"voided": VOIDED}
    assert [told[i] for i in (3, 10, 13, 15)] == [{"fare": NEGATIVE}] * 4
    assert [told[i] for i in (2, 7, 12, 14)] == [{}] * 4


def test_further_copies_of_a_row(spark: SparkSession, tmp_path: Path) -> None:
    told = reasons(spark, tmp_path, [{}, {}, {"fare_amount": 11.0}, {}])
    copy = "a further copy of the same row, number {} of its kind"
    assert told == [{}, {"duplicate": copy.format(2)}, {}, {"duplicate": copy.format(3)}]


def test_reasons_are_never_null_even_for_extreme_times(spark: SparkSession, tmp_path: Path) -> None:
    rows = [
        {"lpep_pickup_datetime": at("0001-03-01"), "lpep_dropoff_datetime": at("9999-12-30")},
        {"lpep_pickup_datetime": at("9999-12-30"), "lpep_dropoff_datetime": at("0001-03-01")},
    ]
    told = reasons(spark, tmp_path, rows)
    assert [sorted(row) for row in told] == [["duration", "outside_month"]] * 2
    assert told[0]["duration"].startswith("trip took 315")


@pytest.mark.parametrize("rule", validation_rules.RULES, ids=lambda rule: rule.name)
def test_no_row_in_means_no_row_out(spark: SparkSession, rule: validation_rules.Rule) -> None:
    frame = validation_rules.with_broken_rules(spark.createDataFrame([], schemas.RAW_TRIPS.spark()))
    assert frame.where(f"array_contains(rules, '{rule.name}')").collect() == []


@pytest.mark.parametrize(("month", "rows"), [("2025-02", 605), ("2025-03", 1_052)])
def test_fares_of_vendor_6_that_are_none_are_quarantined_by_name(
    spark: SparkSession, real_data: Path, month: str, rows: int
) -> None:
    file = read(real_data / "tlc" / "history" / f"green_tripdata_{month}.parquet")
    judged = validation_rules.with_broken_rules(normalize.raw_trips(spark, [file], [month]))
    by_name = judged.where("array_contains(rules, 'total')")
    assert [row["vendor_id"] for row in by_name.select("vendor_id").distinct().collect()] == [6]
    none = "vendor_id = 6 AND fare_amount = 2.9"
    assert judged.where(none).count() == rows
    assert by_name.where(none).count() >= 0.91 * rows


def test_kinds_of_trips(spark: SparkSession) -> None:
    rows = [(1, 1), (1, 99), (0, None), (1, 5), (2, 2), (2, 3), (1, 6), (1, 4), (None, 5)]
    frame = spark.createDataFrame(rows, "passenger_count int, rate_code_id int")
    assert [row["kind"] for row in frame.select(kind().alias("kind")).collect()] == [
        *("metered", "metered", "metered", "negotiated", "flat", "flat", "flat", "metered"),
        "block",
    ]
