"""Trips: raw as published, valid, and quarantined."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

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

GROUP = "trips"
KINDS = {"pyspark", "delta"}

TRIPS_CHECKS = {
    "rows_conserved": "rows(raw_trips) = rows(trips) + rows(quarantined_trips), month by month",
    "schema_contract": "Columns and types are those of schemas.py; required ones hold no null",
}


@dg.asset(
    partitions_def=MONTHS,
    backfill_policy=ONE_RUN,
    group_name=GROUP,
    kinds=KINDS,
    owners=OWNERS,
    description=described("raw_trips"),
    metadata=table_metadata("raw_trips"),
    required_resource_keys=LAUNCHED,
)
def raw_trips(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "raw_trips", config.force)


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            name,
            deps=[raw_trips],
            group_name=GROUP,
            kinds=KINDS,
            owners=OWNERS,
            description=described(name),
            metadata=table_metadata(name),
            partitions_def=MONTHS,
        )
        for name in ("trips", "quarantined_trips")
    ],
    name="trips",
    check_specs=blocking("trips", TRIPS_CHECKS),
    backfill_policy=ONE_RUN,
    required_resource_keys=LAUNCHED,
)
def trips(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "trips", config.force)
