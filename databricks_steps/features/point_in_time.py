"""As-of lookups: the latest feature row known at the pickup, never a later one.

Feature rows lie on the 15-minute grid, so the row known at a pickup is the row known at the last
instant of the grid before it. Each row is repeated for the hours in which it is the latest, and
trips join by equality of the hour: they are never sorted, and meet four rows at most, of which one
is the latest at their instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from databricks_steps.features.lookups import Lookup
from databricks_steps.features.windows import GRID_SECONDS, grid_cell
from databricks_steps.interfaces import Tables
from databricks_steps.months import with_months_before

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_HOUR = 3_600  # seconds: shorter makes more rows to hash, longer more that a trip is compared with


def with_lookups(
    tables: Tables,
    trips: DataFrame,
    lookups: Sequence[Lookup],
    lookback: timedelta,
    months: Sequence[str] | None = None,
    versions: Mapping[str, int] | None = None,
) -> DataFrame:
    """The trips with the features of every lookup, as `ports.FeatureStore.look_up` has it."""
    read = with_months_before(months, lookback) if months is not None else None
    for lookup in lookups:
        name = lookup.table.name
        rows = tables.read(name, read, (versions or {}).get(name))
        trips = with_features(trips, rows, lookup, lookback)
    return trips


def with_features(
    trips: DataFrame, rows: DataFrame, lookup: Lookup, lookback: timedelta
) -> DataFrame:
    """The trips with the lookup's features, and their age in whole seconds.

    A row counts when `known_at <= pickup - delay` and `pickup - known_at <= lookback`. Without one
    (also for a null key) the defaults answer and the age is null; a null in the row found
    takes the default of its feature. `known_at` of every row must lie on the grid.
    """
    from pyspark.sql import functions as F

    pickup = F.col(lookup.at)
    delay = int(lookup.delay.total_seconds())
    cell = grid_cell(pickup) - delay
    keyed = trips.withColumns({"_cell": cell, "_hour": F.floor(cell / _HOUR)})
    latest = _latest_rows(rows, lookup, lookback)
    # The side whose rows are hashed is that of the features, first as Sail takes the first: it is
    # small beside all trips, and hashing it spares the sort of them that a merge would need.
    joined = latest.hint("shuffle_hash").join(
        keyed,
        (keyed[lookup.key] == latest["_location_id"])
        & (keyed["_hour"] == latest["_during"])
        & keyed["_cell"].between(latest["_from"], latest["_to"]),
        "right",
    )
    age = F.unix_micros(pickup) - F.unix_micros(F.col("_row.known_at"))
    fresh = F.coalesce(age <= F.lit(lookback // timedelta(microseconds=1)), F.lit(False))
    columns = {c.name: c.type for c in lookup.table.features}
    features = [
        F.coalesce(F.when(fresh, F.col(f"_row.{name}")), F.lit(lookup.defaults[name]))
        .cast(columns[name].replace("long", "bigint"))
        .alias(name)
        for name in lookup.features
    ]
    seconds = F.when(fresh, F.floor(age / 1_000_000)).cast("bigint").alias(lookup.age)
    return joined.select(*trips.columns, *features, seconds)


def with_defaults(trips: DataFrame, lookups: Sequence[Lookup]) -> DataFrame:
    """The trips as a ride is served that meets no feature row: defaults, and ages that are null."""
    from pyspark.sql import functions as F

    kinds = {c.name: c.type.replace("long", "bigint") for x in lookups for c in x.table.features}
    values = {name: value for x in lookups for name, value in x.defaults.items()}
    features = {name: F.lit(value).cast(kinds[name]) for name, value in values.items()}
    return trips.withColumns(features | {x.age: F.lit(None).cast("bigint") for x in lookups})


def _latest_rows(rows: DataFrame, lookup: Lookup, lookback: timedelta) -> DataFrame:
    """(_location_id, _during) → `_row`, the latest from `_from` to `_to`, instants of the grid.

    `_during` is an hour, in hours since 1970: a row is there once for each hour that it counts in.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    known = F.unix_seconds("known_at")
    following = F.lead(known).over(Window.partitionBy("location_id").orderBy("known_at"))
    oldest = known + lookback // timedelta(seconds=1)
    spans = rows.select(
        F.col("location_id").alias("_location_id"),
        known.alias("_from"),
        F.least(following - GRID_SECONDS, oldest).alias("_to"),  # the last row has no following
        F.struct("known_at", *lookup.features).alias("_row"),
    )
    hours = F.sequence(F.floor(F.col("_from") / _HOUR), F.floor(F.col("_to") / _HOUR))
    # A key that occurs twice is for key_unique to report: only its last row has any instants.
    spans = spans.where("_to >= _from")
    return spans.select("_location_id", F.explode(hours).alias("_during"), "_from", "_to", "_row")
