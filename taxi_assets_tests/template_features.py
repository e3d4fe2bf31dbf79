"""The leaks of the notebook template, planted on purpose: the checks must catch them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from databricks_steps.training import leakage_checks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

QUARTER = 900


def with_pickup_rounded_up(trips: DataFrame) -> DataFrame:
    """The pickup is the next quarter of an hour, as the template rounds it."""
    up = F.ceil(F.unix_seconds("pickup_datetime") / QUARTER) * QUARTER
    return trips.withColumn("pickup_datetime", F.timestamp_seconds(up))


def featured(trips: DataFrame, months: Sequence[str], lookback: timedelta) -> DataFrame:
    """Every model input as the template makes them.

    A trip counts from its pickup on, and looks up the row stamped at the pickup rounded up:
    most trips then carry their own fare.
    """
    from_pickup = trips.withColumn("dropoff_datetime", F.col("pickup_datetime"))
    return leakage_checks.featured(with_pickup_rounded_up(from_pickup), months, lookback)
