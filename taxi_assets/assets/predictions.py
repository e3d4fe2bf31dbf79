"""Predictions: the champion's fares for whole months of trips."""

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
from taxi_assets.assets.training import champion_model
from taxi_assets.partitions import MONTHS, ONE_RUN

CHECKS = {
    "rows_conserved": "Every trip has just one prediction by the champion's version",
    "no_null_predictions": "No prediction is null, NaN or negative",
}


@dg.asset(
    deps=["trips", pickup_features, dropoff_features, champion_model],
    partitions_def=MONTHS,
    backfill_policy=ONE_RUN,
    group_name="predictions",
    kinds={"pyspark", "onnx", "delta"},
    owners=OWNERS,
    description=described("batch_predictions"),
    metadata=table_metadata("batch_predictions"),
    check_specs=blocking("batch_predictions", CHECKS),
    required_resource_keys=LAUNCHED,
)
def batch_predictions(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "batch_predictions", config.force)
