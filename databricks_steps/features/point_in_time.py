"""As-of lookups: the latest feature row known at the pickup, never a later one.

Feature rows lie on the 15-minute grid, so the row known at a pickup is the row known at the
last grid instant before it. That is found once for each (location, grid instant) that occurs,
and the trips join it by equality: the trips themselves are never sorted.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from databricks_steps.features.lookups import Lookup
from databricks_steps.features.windows import grid_cell

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def with_features(
    trips: DataFrame, rows: DataFrame, lookup: Lookup, lookback: timedelta
) -> DataFrame:
    """The trips with the lookup's features, and their age in whole seconds.

    A row counts when `known_at <= pickup` and `pickup - known_at <= lookback`. Without one
    (also for a null key) the defaults answer and the age is null; a null in the row found
    takes the default of its feature.
    """
    from pyspark.sql import functions as F  # noqa: N812

    pickup = F.col(lookup.at)
    keyed = trips.withColumn("_cell", grid_cell(pickup))
    found = _known_rows(keyed, rows, lookup)
    joined = keyed.join(
        found,
        (keyed[lookup.key] == found["_location_id"]) & (keyed["_cell"] == found["_at"]),
        "left",
    )
    age = F.unix_micros(pickup) - F.unix_micros(F.col("_row.known_at"))
    limit = int(lookback / timedelta(microseconds=1))
    fresh = F.coalesce(age <= F.lit(limit), F.lit(False))
    columns = {c.name: c.type for c in lookup.table.features}
    features = [
        F.coalesce(F.when(fresh, F.col(f"_row.{name}")), F.lit(lookup.defaults[name]))
        .cast(columns[name].replace("long", "bigint"))
        .alias(name)
        for name in lookup.features
    ]
    seconds = F.when(fresh, F.floor(age / 1_000_000)).cast("bigint").alias(lookup.age)
    return joined.select(*trips.columns, *features, seconds)


def _known_rows(keyed: DataFrame, rows: DataFrame, lookup: Lookup) -> DataFrame:
    """(_location_id, _at) of every lookup → `_row`, the latest feature row at or before it."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F  # noqa: N812

    asked = (
        keyed.select(F.col(lookup.key).alias("_location_id"), F.col("_cell").alias("_at"))
        .where("_location_id IS NOT NULL AND _at IS NOT NULL")
        .distinct()
        .withColumn("_asked", F.lit(True))
    )
    known = rows.select(
        F.col("location_id").alias("_location_id"),
        F.unix_seconds("known_at").alias("_at"),
        F.lit(False).alias("_asked"),
        F.struct("known_at", *lookup.features).alias("_row"),
    )
    # A row stamped at the very instant asked for comes first: it is already known then.
    past = (
        Window.partitionBy("_location_id")
        .orderBy("_at", "_asked")
        .rowsBetween(Window.unboundedPreceding, 0)
    )
    latest = F.last("_row", ignorenulls=True).over(past).alias("_row")
    both = asked.unionByName(known, allowMissingColumns=True)
    return both.select("_location_id", "_at", "_asked", latest).where("_asked").drop("_asked")
