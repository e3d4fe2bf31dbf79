"""The model's pipeline and its fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from databricks_steps import schemas
from databricks_steps.features.request import TRIP_TYPE
from databricks_steps.settings import Forest
from databricks_steps.training.dataset import INPUTS

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline


def fit(train: pd.DataFrame, forest: Forest) -> Pipeline:
    """A fitted pipeline: picks the inputs by name, whatever else a frame holds; then the model."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    from databricks_steps.training.forest import MeteredForest

    model = MeteredForest(
        INPUTS.index("trip_distance"),
        (INPUTS.index("pickup_location_id"), INPUTS.index("dropoff_location_id")),
        INPUTS.index(TRIP_TYPE),
        **forest.params(len(train)),
    )
    pipeline = Pipeline(
        [
            ("inputs", ColumnTransformer([("inputs", "passthrough", list(INPUTS))])),
            ("forest", model),
        ]
    )
    return pipeline.fit(train[list(INPUTS)], train[schemas.LABEL])
