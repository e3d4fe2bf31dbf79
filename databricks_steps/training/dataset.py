"""`training_set`: trips with features as known at the pickup, split by time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.errors import ModelError

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

TRAIN, HOLDOUT, BETWEEN = "train", "holdout", "between"
INPUTS = tuple(column.name for column in schemas.MODEL_INPUTS)
LEAST_ROWS = 100  # in each part; fewer tell nothing


def with_split(trips: DataFrame, holdout_share: float) -> DataFrame:
    """Adds `split`: `holdout` for the last share by pickup time, `train` for trips over by then.

    Trips under way when the holdout begins are `between`: their fare was not known yet, so a
    model made at that instant could not have learnt from them.
    """
    from pyspark.sql import functions as F  # noqa: N812

    micros = F.unix_micros("pickup_datetime")
    cutoff = trips.select(
        F.percentile_approx(micros, 1 - holdout_share, 1_000_000).alias("at")
    ).first()
    at = F.lit(cutoff["at"] if cutoff else None)
    over = F.unix_micros("dropoff_datetime") < at
    return trips.withColumn(
        "split", F.when(micros >= at, HOLDOUT).when(over, TRAIN).otherwise(BETWEEN)
    )


def part(training_set: DataFrame, split: str, most: int) -> pd.DataFrame:
    """The rows of one split on this machine: inputs, label and zones, in a fixed order.

    A larger split is sampled by the hash of the trip, so the same rows come every time.

    Raises:
        ModelError: fewer than `LEAST_ROWS` rows, or every fare is the same.
    """
    from pyspark.sql import functions as F  # noqa: N812

    rows = training_set.where(F.col("split") == split)
    total = rows.count()
    if total > most:
        rows = rows.where(F.pmod(F.xxhash64("trip_id"), F.lit(total)) < most)
    names = ["trip_id", "pickup_datetime", *_ZONES, *INPUTS, schemas.LABEL]
    collected: Any = rows.select(*names).toPandas()
    frame: pd.DataFrame = collected.sort_values(["pickup_datetime", "trip_id"], ignore_index=True)
    remedy = "Add months, or look at quarantined_trips for why so few trips are valid"
    if len(frame) < LEAST_ROWS:
        raise ModelError(f"The {split} part needs {LEAST_ROWS} trips", len(frame), remedy)
    if frame[schemas.LABEL].nunique() < 2:
        fare = frame[schemas.LABEL].iloc[0]
        raise ModelError(f"The {split} part must hold different fares", f"all are {fare}", remedy)
    return frame


def matrix(frame: pd.DataFrame) -> Any:
    """The inputs as the float32 matrix of the ONNX graph, shape (rows, inputs)."""
    return frame[list(INPUTS)].to_numpy(dtype="float32")


_ZONES = ("pickup_location_id", "dropoff_location_id")
