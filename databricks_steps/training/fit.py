"""The model's pipeline and its fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.features.request import TRIP_TYPE
from databricks_steps.settings import Boosting, Forest
from databricks_steps.training.dataset import INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

    from databricks_steps.training.metered import Metered


def fit(train: pd.DataFrame, parameters: Forest | Boosting) -> Pipeline:
    """A fitted pipeline: picks the inputs by name, whatever else a frame holds; then the model."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    pipeline = Pipeline(
        [
            ("inputs", ColumnTransformer([("inputs", "passthrough", list(INPUTS))])),
            ("model", estimator(parameters, len(train))),
        ]
    )
    return pipeline.fit(train[list(INPUTS)], train[schemas.LABEL])


def estimator(parameters: Forest | Boosting, rows: int) -> Metered:
    """The model with the ensemble that these parameters are of, for so many training rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

    from databricks_steps.training.boosting import QuantileBoosters
    from databricks_steps.training.metered import Metered

    given = parameters.params(rows)
    ensemble = (
        RandomForestRegressor(**given)
        if isinstance(parameters, Forest)
        else QuantileBoosters(
            quantiles=given.pop("quantiles"), booster=HistGradientBoostingRegressor(**given)
        )
    )
    return Metered(
        ensemble,
        distance=INPUTS.index("trip_distance"),
        zones=(INPUTS.index("pickup_location_id"), INPUTS.index("dropoff_location_id")),
        trip_type=INPUTS.index(TRIP_TYPE),
    )
