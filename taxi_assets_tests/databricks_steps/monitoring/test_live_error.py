"""The verdict `live_error`: levels, what it says, and real months, quiet until the fares rise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_steps.monitoring import fare_range, performance
from databricks_steps.monitoring.performance import measured, unseen_from, verdict
from databricks_steps.monitoring.thresholds import ErrorLimits
from databricks_steps.months import end, start
from databricks_steps.training.expected_error import Errors, ExpectedError
from databricks_steps.training.registry import Version

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import SparkSession

VERSION = Version("3", "run", {"mae": 1.5})
COLUMNS = [
    "trip_id",
    "trip_month",
    "pickup_datetime",
    "pickup_location_id",
    "dropoff_location_id",
    "trip_distance",
    "fare_amount",
    "predicted_fare",
]


def row(mae: float, level: str, **key: Any) -> dict[str, Any]:
    given = {"trip_month": "2023-01", "day": "all", "slice": "all", "predictions": "batch"}
    figures = {"trips": 2_000, "coverage": 1.0, "rmse": 3.0, "mae": mae, "bias": 0.0}
    return {**given, "model_version": "3", **figures, "expected": 1.5, "level": level, **key}


QUIET = [row(1.52, "ok"), row(1.9, "warn", day="2023-01-02"), row(1.5, "ok", day="2023-01-01")]
BASE = "2023-01, version 3, batch: mean absolute error "
ALLOWED = ", over 2,000 trips it has not learned from; allowed +15%, error from +25%"
QUIETLY = f"{BASE}1.52 dollars, expected 1.50, +1%{ALLOWED}"


@pytest.mark.parametrize(
    ("more", "outcome", "said"),
    [
        ([], (True, "warn"), QUIETLY),
        (
            [row(1.8, "warn", trip_month="2023-02")],
            (False, "warn"),
            QUIETLY.replace("2023-01", "2023-02").replace("1.52", "1.80").replace("+1%", "+20%"),
        ),
        (
            [row(2.5, "error", trip_month="2022-12")],
            (False, "error"),
            QUIETLY.replace("2023-01", "2022-12").replace("1.52", "2.50").replace("+1%", "+67%"),
        ),
        (
            [row(7.0, "error", slice="airport 1", trip_month="2023-02", expected=4.0)],
            (False, "warn"),
            f"{QUIETLY}; the worst slice is airport 1, 2023-02: 7.00 dollars, expected 4.00, +75%",
        ),
        (
            [row(2.4, "error", predictions="endpoint")],
            (False, "warn"),
            f"{QUIETLY}; endpoint, 2023-01: 2.40 dollars, expected 1.50, +60%",
        ),
        ([row(9.0, "few", predictions="endpoint")], (True, "warn"), None),
    ],
)
def test_the_verdict_names_what_is_wrong(
    more: list[dict[str, Any]], outcome: tuple[bool, str], said: str | None
) -> None:
    told = verdict([*QUIET, *more], VERSION)
    assert (told.check, told.passed, told.severity) == ("live_error", *outcome)
    assert told.reason == (said or told.reason)


def test_the_endpoint_alone_may_be_in_error() -> None:
    key = {"predictions": "endpoint"}
    rows = [row(2.4, "error", **key), row(2.5, "error", day="2023-01-02", **key)]
    rows += [row(1.0, "ok", day="2023-01-01", **key), row(9.0, "few", day="2023-01-03", **key)]
    told = verdict(rows, VERSION)
    assert (told.passed, told.severity) == (False, "error")
    assert (told.figures["month"], told.figures["predictions"]) == ("2023-01", "endpoint")


def level(errors: Sequence[float], limits: ErrorLimits = performance.LIMITS) -> str:
    sums = performance._Sums(
        len(errors),
        len(errors),
        sum(errors),
        sum(map(abs, errors)),
        sum(e * e for e in errors),
        1.5 * len(errors),
    )
    return performance._level(sums, "all", limits)


def test_a_level_needs_enough_trips_on_both_sides_and_a_sure_difference() -> None:
    assert level([3.0] * 99) == "few"
    assert level([3.0] * 100) == "error"
    assert level([1.8] * 100) == "warn"
    assert level([1.5 * 1.15] * 100) == "ok"
    assert level([0.0, 4.0] * 50) == "ok"  # 2.0 with a standard error of 0.2
    assert level([0.0, 4.0] * 500) == "warn"  # of 0.06
    assert level([0.0, 4.0] * 5_000) == "error"  # of 0.02


@given(st.lists(st.floats(-50, 50), min_size=100, max_size=150), st.floats(1, 4))
def test_larger_errors_of_the_same_shape_are_never_a_lesser_level(
    errors: list[float], factor: float
) -> None:
    order = ("ok", "warn", "error")
    grown = [error * factor for error in errors]
    assert order.index(level(grown)) >= order.index(level(errors))


def test_what_a_version_has_learned_is_known_by_its_tags() -> None:
    tagged = replace(VERSION, tags={"holdout_from": "2022-03-15T16:05:55", "months": "2022-03"})
    assert unseen_from(tagged) == datetime(2022, 3, 15, 16, 5, 55)
    older = replace(VERSION, tags={"months": "2022-01,2022-02"})
    assert unseen_from(older) == datetime(2022, 3, 1)
    assert unseen_from(VERSION) is None


def real_month(folder: Any, month: str) -> pd.DataFrame:
    """Metered trips of a real month, cleaned roughly."""
    import pyarrow.parquet as pq

    found = pq.read_table(folder / "tlc" / "green" / f"green_tripdata_{month}.parquet").to_pandas()
    found = found.rename(
        columns={
            "lpep_pickup_datetime": "pickup_datetime",
            "PULocationID": "pickup_location_id",
            "DOLocationID": "dropoff_location_id",
        }
    )
    minutes = (found["lpep_dropoff_datetime"] - found["pickup_datetime"]).dt.total_seconds() / 60
    kept = found["fare_amount"].between(2.5, 200) & found["trip_distance"].between(0.1, 60)
    kept &= minutes.between(1, 180) & (found["RatecodeID"] == 1)
    kept &= found["pickup_datetime"].dt.strftime("%Y-%m") == month
    return found[kept].assign(trip_month=month, trip_id="").sort_values("pickup_datetime")


@pytest.mark.parametrize(
    ("learned", "month", "passed"),
    [("2022-01", "2022-02", True), ("2022-02", "2022-03", True), ("2022-03", "2023-01", False)],
)
def test_real_months_are_quiet_until_the_fares_rise(
    spark: SparkSession, real_data: Any, learned: str, month: str, passed: bool
) -> None:
    """By the simplest model there is, a formula fitted to four fifths of the month before."""
    before, after = real_month(real_data, learned), real_month(real_data, month)
    cut = int(len(before) * 0.8)
    rate, drop = np.polyfit(before["trip_distance"][:cut], before["fare_amount"][:cut], 1)
    for rows in (before, after):
        rows["predicted_fare"] = drop + rate * rows["trip_distance"]
    missed = (before["predicted_fare"] - before["fare_amount"])[cut:].abs()
    usual = Errors(len(missed), float(missed.sum()))
    trips = spark.createDataFrame(after[COLUMNS])
    made = measured(trips, None, trips, VERSION, None, expected=ExpectedError({(): usual}))
    told = verdict(made, VERSION)
    days = {r["day"]: r["level"] for r in made if r["slice"] == "all" and r["day"] != "all"}
    over = [level == "error" for level in days.values()]
    assert (told.passed, told.severity) == (passed, "warn" if passed else "error"), told.reason
    assert over == [not passed] * (end(month) - start(month)).days


@pytest.mark.parametrize(
    ("share", "passed"), [(0.75, True), (0.7499, False), (0.88, True), (0.8801, False)]
)
def test_a_fare_range_that_holds_too_few_or_too_many_fares_warns(
    share: float, passed: bool
) -> None:
    rows = [
        {"trip_month": "2022-02", "in_range": 0.8},
        {"trip_month": "2022-03", "in_range": share},
    ]
    told = fare_range.verdict(
        [*rows, {"trip_month": "2022-03", "in_range": None}], Version("3", "")
    )
    assert (told.check, told.passed, told.severity) == ("fare_range", passed, "warn")
    assert told.figures["in_range"] == {"2022-02": 0.8, "2022-03": share}
    assert fare_range.verdict([], Version("3", "")).passed
