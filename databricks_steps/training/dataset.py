"""`training_set`: trips with features as known at the pickup, split by time."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.errors import ModelError
from databricks_steps.features import lookups
from databricks_steps.features.request import NOT_TOLD, TRIP_TYPE, with_request_features
from databricks_steps.interfaces import Platform
from databricks_steps.schemas import BETWEEN, HOLDOUT, TRAIN
from databricks_steps.settings import Settings
from databricks_steps.training import tariff
from databricks_steps.trips.kinds import kind

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, DataFrame

    from databricks_steps.features.lookups import Lookup

INPUTS = tuple(column.name for column in schemas.MODEL_INPUTS)
_HOUR = 3_600_000_000  # microseconds
LEAST_ROWS = 100  # in each part; fewer tell nothing
LEAST_OF_TARIFF = 1_000  # metered trips that a model can learn a tariff from
MOST_HELD = 0.5  # of the newest month's trips
_LOG = logging.getLogger(__name__)


def training_rows(
    platform: Platform, months: Sequence[str], versions: Mapping[str, int] | None = None
) -> DataFrame:
    """Trips of the months → rows of `schemas.TRAINING_SET`.

    `versions` (table → version) reads trips and features as they were then: later corrections
    change nothing of what a training set saw.
    """
    share = platform.settings.holdout_share
    trips = platform.tables.read("trips", months, (versions or {}).get("trips"))
    trips = of_newest_tariff(trips, months)
    split = with_split(trips, _split_at(trips, max(months), share))
    wanted = lookups.delayed(platform.settings.lookup_delay)
    looked_up = platform.features.look_up(split, wanted, months, versions)
    asked = with_request_features(looked_up).withColumn("kind", kind())
    return asked.select(*schemas.TRAINING_SET.names)


def of_newest_tariff(trips: DataFrame, months: Sequence[str]) -> DataFrame:
    """The trips without those of before the newest change of the tariff.

    A model of two tariffs charges a mean of them. Where too few are left all stay: the next month
    will tell.
    """
    from pyspark.sql import functions as F

    metered = {month: tariff.metered(trips, month) for month in sorted(months)}
    since = tariff.newest_change(metered)
    left = sum(int((rows["day"] >= since).sum()) for rows in metered.values())
    if not since or left < LEAST_OF_TARIFF:
        return trips
    _LOG.info("leaves out trips of before %s, which another tariff made", since)
    return trips.where(F.date_format("pickup_datetime", "yyyy-MM-dd") >= since)


def _split_at(trips: DataFrame, newest: str, share: float) -> int | None:
    """When the holdout begins: with the last share of the trips, and in the newest month.

    However few trips that has, it is learned from: half of it at least.
    """
    starts = (
        holdout_start(trips, share),
        holdout_start(trips.where(f"trip_month = '{newest}'"), MOST_HELD),
    )
    return max((start for start in starts if start is not None), default=None)


def holdout_start(trips: DataFrame, holdout_share: float) -> int | None:
    """The pickup time from which on the last share of the trips lies; microseconds since 1970.

    Exact, and the same on every engine (`percentile_approx` is not): the first time by which at
    least the other share has been picked up. Hours are counted first, then that hour's times.
    """
    from pyspark.sql import functions as F

    micros = F.unix_micros("pickup_datetime")
    hour = F.floor(micros / _HOUR).cast("long")
    hours = _counts(trips, hour)
    rank = max(math.ceil(sum(hours.values()) * (1 - holdout_share)), 1)
    found, before = _at_rank(hours, rank)
    if found is None:
        return None
    return _at_rank(_counts(trips.where(hour == found), micros), rank - before)[0]


def _counts(trips: DataFrame, value: Column) -> dict[int, int]:
    """Value → rows, ascending; nulls count for nothing."""
    counted = trips.groupBy(value.alias("value")).count().where("value IS NOT NULL")
    return {row["value"]: row["count"] for row in sorted(counted.collect())}


def _at_rank(counts: Mapping[int, int], rank: int) -> tuple[int | None, int]:
    """The value whose rows, in order, hold the `rank`th (from 1), and the rows before it."""
    before = 0
    for value, rows in counts.items():
        if before + rows >= rank:
            return value, before
        before += rows
    return None, before


def with_split(trips: DataFrame, start: int | None) -> DataFrame:
    """Adds `split`: `holdout` for trips picked up from `start` on, `train` for those over by then.

    Trips under way when the holdout begins are `between`: their fare was not known yet, so a
    model made at that instant could not have learnt from them.
    """
    from pyspark.sql import functions as F

    held = F.unix_micros("pickup_datetime") >= F.lit(start)
    over = F.unix_micros("dropoff_datetime") < F.lit(start)
    return trips.withColumn("split", F.when(held, HOLDOUT).when(over, TRAIN).otherwise(BETWEEN))


def parts(training_set: DataFrame, most: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of `train` and of `holdout` on this machine, ordered by pickup time.

    A part of more than `most` rows is sampled by the hash of the trip: the same rows every time.

    Raises:
        ModelError: a part has fewer than `LEAST_ROWS` rows, or every fare in it is the same.
    """
    from pyspark.sql import functions as F

    counted = {r["split"]: r["count"] for r in training_set.groupBy("split").count().collect()}
    kept = F.lit(False)
    for split in (TRAIN, HOLDOUT):
        rows = max(counted.get(split, 0), 1)
        sampled = F.pmod(F.xxhash64("trip_id"), F.lit(rows)) < most
        kept = kept | ((F.col("split") == split) & sampled)
    names = ["trip_id", "pickup_datetime", "split", "kind", *INPUTS, schemas.LABEL]
    frame: Any = training_set.where(kept).select(*names).toPandas()
    ordered: pd.DataFrame = frame.sort_values(["pickup_datetime", "trip_id"])
    train, holdout = (
        ordered[ordered["split"] == split].reset_index(drop=True) for split in (TRAIN, HOLDOUT)
    )
    _require_enough(train, TRAIN)
    _require_enough(holdout, HOLDOUT)
    return train, holdout


