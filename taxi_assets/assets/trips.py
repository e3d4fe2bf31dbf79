"""Trips: raw as published, valid, and quarantined."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from databricks_steps import schemas
from databricks_steps.trips import arrivals
from taxi_assets.assets.materialize import (
    LAUNCHED,
    OWNERS,
    StepConfig,
    check_specs,
    materialized,
    step_assets,
    table_metadata,
)
from taxi_assets.partitions import MONTHS, ONE_RUN

GROUP = "trips"
KINDS = {"pyspark", "delta"}

RAW_CHECKS = {
    "source_schema": "The publisher gives the columns of the month before",
    arrivals.READABLE: "Every file that came and should hold trips can be read",
}
TRIPS_HEALTH = {
    "quarantine_rate": "The share of rows that break a rule is as usual",
    "volume": "Trips a day, against the median of the months before",
    "month_complete": "Every day has trips, and the month that TLC has published by now is in",
}
TRIPS_CHECKS = {
    "rows_conserved": "rows(raw_trips) = rows(trips) + rows(quarantined_trips), month by month",
    "schema_contract": "Columns and types are those of schemas.py; required ones hold no null",
}


class SourceConfig(StepConfig):
    """Options of raw trips."""

    source: str = ""
    """Where this materialization takes its trips from; empty: the source of the settings."""


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            name,
            group_name=group,
            kinds=KINDS,
            owners=OWNERS,
            description=schemas.TABLES[name].comment,
            metadata=table_metadata(name),
            partitions_def=MONTHS,
        )
        for name, group in (("raw_trips", GROUP), (arrivals.NAME, arrivals.NAME))
    ],
    name="raw_trips",
    check_specs=check_specs("raw_trips", RAW_CHECKS),
    backfill_policy=ONE_RUN,
    required_resource_keys=LAUNCHED,
)
def raw_trips(
    context: dg.AssetExecutionContext, config: SourceConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "raw_trips", config.force, config.source)


trips = step_assets(
    "trips", GROUP, blocking={"trips": TRIPS_CHECKS}, telling={"trips": TRIPS_HEALTH}
)
