"""Predictions and the fares that came in later: which trip each prediction was for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from databricks_steps.features.request import FIELDS, with_request_features
from databricks_steps.monitoring.inference_table import CLIENT
from databricks_steps.schemas import LABEL

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def with_fares(scored: DataFrame, trips: DataFrame) -> DataFrame:
    """Scored trips with the fares paid, which they may have already."""
    if LABEL in scored.columns:
        return scored
    return scored.join(trips.select("trip_id", LABEL), "trip_id", "left")


def endpoint_predictions(payloads: DataFrame, trips: DataFrame, version: str) -> DataFrame:
    """Fares that clients got from the version for the months of the trips, with the fares paid.

    A request for one trip may carry the trip's id; else zones, distance and time of the pickup
    must be those of just one trip.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    months = [row["trip_month"] for row in trips.select("trip_month").distinct().collect()]
    ours = payloads.where((F.col("model_version") == version) & (F.col("origin") == CLIENT))
    asked = ours.withColumns(
        {
            "_rows": F.count("*").over(Window.partitionBy("request_id")),
            "trip_month": F.date_format("pickup_datetime", "yyyy-MM"),
        }
    ).where(F.col("trip_month").isin(months))
    asked = asked.withColumn("_id", F.when(F.col("_rows") == 1, F.col("client_request_id")))
    ids, fields = asked.select("_id").distinct(), asked.select(*FIELDS).distinct()
    by_id = trips.join(ids, trips["trip_id"] == ids["_id"])
    by_id = by_id.select("_id", F.col(LABEL).alias("_fare_by_id"))
    only_one = F.when(F.count("*") == 1, F.first(LABEL)).alias("_fare_by_fields")
    by_fields = trips.join(fields, list(FIELDS)).groupBy(*FIELDS).agg(only_one)
    found = asked.join(by_id, "_id", "left").join(by_fields, list(FIELDS), "left")
    fare = F.coalesce("_fare_by_id", "_fare_by_fields")
    return with_request_features(found).withColumn(LABEL, fare)
