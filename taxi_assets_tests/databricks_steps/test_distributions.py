"""Histograms: by numpy and by Spark the same, the baseline there and back, edges and nulls."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_steps.distributions import (
    ALL,
    FINE,
    PLACES,
    Baseline,
    Bins,
    baseline,
)
from databricks_steps.errors import ModelError
from databricks_steps.histograms import ALL_OF, counted
from databricks_steps.months import between

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAN = float("nan")
FIELDS = (
    "trip_month string, pickup_datetime timestamp, pickup_location_id int, "
    "dropoff_location_id int, miles double, flag int"
)


def test_a_value_on_an_edge_is_the_upper_bins_and_the_top_is_outside() -> None:
    bins = Bins(0.0, 128.0, 1.0)
    values = np.array([-0.5, 0.0, 0.99, 1.0, 127.5, 128.0, 128.5, NAN], dtype="float64")
    assert list(bins.places(values)) == [1, 2, 2, 3, FINE + 1, FINE + 2, FINE + 2, 0]
    assert list(bins.centres()[[0, 1, FINE, FINE + 1]]) == [-0.5, 0.5, 127.5, 128.5]


def test_bins_of_a_constant_of_nothing_and_of_a_flag() -> None:
    constant = Bins.of(np.array([3.0, 3.0, 3.0]))
    assert (constant.low, constant.high, constant.std) == (3.0, 4.0, 1.0)
    assert Bins.of(np.array([NAN, NAN])) == Bins(0.0, 1.0, 1.0)
    assert Bins.of(np.array([])) == Bins(0.0, 1.0, 1.0)
    flag = Bins.of(np.array([0.0, 1.0, 1.0, 0.0]))
    assert list(flag.places(np.array([0, 1], dtype="float64"))) == [2, FINE + 1]


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=60),
    st.lists(st.one_of(st.floats(-2e6, 2e6, width=32), st.just(NAN)), max_size=60),
)
def test_every_value_is_in_the_bin_whose_bounds_hold_it(
    learned: list[float], values: list[float]
) -> None:
    bins = Bins.of(np.array(learned))
    width = (bins.high - bins.low) / FINE
    slack = width * 1e-2 + abs(bins.high - bins.low) * 1e-5 + 1e-6 * max(map(abs, learned))
    for value, place in zip(values, bins.places(np.array(values, dtype="float64")), strict=True):
        if np.isnan(value):
            assert place == 0
            continue
        low = -np.inf if place == 1 else bins.low + (place - 2) * width
        high = np.inf if place == FINE + 2 else bins.low + (place - 1) * width
        assert low - slack <= value <= high + slack


def training() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "miles": [1.0, 2.0, 3.0, NAN],
            "pickup_location_id": [74, 74, 132, 265],  # Manhattan twice, Queens, no zone
            "dropoff_location_id": [42, 264, 42, 42],
        }
    )


def test_a_baseline_counts_by_borough_and_comes_back_from_its_text() -> None:
    fares = training().assign(predicted_fare=[10.0, 12.0, 50.0, 20.0])
    found = baseline(training(), ["miles"], fares)
    assert {name: each.trips for name, each in found.slices.items()} == {
        ALL: 4,
        "borough Manhattan": 2,
        "borough Queens": 1,
        "borough unknown": 1,
    }
    assert found.slices[ALL].unknown == {"pickup_location_id": 1, "dropoff_location_id": 1}
    assert found.slices[ALL].counts["miles"][0] == 1  # the missing one
    assert found.slices[ALL].counts["predicted_fare"].sum() == 4
    assert found.slices["borough Manhattan"].counts["miles"].sum() == 2
    back = Baseline.from_json(found.to_json())
    assert back.bins == found.bins
    assert back.to_json() == found.to_json()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "bins": {}, "slices": {"all": 1}}']
)
def test_what_is_no_baseline_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"baseline.json must be a baseline of format 1"):
        Baseline.from_json(text)


def test_a_histogram_of_another_length_is_refused() -> None:
    raw = json.loads(
        baseline(training(), ["miles"], training().assign(predicted_fare=1.0)).to_json()
    )
    raw["slices"][ALL]["counts"]["miles"].pop()
    with pytest.raises(ModelError, match=f"a histogram without {PLACES} places"):
        Baseline.from_json(json.dumps(raw))


def test_spark_counts_what_numpy_counts(spark: SparkSession) -> None:
    rng = np.random.default_rng(1)
    bins = {"miles": Bins(0.0, 10.0, 2.0), "flag": Bins.of(np.array([0.0, 1.0]))}
    rows: list[tuple[Any, ...]] = [
        (
            "2022-01" if n % 3 else "2022-02",
            datetime(2022, 1 if n % 3 else 2, 1 + n % 28, 12),
            int(rng.integers(1, 266)),
            int(rng.integers(1, 266)),
            None if n % 7 == 0 else float(rng.normal(5, 4)),
            int(n % 2),
        )
        for n in range(200)
    ]
    rows.append(("2022-03", datetime(2022, 3, 1), 1, 1, 1.0, 1))  # of no month that is asked
    rows.append(("2022-01", datetime(2022, 1, 31), None, None, 5.0, None))
    frame = spark.createDataFrame(rows, FIELDS)
    found = counted(frame, bins, ["2022-01", "2022-02"])
    for month in ("2022-01", "2022-02"):
        own = [row for row in rows if row[0] == month]
        miles = np.array([NAN if r[4] is None else r[4] for r in own], dtype="float64")
        expected = np.bincount(bins["miles"].places(miles), minlength=PLACES)
        assert found[month][ALL].trips == len(own)
        assert list(found[month][ALL].counts["miles"]) == list(expected)
        flags = [r[5] for r in own]
        counts = found[month][ALL].counts["flag"]
        assert (counts[2], counts[FINE + 1], counts[0]) == (
            flags.count(0),
            flags.count(1),
            flags.count(None),
        )
        weeks = [each.trips for name, each in found[month].items() if name.startswith("week")]
        boroughs = [each.trips for name, each in found[month].items() if name.startswith("boro")]
        assert sum(weeks) == sum(boroughs) == len(own)
        late = sum(row[1].day > 21 for row in own)
        assert found[month]["week 4"].trips == late
        lost = sum(row[3] is None or row[3] > 263 for row in own)
        assert found[month][ALL].unknown["dropoff_location_id"] == lost
    again = counted(frame, bins, ["2022-01", "2022-02"])
    assert str(again) == str(found)


def test_all_months_there_are_can_be_counted_at_once_in_any_order(spark: SparkSession) -> None:
    bins = {"miles": Bins(0.0, 10.0, 2.0)}
    asked = [*between("2009-01", "2025-12")][::-1]
    held = {"2009-01": 3, "2016-12": 1, "2025-12": 2}
    rows = [
        (month, datetime.fromisoformat(f"{month}-05"), 74, 75, 1.0, 1)
        for month, trips in {**held, "2008-12": 1, "2026-01": 1}.items()
        for _ in range(trips)
    ]
    found = counted(spark.createDataFrame(rows, FIELDS), bins, asked)
    assert [*found] == asked
    assert {month: each[ALL].trips for month, each in found.items() if each} == held


def test_no_row_and_no_month_give_no_slice(spark: SparkSession) -> None:
    bins = {"miles": Bins(0.0, 10.0, 2.0)}
    empty = spark.createDataFrame([], FIELDS)
    assert counted(empty, bins, ["2022-01"]) == {"2022-01": {}}
    assert counted(empty, bins, []) == {}


def test_of_a_large_month_one_row_in_so_many_stands_for_as_many(spark: SparkSession) -> None:
    rows = spark.range(40_000).selectExpr(
        "'2022-01' AS trip_month",
        "timestamp_seconds(1640995200 + id * 60) AS pickup_datetime",
        "CAST(id % 263 + 1 AS INT) AS pickup_location_id",
        "CAST(id % 266 AS INT) AS dropoff_location_id",
        "id / 4000.0D AS trip_distance",
    )
    bins = {"trip_distance": Bins(0.0, 10.0, 2.0)}
    every = counted(rows, bins, ["2022-01"], 2 * ALL_OF - 1)["2022-01"]
    assert every[ALL].trips == 40_000
    drawn = counted(rows, bins, ["2022-01"], 4 * ALL_OF)["2022-01"]
    again = counted(rows.repartition(7), bins, ["2022-01"], 4 * ALL_OF)["2022-01"]
    assert drawn[ALL].trips % 4 == 0
    assert drawn[ALL].trips == pytest.approx(40_000, rel=0.05)
    assert again[ALL].trips == drawn[ALL].trips
    for name, part in drawn.items():
        counts = part.counts["trip_distance"]
        assert list(again[name].counts["trip_distance"]) == list(counts)
        assert {*(counts % 4)} == {0}
        shares = [each / each.sum() for each in (counts, every[name].counts["trip_distance"])]
        apart = np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).max()
        # Dvoretzky-Kiefer-Wolfowitz, one chance in ten million
        assert apart < np.sqrt(np.log(2e7) / 2 / (counts.sum() / 4))
    lost = drawn[ALL].unknown["dropoff_location_id"] / drawn[ALL].trips
    assert lost == pytest.approx(3 / 266, abs=0.005)
