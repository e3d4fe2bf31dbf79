"""Training: the point-in-time training set, the candidate, and who is champion."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from taxi_assets.assets.features import dropoff_features, pickup_features
from taxi_assets.assets.materialize import (
    LAUNCHED,
    OWNERS,
    StepConfig,
    blocking,
    described,
    materialized,
    table_metadata,
)

GROUP = "training"

MODEL_CHECKS = {
    "beats_baseline": "Holdout RMSE and R² beat the metered-fare formula and the mean",
    "no_label_leak": "With fares shuffled before features are made, the holdout R² is about zero",
    "champion_not_better": "The champion, on the same holdout rows, is not surely better",
    "slices": "No slice of the holdout is surely worse than the champion, by more than its limit",
    "onnx_parity": "The graph that serves gives the pipeline's fares on the whole holdout",
}


@dg.asset(
    deps=["trips", pickup_features, dropoff_features],
    group_name=GROUP,
    kinds={"pyspark", "delta"},
    owners=OWNERS,
    description=described("training_set"),
    metadata=table_metadata("training_set"),
    required_resource_keys=LAUNCHED,
)
def training_set(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "training_set", config.force)


@dg.asset(
    deps=[training_set, "trips"],
    group_name=GROUP,
    kinds={"scikitlearn", "mlflow", "onnx"},
    owners=OWNERS,
    description="A random forest, logged and registered in MLflow: the candidate version.",
    check_specs=blocking("fare_model", MODEL_CHECKS),
    required_resource_keys=LAUNCHED,
)
def fare_model(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "fare_model", config.force)


@dg.asset(
    deps=[fare_model],
    group_name=GROUP,
    kinds={"mlflow"},
    owners=OWNERS,
    description="The alias `champion`: moves to the candidate once its blocking checks passed. "
    "Each move is a row of the table deployments.",
    metadata=table_metadata("deployments"),
    required_resource_keys=LAUNCHED,
)
def champion_model(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "champion_model", config.force)
