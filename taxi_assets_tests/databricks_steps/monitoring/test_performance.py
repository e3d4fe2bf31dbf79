"""Live error: predictions matched with fares, cut as the gate cuts, and judged by the holdout."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from databricks_steps import schemas
from databricks_steps.monitoring.performance import measured, verdict
from databricks_steps.settings import Gate
from databricks_steps.training.expected_error import Errors, ExpectedError
from databricks_steps.training.registry import Version
from databricks_steps.training.slices import members

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

VERSION = Version("3", "run", {"mae": 1.5})
USUAL = ExpectedError({(): Errors(1_000, 1_500.0)})
SCORED = (
    "trip_id string, trip_month string, pickup_datetime timestamp, pickup_location_id int, "
    "dropoff_location_id int, trip_distance double, pickup_hour int, pickup_is_airport int, "
    "fare_amount double, predicted_fare double"
)
TRIPS = (
    "trip_id string, trip_month string, pickup_datetime timestamp, pickup_location_id int, "
    "dropoff_location_id int, trip_distance double, fare_amount double"
)
KEY = ("trip_month", "day", "slice", "predictions")
FIGURES = ("trips", "coverage", "rmse", "mae", "bias")
MARCH, MINUTE = datetime(2022, 3, 5, 8, 30), timedelta(minutes=1)


def scored(rows: int = 600) -> pd.DataFrame:
    """Trips of three days in two months, with fares, some not known, and predictions."""
    random = np.random.default_rng(7)
    pickups = [
        MARCH.replace(month=2 + n % 2, day=1 + n % 3, hour=int(hour), microsecond=n)
        for n, hour in enumerate(random.integers(0, 24, rows))
    ]
    zones = random.choice([1, 74, 132, 264, 999, 10001, 42], rows)
    fares = random.random(rows) * 40 + 3
    return pd.DataFrame(
        {
            "trip_id": [f"t{n}" for n in range(rows)],
            "trip_month": [f"{at:%Y-%m}" for at in pickups],
            "pickup_datetime": pickups,
            "pickup_location_id": zones.astype("int32"),
            "dropoff_location_id": np.full(rows, 42, "int32"),
            "trip_distance": random.choice([0.5, 1.0, 1.9, 2.0, 5.0, 9.9, 10.0, 30.0], rows),
            "pickup_hour": np.array([at.hour for at in pickups], "int32"),
            "pickup_is_airport": np.isin(zones, [1, 132]).astype("int32"),
            "fare_amount": np.where(random.random(rows) < 0.2, np.nan, fares),
            "predicted_fare": fares + random.normal(0.3, 2, rows),
        }
    )


def frame(spark: SparkSession, rows: pd.DataFrame, schema: str = SCORED) -> DataFrame:
    names = [part.split(" ")[0] for part in schema.split(", ")]
    return spark.createDataFrame(rows[names], schema)


def by_hand(rows: pd.DataFrame) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """The figures of every month, day and slice, by the masks that the gate uses."""
    found = {}
    days = rows["pickup_datetime"].map(lambda at: f"{at:%Y-%m-%d}")
    masks = {"all": np.full(len(rows), True)}
    for slicing in Gate().slicings[:-1]:  # the kind of these trips is not known
        masks |= members(rows, slicing)
    for month in rows["trip_month"].unique():
        for day in ("all", *days.unique()):
            for name, mask in masks.items():
                kept = mask & (rows["trip_month"] == month) & (days.eq(day) | (day == "all"))
                part = rows[kept]
                error = (part["predicted_fare"] - part["fare_amount"]).dropna().tolist()
                if len(part):
                    found[month, day, name, "batch"] = (
                        len(error),
                        len(error) / len(part),
                        sqrt(sum(e * e for e in error) / len(error)) if error else None,
                        sum(map(abs, error)) / len(error) if error else None,
                        sum(error) / len(error) if error else None,
                    )
    return found


def test_the_figures_are_those_of_a_count_by_hand(spark: SparkSession) -> None:
    rows = scored()
    made = measured(frame(spark, rows), None, frame(spark, rows), VERSION, None, expected=USUAL)
    found = {tuple(row[k] for k in KEY): tuple(row[f] for f in FIGURES) for row in made}
    expected = by_hand(rows)
    assert found.keys() == expected.keys()
    assert ("2022-03", "2022-03-02", "borough Manhattan", "batch") in found
    assert ("2022-02", "all", "distance 10 and more miles", "batch") in found
    for key, figures in expected.items():
        assert found[key] == pytest.approx(figures, abs=1e-6), key
    assert all(set(row) == set(schemas.LIVE_PERFORMANCE.names) for row in made)
    assert {row["model_version"] for row in made} == {"3"}
    assert len(found) == len(made)


def test_a_trip_at_the_start_of_the_holdout_counts_and_one_before_does_not(
    spark: SparkSession,
) -> None:
    rows = scored(3)
    rows["pickup_datetime"] = [MARCH - timedelta(seconds=1), MARCH, MARCH + timedelta(days=1)]
    rows["trip_month"], rows["fare_amount"] = "2022-03", 9.0
    trips = frame(spark, rows)
    made = measured(trips, None, trips, VERSION, MARCH, expected=USUAL)
    days = {row["day"]: row["trips"] for row in made if row["slice"] == "all"}
    assert days == {"all": 2, "2022-03-05": 1, "2022-03-06": 1}


def test_fares_are_taken_from_the_trips_where_they_are_not_at_hand(spark: SparkSession) -> None:
    rows = scored(40)
    rows["fare_amount"] = 9.0
    unpriced = frame(spark, rows).drop("fare_amount")
    known = frame(spark, rows.head(30), TRIPS)
    made = measured(unpriced, None, known, VERSION, None, expected=USUAL)
    whole = [row for row in made if row["day"] == row["slice"] == "all"]
    assert sum(row["trips"] for row in whole) == 30
    assert {round(row["coverage"], 2) for row in whole} == {0.75}


ASKED = {  # request → rows of (client's id, zone, distance, minutes after, predicted fare, version)
    "by id": [("t1", 1, 9.0, 0, 11.0, "3")],
    "by fields": [("mine", 75, 2.0, 5, 12.0, "3")],
    "id of many rows": [("t1", 1, 9.0, 0, 99.0, "3"), ("t1", 75, 2.0, 5, 12.5, "3")],
    "two trips alike": [(None, 76, 3.0, 5, 13.0, "3")],
    "nobody's trip": [("t99", 1, 9.0, 0, 14.0, "3")],
    "other version": [("t1", 1, 9.0, 0, 99.0, "2")],
    "unknown version": [("t1", 1, 9.0, 0, 99.0, None)],
    "no answer": [("t1", 1, 9.0, 0, None, "3")],
    "other month": [("t1", 1, 9.0, 60 * 24 * 40, 99.0, "3")],
}


PAYLOADS = (
    "request_id string, request_row int, client_request_id string, origin string, "
    "requested_at timestamp, status_code int, pickup_location_id int, dropoff_location_id int, "
    "trip_distance double, pickup_datetime timestamp, predicted_fare double, model_version string"
)


def payloads(spark: SparkSession) -> DataFrame:
    rows = [
        (
            *(name, place, client, "client", MARCH, 200, zone, 42, miles),
            MARCH + minutes * MINUTE,
            fare,
            version,
        )
        for name, asked in ASKED.items()
        for place, (client, zone, miles, minutes, fare, version) in enumerate(asked)
    ]
    check = ("own", 0, "t1", "check", MARCH, 200, 1, 42, 9.0, MARCH, 99.0, "3")
    unreadable = ("bad", 0, "t1", "client", MARCH, 200, None, None, None, None, None, "3")
    return spark.createDataFrame([*rows, check, unreadable], PAYLOADS)


def test_predictions_of_the_endpoint_find_their_trips(spark: SparkSession) -> None:
    five = MARCH + timedelta(minutes=5)
    trips = spark.createDataFrame(
        [
            ("t1", "2022-03", MARCH, 74, 42, 1.0, 10.0),
            ("t2", "2022-03", five, 75, 42, 2.0, 10.0),
            ("t3", "2022-03", five, 76, 42, 3.0, 10.0),
            ("t4", "2022-03", five, 76, 42, 3.0, 20.0),
        ],
        TRIPS,
    )
    made = measured(None, payloads(spark), trips, VERSION, None, expected=USUAL)
    whole = {row["slice"]: row for row in made if row["day"] == "all"}
    # t1 by its id, t2 by its fields (twice); known of six predictions of this version are three.
    assert whole["all"] | {"computed_at": None} == {
        "trip_month": "2022-03",
        "day": "all",
        "slice": "all",
        "predictions": "endpoint",
        "model_version": "3",
        "trips": 3,
        "coverage": 0.5,
        "rmse": round(sqrt((1 + 4 + 6.25) / 3), 6),
        "mae": round(5.5 / 3, 6),
        "bias": round(5.5 / 3, 6),
        "expected": 1.5,
        "in_range": None,
        "level": "few",
        "computed_at": None,
    }
    slices = {name: row["trips"] for name, row in whole.items()}
    assert slices["airport 1"] == 1  # zone 1, as it was asked: Newark
    assert slices["distance 2 to 5 miles"] == 2
    assert slices["hour 6 to 10 h"] == 3


def test_own_requests_do_not_hide_the_wrong_fares_of_a_few_clients(spark: SparkSession) -> None:
    """300 wrong fares of clients beside 6,000 right ones of checks: the alarm comes."""
    trips = spark.createDataFrame(
        [(f"t{n}", "2022-03", MARCH, 74, 42, 1 + n / 1000, 10.0) for n in range(6_300)], TRIPS
    )
    asked = [
        (f"{origin}-{n}", 0, None, origin, MARCH, 200, 74, 42, 1 + n / 1000, MARCH, fare, "3")
        for origin, fare, numbers in (
            ("client", 25.0, range(300)),
            ("check", 10.0, range(300, 6_300)),
        )
        for n in numbers
    ]
    made = measured(
        None, spark.createDataFrame(asked, PAYLOADS), trips, VERSION, None, expected=USUAL
    )
    (whole,) = [row for row in made if row["slice"] == row["day"] == "all"]
    assert (whole["trips"], whole["mae"], whole["level"]) == (300, 15.0, "error")
    assert not verdict(made, VERSION).passed


def test_no_trips_and_no_predictions_are_no_rows(spark: SparkSession) -> None:
    none, no_trips = frame(spark, scored(0)), spark.createDataFrame([], TRIPS)
    assert measured(none, payloads(spark), no_trips, VERSION, None, expected=USUAL) == []
    assert measured(None, None, no_trips, VERSION, MARCH, expected=USUAL) == []
    told = verdict([], VERSION)
    assert told.passed
    assert told.reason == (
        "too few trips with a fare that version 3 has not learned from, "
        "in the months or when it was trained"
    )


def test_a_version_without_an_expected_error_is_not_judged(spark: SparkSession) -> None:
    rows = frame(spark, scored())
    made = measured(rows, None, rows, VERSION, None, expected=ExpectedError())
    assert {made_row["level"] for made_row in made} == {"few"}
    assert verdict(made, VERSION).passed


def test_what_is_expected_follows_the_mix_of_the_trips(spark: SparkSession) -> None:
    """Twice as many block trips, each met as before: the error grows, and so does what is due."""
    near, day = "distance 1 to 2 miles", "hour 6 to 10 h"
    expected = ExpectedError(
        {
            (): Errors(1_000, 1_900.0),
            **{("kind metered", near, day)[:n]: Errors(900, 900.0) for n in (1, 2, 3)},
            **{("kind block", near, day)[:n]: Errors(100, 1_000.0) for n in (1, 2, 3)},
        },
        {"kind block": (100, 1.0), "vendor 2": (900, 1.0)},
    )
    rows = scored(1_000).assign(
        trip_month="2022-03", pickup_datetime=MARCH, pickup_hour=8, trip_distance=1.5, vendor_id=2
    )
    rows["kind"] = ["block" if n % 5 == 0 else "metered" for n in range(1_000)]
    rows["fare_amount"] = 20.0
    rows["predicted_fare"] = [30.0 if n % 5 == 0 else 21.0 for n in range(1_000)]
    trips = spark.createDataFrame(rows)
    made = measured(trips, None, trips, VERSION, None, expected=expected)
    whole = {row["slice"]: row for row in made if row["day"] == "all"}
    assert whole["all"]["mae"] == pytest.approx(2.8)
    assert whole["all"]["expected"] == pytest.approx(2.8, rel=0.1)  # few are drawn to the whole
    assert (whole["all"]["level"], whole["kind block"]["level"]) == ("ok", "ok")
    assert whole["vendor 2"]["trips"] == 1_000
    assert verdict(made, VERSION).passed
