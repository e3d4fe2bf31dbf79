"""Trailing windows on the 15-minute grid: sums of what ended trips brought, at a flat cost.

A trip that ended in cell `c` (a quarter of an hour) counts in the row stamped `k` of a window
`w` when `k - w <= c` and the cell is over at `k`. So each cell brings `+x` at `c + 15 min` and
`-x` at `c + 15 min + w`, and a running sum over these changes is the windowed sum at every
instant where it changes. Rows are `1 + number of windows` a cell, however long the windows are.
Sums are of whole numbers (trips, microdollars, micromiles, seconds), so that a month gives
the same rows whichever month the running sum started from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import reduce
from typing import TYPE_CHECKING

from databricks_steps.months import end, spans, start

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

GRID = timedelta(minutes=15)
GRID_SECONDS = int(GRID.total_seconds())
HALF_HOUR = timedelta(minutes=30)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
REACH = WEEK + GRID  # how far before a month its first row looks
MICRO = 1_000_000


@dataclass(frozen=True)
class WindowSum:
    """The sum of one measure over one trailing window."""

    name: str
    measure: str
    window: timedelta


def ended_between(trips: DataFrame, months: Sequence[str]) -> DataFrame:
    """The trips that the rows of these months may use."""
    from pyspark.sql import functions as F

    ended = F.col("dropoff_datetime")
    within = F.lit(False)
    for run in spans(months):
        first, last = instant(start(run[0]) - REACH), instant(end(run[-1]))
        within = within | ((ended >= first) & (ended < last))
    return trips.where(within)


def instant(at: datetime) -> Column:
    """A wall-clock time as a constant that Spark hands down to the scan of the files.

    By way of seconds: PySpark reads a naive datetime in the timezone of the Python process.
    """
    from pyspark.sql import functions as F

    return F.timestamp_seconds(F.lit(int(at.replace(tzinfo=timezone.utc).timestamp())))


def grid_cell(at: Column) -> Column:
    """Start of the quarter of an hour, in seconds since 1970 (wall clock read as UTC)."""
    from pyspark.sql import functions as F

    instant = F.unix_seconds(at)
    return instant - F.pmod(instant, F.lit(GRID_SECONDS))


def cells(trips: DataFrame, location: str, flow: int) -> DataFrame:
    """(location_id, cell) → the measures of the trips that ended in the cell.

    Trips without a location tell of none. Spark sums within each task first, so that a zone
    with most of the trips sends no more rows than another. `flow` is what a trip adds to the net
    flow of the location: 1, -1 or 0.
    """
    from pyspark.sql import functions as F

    ended = F.col("dropoff_datetime")
    duration = F.unix_seconds(ended) - F.unix_seconds(F.col("pickup_datetime"))
    known = trips.where(F.col(location).isNotNull())
    return known.groupBy(F.col(location).alias("location_id"), grid_cell(ended).alias("cell")).agg(
        F.count(F.lit(1)).alias("trips"),
        F.sum(F.round(F.col("fare_amount") * MICRO).cast("long")).alias("microdollars"),
        F.sum(F.round(F.col("trip_distance") * MICRO).cast("long")).alias("micromiles"),
        F.sum(duration).alias("seconds"),
        (F.count(F.lit(1)) * flow).alias("flow"),
    )


def changes(counted: DataFrame, sums: Sequence[WindowSum]) -> DataFrame:
    """(location_id, at, one column a sum): what each sum gains or loses at that instant."""
    from pyspark.sql import functions as F

    at = F.col("cell") + GRID_SECONDS
    windows = sorted({s.window for s in sums})
    gains = F.struct(at.alias("at"), *(F.col(s.measure).alias(s.name) for s in sums))
    losses = [
        F.struct(
            (at + int(window.total_seconds())).alias("at"),
            *(
                (-F.col(s.measure) if s.window == window else F.lit(0).cast("long")).alias(s.name)
                for s in sums
            ),
        )
        for window in windows
    ]
    return counted.select("location_id", F.inline(F.array(gains, *losses)))


def pair_changes(
    trips: DataFrame, location: str, other: str, name: str, window: timedelta
) -> DataFrame:
    """(location_id, at, name): changes of the number of different `other` in the window.

    A pair of locations is active for the window after a trip. Of a chain of trips whose
    windows touch, only the first start and the last end change the number.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    length = int(window.total_seconds())
    pairs = (
        trips.where(F.col(location).isNotNull() & F.col(other).isNotNull())
        .select(
            F.col(location).alias("location_id"),
            F.col(other).alias("other"),
            grid_cell(F.col("dropoff_datetime")).alias("cell"),
        )
        .distinct()
    )
    chain = Window.partitionBy("location_id", "other").orderBy("cell")
    before, after = F.lag("cell").over(chain), F.lead("cell").over(chain)
    starts = F.when(before.isNull() | (before + length < F.col("cell")), F.lit(1))
    ends = F.when(after.isNull() | (F.col("cell") + length < after), F.lit(-1))
    at = F.col("cell") + GRID_SECONDS
    edges = F.array(
        F.struct(at.alias("at"), starts.cast("long").alias(name)),
        F.struct((at + length).alias("at"), ends.cast("long").alias(name)),
    )
    return (
        pairs.select("location_id", edges.alias("edges"))
        .select("location_id", F.inline("edges"))
        .where(F.col(name).isNotNull())
    )


def running_sums(frames: Sequence[DataFrame], months: Sequence[str]) -> DataFrame:
    """(location_id, known_at, known_month, the sums): a row at each instant a sum changes."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    keys = ("location_id", "at")
    names = list(dict.fromkeys(n for f in frames for n in f.columns if n not in keys))
    # Nulls with a type: those of unionByName(allowMissingColumns) have none in Sail.
    nothing = F.lit(None).cast("long")
    filled = [
        f.select(*keys, *(F.col(n) if n in f.columns else nothing.alias(n) for n in names))
        for f in frames
    ]
    changed = reduce(lambda one, other: one.unionAll(other), filled)
    moments = changed.groupBy("location_id", "at").agg(
        *(F.coalesce(F.sum(n), F.lit(0)).alias(n) for n in names)
    )
    past = Window.partitionBy("location_id").orderBy("at").rowsBetween(Window.unboundedPreceding, 0)
    known_at = F.timestamp_seconds("at")
    return moments.select(
        "location_id",
        known_at.alias("known_at"),
        F.date_format(known_at, "yyyy-MM").alias("known_month"),
        *(F.sum(n).over(past).alias(n) for n in names),
    ).where(F.col("known_month").isin(list(months)))


def ratio(above: str, below: str, scale: float = 1) -> Column:
    """`above / (below * scale)`; null where `below` is zero."""
    from pyspark.sql import functions as F

    return F.when(F.col(below) > 0, F.col(above) / (F.col(below) * scale))
