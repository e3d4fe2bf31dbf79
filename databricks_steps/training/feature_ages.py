"""The error of a model by the age of the features that its rides meet, and without a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.features import lookups
from databricks_steps.features.request import NOT_TOLD, TRIP_TYPE
from databricks_steps.interfaces import Platform
from databricks_steps.training import dataset, evaluation
from databricks_steps.training.onnx_graph import onnx_predict

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

AGES = {
    "fresh": timedelta(0),
    "a day": timedelta(days=1),
    "a week": timedelta(days=7),
    "a month": timedelta(days=30),
    "two months": timedelta(days=60),
    "none": timedelta.max,
}


@dataclass(frozen=True)
class AgeError:
    """Errors in dollars where features are of this age; `without` is table → RMSE without it."""

    age: str
    rmse: float
    mae: float
    bias: float
    without: Mapping[str, float]


def errors(
    platform: Platform, training_set: DataFrame, graph: bytes, holdout: pd.DataFrame
) -> tuple[AgeError, ...]:
    """The model's errors on the holdout at each of `AGES`, no trip type told.

    `holdout` is as `dataset.parts` gives it, looked up at the settings' delay. From the lookback
    on no row is used: a week, a month, two months and none are the same then.
    """
    settings = platform.settings
    lookback = timedelta(days=settings.lookback_days)
    missing = timedelta.max
    known = {settings.lookup_delay: holdout, missing: dataset.without(holdout)}
    measured: dict[timedelta, AgeError] = {}
    found = []
    for age, delay in AGES.items():
        # A model that has learned no feature answers the same whatever they are.
        at = delay if delay < lookback and settings.features_are_served else missing
        if at not in known:
            known[at] = _looked_up(platform, training_set, holdout, at)
        if at not in measured:
            measured[at] = _error(graph, known[at], has_features=at != missing)
        found.append(replace(measured[at], age=age))
    return tuple(found)


def _looked_up(
    platform: Platform, training_set: DataFrame, holdout: pd.DataFrame, delay: timedelta
) -> pd.DataFrame:
    """The holdout's trips with the features as they were known so long before the pickup."""
    from pyspark.sql import functions as F

    asked = lookups.delayed(delay)
    features = [name for lookup in asked for name in lookup.features]
    trips = training_set.where(F.col("split") == schemas.HOLDOUT)
    months = sorted({f"{at:%Y-%m}" for at in holdout["pickup_datetime"]})
    keys = trips.select("trip_id", *dict.fromkeys([x.key for x in asked] + [x.at for x in asked]))
    told: Any = platform.features.look_up(keys, asked, months).select("trip_id", *features)
    values = told.toPandas().set_index("trip_id").loc[holdout["trip_id"]]
    found: pd.DataFrame = holdout.assign(**{name: values[name].to_numpy() for name in features})
    return found


def _error(graph: bytes, trips: pd.DataFrame, *, has_features: bool) -> AgeError:
    def measured(frame: pd.DataFrame) -> dict[str, float]:
        fares, _ = onnx_predict(graph, frame)
        return evaluation.measures(frame[schemas.LABEL].to_numpy(), fares)

    asked = trips.assign(**{TRIP_TYPE: NOT_TOLD})
    whole = measured(asked)
    without = {
        x.table.name: measured(dataset.without(asked, tables=[x]))["rmse"]
        if has_features
        else whole["rmse"]
        for x in lookups.LOOKUPS
    }
    return AgeError("", whole["rmse"], whole["mae"], whole["bias"], without)
