"""What the pictures of a month are drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from databricks_steps.monitoring import plots

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TRIPS = "trip_month string, pickup_location_id int, fare_amount double, predicted_fare double"


def test_each_month_has_the_errors_of_its_own_trips_where_they_are_enough(
    spark: SparkSession,
) -> None:
    rows = [
        *[("2022-01", 74, 10.0, 12.0)] * 5,
        *[("2022-01", 74, 10.0, 9.0)] * 5,
        *[("2022-02", 74, 10.0, 10.5)] * 10,
        *[("2022-02", 75, 10.0, 20.0)] * 9,  # one too few
        *[("2022-02", 76, 10.0, 20.0)] * 9,
        ("2022-02", 76, 10.0, None),  # nobody predicted it
        *[("2022-03", 74, 10.0, None)] * 10,
    ]
    found = plots.errors_by_zone(spark.createDataFrame(rows, TRIPS))
    assert found == {"2022-01": {74: pytest.approx(1.5)}, "2022-02": {74: pytest.approx(0.5)}}
    assert plots.errors_by_zone(spark.createDataFrame([], TRIPS)) == {}
