"""Features: what ended trips tell of pickup and dropoff locations, as known at each instant."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from databricks_steps.features.windows import REACH
from databricks_steps.months import start, with_months_before
from taxi_assets.assets.materialize import (
    LAUNCHED,
    OWNERS,
    StepConfig,
    blocking,
    described,
    materialized,
    table_metadata,
)
from taxi_assets.partitions import MONTHS, ONE_RUN

GROUP = "features"
KINDS = {"pyspark", "delta"}

CHECKS = {
    "key_unique": "Every (location_id, known_at) occurs once and is not null",
    "no_future_knowledge": "A sample of trips looks up what the trips ended by then tell, "
    "recomputed by brute force",
}
# How many months before its own a month of features reads.
_BEFORE = len(with_months_before([f"{start('2022-03'):%Y-%m}"], REACH)) - 1
TRIPS = dg.AssetDep("trips", partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-_BEFORE))


def _features(name: str) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    return dg.asset(
        name=name,
        deps=[TRIPS],
        partitions_def=MONTHS,
        backfill_policy=ONE_RUN,
        group_name=GROUP,
        kinds=KINDS,
        owners=OWNERS,
        description=described(name),
        metadata=table_metadata(name),
        check_specs=blocking(name, CHECKS),
        required_resource_keys=LAUNCHED,
    )


@_features("pickup_features")
def pickup_features(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "pickup_features", config.force)


@_features("dropoff_features")
def dropoff_features(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "dropoff_features", config.force)
