"""What the request itself tells: distance, hour, weekday; nothing known after the ride."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# What a request holds, and a trip when it begins.
FIELDS = ("pickup_location_id", "dropoff_location_id", "trip_distance", "pickup_datetime")


def with_request_features(trips: DataFrame) -> DataFrame:
    """Adds `schemas.REQUEST_FEATURES` that `trip_distance` and `pickup_datetime` imply."""
    from pyspark.sql import functions as F

    # 0 Monday. By dayofweek (1 Sunday), for Sail's weekday() of a Sunday is -1 (docs/adr/0018).
    weekday = ((F.dayofweek("pickup_datetime") + 5) % 7).cast("int")
    return trips.withColumns(
        {
            "pickup_hour": F.hour("pickup_datetime"),
            "pickup_weekday": weekday,
            "pickup_is_weekend": (weekday >= 5).cast("int"),
        }
    )
