"""Columns of a request → inputs of the model, for a server that knows nothing of the contract.

The emulator reads requests itself; on Databricks the logged model begins with this step, whose
rules are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline

from databricks_steps.features.request import FIELDS, TRIP_TYPE
from databricks_steps.inference import request
from databricks_steps.training.dataset import INPUTS

if TYPE_CHECKING:
    import pandas as pd


class RequestColumns(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Refuses what no request may hold, and adds what one implies, as `features.request` does."""

    def fit(self, X: pd.DataFrame, y: object = None) -> RequestColumns:  # noqa: N803
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True  # there is nothing to learn

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """Rows of a request with their looked-up features → the model's inputs, in order.

        Numbers of any type come out as floats: a server makes its frame of rows, not of a schema.

        Raises:
            RequestError: a value breaks the contract, in the words of the emulator.
        """
        asked = request.of_columns(
            {name: _plain(X[name]) for name in FIELDS}
            | {TRIP_TYPE: _plain(X[TRIP_TYPE]) if TRIP_TYPE in X else [None] * len(X)}
        )
        inputs: pd.DataFrame = X.assign(**asked.features())[list(INPUTS)].astype("float64")
        return inputs


def _plain(column: pd.Series[Any]) -> list[Any]:
    """Values as JSON has them: times as text, null for what is not there."""
    if column.dtype.kind == "M":
        column = column.dt.strftime("%Y-%m-%d %H:%M:%S")
    values: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return values


def from_requests(pipeline: Pipeline) -> Pipeline:
    """The pipeline, taking requests with their looked-up features."""
    return Pipeline([("request", RequestColumns()), *pipeline.steps])
