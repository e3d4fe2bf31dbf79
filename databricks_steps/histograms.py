"""Histograms in Spark: bucket, group, count; every feature of a row in one pass.

Above `ALL_OF` rows, one in n is sampled and weighted by n: a share is then right to 0.001 in 999
of 1,000 cases (Dvoretzky-Kiefer-Wolfowitz), and no limit is near that (docs/adr/0017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from databricks_steps.distributions import LOCATIONS, PLACES, WEEKS, Bins, Counted, by_slice
from databricks_steps.months import numbered
from databricks_steps.trips.zones import NAMES, ZONES, zones_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ALL_OF = 4_000_000  # rows that are counted one by one
# What tells one trip from another among the columns that are read anyway.
_DRAWN_BY = ("pickup_datetime", *LOCATIONS, "trip_distance")


def counted(
    frame: DataFrame, bins: Mapping[str, Bins], months: Sequence[str], rows: int = 0
) -> dict[str, dict[str, Counted]]:
    """Month → slice → counts of the features of `bins` that the frame has.

    `frame` has both location ids, `pickup_datetime` and `trip_month`, too; rows of other months
    are left out, as are slices without a trip. `rows` is about how many there are: of more than
    `ALL_OF` a part is drawn, the same rows every time.
    """
    import numpy as np
    from pyspark.sql import functions as F

    if not months:
        return {}
    bins = {name: each for name, each in bins.items() if name in frame.columns}
    # By arithmetic: of a condition a month inside the next, engines read fifty months at most.
    first, column = numbered(min(months)), F.col("trip_month")
    month = column.substr(1, 4).cast("long") * 12 + column.substr(6, 2).cast("long") - (first + 1)
    zone = F.col(LOCATIONS[0])
    borough = F.lit(len(NAMES) - 1)
    for number, name in enumerate(NAMES[:-1]):
        borough = F.when(zone.isin(zones_of(name)), number).otherwise(borough)
    # A time is null or of another month in rows that nobody cleaned: they count as its first week.
    day = F.coalesce(F.dayofmonth("pickup_datetime"), F.lit(1))
    week = F.least(F.floor((day - 1) / 7), F.lit(WEEKS - 1))
    cell = ((month * len(NAMES) + borough) * WEEKS + week).cast("long")
    lost = [F.when(F.col(name).between(1, ZONES), 0).otherwise(1) for name in LOCATIONS]
    places = [*lost, *(each.place(F.col(name)) for name, each in bins.items())]
    # One number a value, of its cell, feature and place: engines group by one fastest.
    values = [
        (F.col("cell") * len(places) + number) * PLACES + place.cast("long")
        for number, place in enumerate(places)
    ]
    asked = frame.where(F.col("trip_month").isin(*months)).withColumn("cell", cell)
    one_in = max(1, rows // ALL_OF)
    if one_in > 1:
        asked = asked.where(F.pmod(F.xxhash64(*_DRAWN_BY), F.lit(one_in)) == 0)
    grouped = asked.select(F.explode(F.array(*values)).alias("value")).groupBy("value").count()
    found: Any = grouped.toPandas()
    shape = (len(NAMES), WEEKS, len(places), PLACES)
    counts = np.zeros((len(months), math.prod(shape)), dtype=np.int64)
    number, value = np.divmod(found["value"].to_numpy(), math.prod(shape))
    asked_for = np.array([numbered(name) - first for name in months])
    order = np.argsort(asked_for)
    row = order[np.searchsorted(asked_for, number, sorter=order)]
    counts[row, value] = found["count"].to_numpy() * one_in
    cells = counts.reshape(len(months), *shape)
    by_feature = cells.transpose(0, 3, 1, 2, 4)
    return {name: by_slice(tuple(bins), by_feature[number]) for number, name in enumerate(months)}
