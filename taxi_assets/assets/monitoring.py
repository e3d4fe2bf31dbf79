"""Monitoring: what the endpoint answered, how far a month is from what was learned, live error."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from databricks_steps.interfaces import Verdict
from taxi_assets.assets.features import dropoff_features, pickup_features
from taxi_assets.assets.materialize import (
    LAUNCHED,
    OWNERS,
    StepConfig,
    described,
    materialized,
    table_metadata,
    telling,
)
from taxi_assets.assets.predictions import batch_predictions
from taxi_assets.assets.serving import serving_endpoint
from taxi_assets.partitions import MONTHS, ONE_RUN

GROUP = "monitoring"
KINDS = {"pyspark", "delta"}

PAYLOAD_CHECKS = {"readable": "What the endpoint answered with 200 can be read back"}
REPORT_CHECKS = {"triage": "The class of the month: none of drift, live error, missing values"}
ERROR_CHECKS = {
    "live_error": "On trips it has not learned from, the champion errs as on its holdout"
}


@dg.asset(
    deps=[serving_endpoint],
    partitions_def=MONTHS,
    backfill_policy=ONE_RUN,
    group_name=GROUP,
    kinds=KINDS,
    owners=OWNERS,
    description=described("endpoint_payloads"),
    metadata=table_metadata("endpoint_payloads"),
    check_specs=telling("endpoint_payloads", PAYLOAD_CHECKS),
    required_resource_keys=LAUNCHED,
)
def endpoint_payloads(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "endpoint_payloads", config.force)


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            name,
            deps=[
                "trips",
                pickup_features,
                dropoff_features,
                batch_predictions,
                endpoint_payloads,
            ],
            group_name=GROUP,
            kinds=KINDS,
            owners=OWNERS,
            description=described(name),
            metadata=table_metadata(name),
            partitions_def=MONTHS,
        )
        for name in ("drift_report", "live_performance")
    ],
    name="drift_report",
    check_specs=[
        *telling("drift_report", REPORT_CHECKS),
        *telling("live_performance", ERROR_CHECKS),
    ],
    backfill_policy=ONE_RUN,
    required_resource_keys=LAUNCHED,
)
def drift_report(
    context: dg.AssetExecutionContext, config: StepConfig
) -> Iterator[dg.MaterializeResult[Any]]:
    yield from materialized(context, "drift_report", config.force)


def newest_report(
    instance: dg.DagsterInstance, months: Sequence[str] | None
) -> Mapping[str, Any] | None:
    """What the newest materialization of `drift_report` says of the last of the months (or of all).

    Its metadata is what sensors and checks go by: it can be read without Spark, on any platform.
    Gives `verdicts` (asset → verdict) and `triage`; None where nothing was told yet.
    """
    asked = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey("drift_report"), asset_partitions=[max(months)] if months else None
    )
    records = instance.fetch_materializations(asked, limit=1).records
    found = records[0].asset_materialization if records else None
    if found is None or "verdicts" not in found.metadata:
        return None
    return {name: found.metadata[name].value for name in ("verdicts", "triage")}


def verdict_on(report: Mapping[str, Any], asset: str) -> Verdict:
    """The verdict of a report on an asset."""
    return Verdict(**report["verdicts"][asset])
