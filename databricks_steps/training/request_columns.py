"""Columns of a request → inputs of the model, for a server that knows nothing of the contract.

The emulator computes these itself; on Databricks the logged model begins with this step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline

from databricks_steps.training.dataset import INPUTS

if TYPE_CHECKING:
    import pandas as pd


class RequestColumns(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Adds hour, weekday and weekend of `pickup_datetime`, as `features.request` does in Spark."""

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
        derived = {
            "pickup_hour": at.dt.hour,
            "pickup_weekday": weekday,
            "pickup_is_weekend": (weekday >= 5).astype("int64"),
        }
        inputs: pd.DataFrame = X.assign(**derived)[list(INPUTS)].astype("float64")
        return inputs


def from_requests(pipeline: Pipeline) -> Pipeline:
    """The pipeline, taking requests with their looked-up features."""
    return Pipeline([("request", RequestColumns()), *pipeline.steps])
