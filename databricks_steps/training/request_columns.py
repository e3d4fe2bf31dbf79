"""Columns of a request → inputs of the model, for a server that knows nothing of the contract.

The emulator computes these itself; on Databricks the logged model begins with this step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline

from databricks_steps.features.request import AIRPORTS, NOT_TOLD, TRIP_TYPE, TRIP_TYPES
from databricks_steps.training.dataset import INPUTS

if TYPE_CHECKING:
    import pandas as pd


class RequestColumns(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Adds what a request implies, as `features.request` does in Spark."""

    def fit(self, X: pd.DataFrame, y: object = None) -> RequestColumns:  # noqa: N803
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True  # there is nothing to learn

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """Rows of a request with their looked-up features → the model's inputs, in order.

        Numbers of any type come out as floats: a server makes its frame of rows, not of a schema.
        """
        import pandas as pd

        at = pd.to_datetime(X["pickup_datetime"])
        weekday = at.dt.weekday
        kinds = X.get(TRIP_TYPE, pd.Series(NOT_TOLD, index=X.index))
        derived = {
            "pickup_hour": at.dt.hour,
            "pickup_weekday": weekday,
            "pickup_is_weekend": (weekday >= 5).astype("int64"),
            "pickup_is_airport": X["pickup_location_id"].isin(AIRPORTS).astype("int64"),
            "dropoff_is_airport": X["dropoff_location_id"].isin(AIRPORTS).astype("int64"),
            TRIP_TYPE: kinds.where(kinds.isin(TRIP_TYPES), NOT_TOLD).astype("int64"),
        }
        inputs: pd.DataFrame = X.assign(**derived)[list(INPUTS)].astype("float64")
        return inputs


def from_requests(pipeline: Pipeline) -> Pipeline:
    """The pipeline, taking requests with their looked-up features."""
    return Pipeline([("request", RequestColumns()), *pipeline.steps])