def as_taught(train: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """What a model learns from: features as old as when served, and none for every other trip.

    So it knows a ride that meets no feature row, too. Where no ride meets one, all have none.
    """
    none = slice(None, None, 2 if settings.features_are_served else 1)
    return without(train, train.index[none])


def as_served(trips: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The trips as rides are asked for: features as old as then, no trip type told."""
    asked: pd.DataFrame = trips.assign(**{TRIP_TYPE: NOT_TOLD})
    return asked if settings.features_are_served else without(asked)


def without(
    trips: pd.DataFrame,
    rows: Any = slice(None),
    tables: Sequence[Lookup] = lookups.LOOKUPS,
) -> pd.DataFrame:
    """The trips with the defaults in place of the tables' features, in those rows of the index."""
    found: pd.DataFrame = trips.copy()
    for lookup in tables:
        for name, default in lookup.defaults.items():
            found.loc[rows, name] = default
    return found


def rows_by_month(training_set: DataFrame) -> dict[str, dict[str, int]]:
    """Month → split → rows, months ascending."""
    counted = training_set.groupBy("trip_month", "split").count().orderBy("trip_month", "split")
    found: dict[str, dict[str, int]] = {}
    for row in counted.collect():
        found.setdefault(row["trip_month"], {})[row["split"]] = row["count"]
    return found


def matrix(frame: pd.DataFrame) -> Any:
    """The inputs as the float32 matrix of the ONNX graph, shape (rows, inputs)."""
    return frame[list(INPUTS)].to_numpy(dtype="float32")


def _require_enough(part: pd.DataFrame, split: str) -> None:
    remedy = "Add months, or look at quarantined_trips for why so few trips are valid"
    if len(part) < LEAST_ROWS:
        raise ModelError(f"The {split} part needs {LEAST_ROWS} trips", len(part), remedy)
    if part[schemas.LABEL].nunique() < 2:
        fare = part[schemas.LABEL].iloc[0]
        raise ModelError(f"The {split} part must hold different fares", f"all are {fare}", remedy)
