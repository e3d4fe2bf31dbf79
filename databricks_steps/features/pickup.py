"""`pickup_features`: what ended trips tell of the location they started from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.features import windows
from databricks_steps.features.request import AIRPORTS
from databricks_steps.features.windows import DAY, HOUR, MICRO, WEEK, WindowSum

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SUMS = (
    WindowSum("trips_1h", "trips", HOUR),
    WindowSum("microdollars_1h", "microdollars", HOUR),
    WindowSum("micromiles_1h", "micromiles", HOUR),
    WindowSum("seconds_1h", "seconds", HOUR),
    WindowSum("trips_24h", "trips", DAY),
    WindowSum("microdollars_24h", "microdollars", DAY),
    WindowSum("trips_7d", "trips", WEEK),
    WindowSum("microdollars_7d", "microdollars", WEEK),
    WindowSum("micromiles_7d", "micromiles", WEEK),
)


def pickup_features(trips: DataFrame, months: Sequence[str]) -> DataFrame:
    """Trips → rows of `schemas.PICKUP_FEATURES` for these months, `computed_at` now."""
    from pyspark.sql import functions as F

    counted = windows.cells(windows.ended_between(trips, months), "pickup_location_id", flow=0)
    sums = windows.running_sums([windows.changes(counted, SUMS)], months)
    return sums.select(
        "location_id",
        "known_at",
        F.col("trips_1h").alias("pickup_trip_count_1h"),
        F.col("trips_24h").alias("pickup_trip_count_24h"),
        windows.ratio("microdollars_1h", "trips_1h", MICRO).alias("pickup_mean_fare_1h"),
        windows.ratio("microdollars_24h", "trips_24h", MICRO).alias("pickup_mean_fare_24h"),
        windows.ratio("microdollars_7d", "trips_7d", MICRO).alias("pickup_mean_fare_7d"),
        windows.ratio("microdollars_7d", "micromiles_7d").alias("pickup_fare_per_mile_7d"),
        windows.ratio("micromiles_1h", "seconds_1h", MICRO / 3600).alias("pickup_mean_speed_1h"),
        F.col("location_id").isin(list(AIRPORTS)).cast("int").alias("pickup_is_airport"),
        F.current_timestamp().alias("computed_at"),
        "known_month",
    ).select(*schemas.PICKUP_FEATURES.names)
