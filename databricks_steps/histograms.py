"""Histograms in Spark: bucket, group, count; every feature of every row in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from databricks_steps.distributions import LOCATIONS, WEEKS, Bins, Counted, by_slice, no_counts
from databricks_steps.trips.zones import NAMES, ZONES, borough

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def counted(
    frame: DataFrame, bins: Mapping[str, Bins], months: Sequence[str]
) -> dict[str, dict[str, Counted]]:
    """Month → slice → counts of the features of `bins`.

    `frame` has the features, both location ids, `pickup_datetime` and `trip_month`; rows of other
    months are left out, as are slices without a trip.
    """
    from pyspark.sql import functions as F

    if not months:
        return {}
    # A time is null or of another month in rows that nobody cleaned: they count as its first week.
    day = F.coalesce(F.dayofmonth("pickup_datetime"), F.lit(1))
    week = F.least(F.floor((day - 1) / 7), F.lit(WEEKS - 1)).cast("int")
    known = (F.col(name).between(1, ZONES) for name in LOCATIONS)
    lost = (F.when(inside, 0).otherwise(1).cast("long") for inside in known)
    places = F.array(*lost, *(each.place(F.col(name)) for name, each in bins.items()))
    keys = {
        "month": F.col("trip_month"),
        "borough": borough(F.col(LOCATIONS[0])),
        "week": week,
    }
    columns = [value.alias(name) for name, value in keys.items()]
    long = frame.where(F.col("trip_month").isin(*months)).select(
        *columns, F.posexplode(places).alias("feature", "place")
    )
    counts = {month: no_counts(len(bins)) for month in months}
    for row in long.groupBy(*keys, "feature", "place").count().collect():
        cell = (row["feature"], NAMES.index(row["borough"]), row["week"], row["place"])
        counts[row["month"]][cell] += row["count"]
    return {month: by_slice(tuple(bins), each) for month, each in counts.items()}
