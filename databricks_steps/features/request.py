"""What the request itself tells: distance, zones, hour, weekday; nothing known after the ride."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# What a request holds, and a trip when it begins.
FIELDS = ("pickup_location_id", "dropoff_location_id", "trip_distance", "pickup_datetime")
# JFK, LaGuardia and Newark, as taxi zones and as zip codes.
AIRPORTS = (1, 132, 138, 11430, 11371, 7114)
TRIP_TYPE = "trip_type"  # may be in a request
TRIP_TYPES = (1, 2)  # street hail, dispatch; whatever else stands there is not told
NOT_TOLD = 0


def with_request_features(trips: DataFrame) -> DataFrame:
    """Adds the `schemas.REQUEST_FEATURES` that `FIELDS` imply, and the trip type where told."""
    from pyspark.sql import functions as F

    # 0 Monday. By dayofweek (1 Sunday), for Sail's weekday() of a Sunday is -1 (docs/adr/0018).
    weekday = ((F.dayofweek("pickup_datetime") + 5) % 7).cast("int")
    told = F.col(TRIP_TYPE) if TRIP_TYPE in trips.columns else F.lit(NOT_TOLD)
    return trips.withColumns(
        {
            "pickup_hour": F.hour("pickup_datetime"),
            "pickup_weekday": weekday,
            "pickup_is_weekend": (weekday >= 5).cast("int"),
            "pickup_is_airport": _is_airport("pickup_location_id"),
            "dropoff_is_airport": _is_airport("dropoff_location_id"),
            TRIP_TYPE: F.when(told.isin(*TRIP_TYPES), told).otherwise(NOT_TOLD).cast("int"),
        }
    )


def _is_airport(location: str) -> Column:
    from pyspark.sql import functions as F

    return F.coalesce(F.col(location).isin(*AIRPORTS), F.lit(False)).cast("int")
