"""`dropoff_features`: what ended trips tell of the location they went to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.features import windows
from databricks_steps.features.windows import DAY, HALF_HOUR, HOUR, MICRO, WEEK, WindowSum

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SUMS = (
    WindowSum("trips_30m", "trips", HALF_HOUR),
    WindowSum("flow_1h", "flow", HOUR),
    WindowSum("trips_24h", "trips", DAY),
    WindowSum("trips_7d", "trips", WEEK),
    WindowSum("microdollars_7d", "microdollars", WEEK),
    WindowSum("micromiles_7d", "micromiles", WEEK),
)
OUTFLOW = (WindowSum("flow_1h", "flow", HOUR),)


def dropoff_features(trips: DataFrame, months: Sequence[str]) -> DataFrame:
    """Trips → rows of `schemas.DROPOFF_FEATURES` for these months, `computed_at` now."""
    from pyspark.sql import functions as F

    ended = windows.ended_between(trips, months)
    arrived = windows.cells(ended, "dropoff_location_id", flow=1)
    left = windows.cells(ended, "pickup_location_id", flow=-1)
    origins = windows.pair_changes(
        ended, "dropoff_location_id", "pickup_location_id", "origins_24h", DAY
    )
    sums = windows.running_sums(
        [windows.changes(arrived, SUMS), windows.changes(left, OUTFLOW), origins], months
    )
    return sums.select(
        "location_id",
        "known_at",
        F.col("trips_30m").alias("dropoff_trip_count_30m"),
        F.col("trips_24h").alias("dropoff_trip_count_24h"),
        windows.ratio("microdollars_7d", "trips_7d", MICRO).alias("dropoff_mean_fare_7d"),
        windows.ratio("microdollars_7d", "micromiles_7d").alias("dropoff_fare_per_mile_7d"),
        F.col("origins_24h").alias("dropoff_distinct_pickups_24h"),
        F.col("flow_1h").alias("dropoff_net_flow_1h"),
        F.current_timestamp().alias("computed_at"),
        "known_month",
    ).select(*schemas.DROPOFF_FEATURES.names)
