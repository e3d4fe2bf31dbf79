"""Asset checks that need no step of their own: drift, online tables and the endpoint.

Checks that need Spark are evaluated in their asset's step; see `check_specs` in assets/.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import dagster as dg

from databricks_steps import schemas
from databricks_steps.ports import Platform
from databricks_steps.serving import endpoint
from databricks_steps.serving.verification import (
    differences,
    feature_age,
    parity,
)
from databricks_steps.settings import DATABRICKS
from databricks_steps.training import registry
from taxi_assets.assets import monitoring
from taxi_assets.assets.materialize import LAUNCHED, check_result
from taxi_assets.assets.serving import (
    dropoff_features_online,
    pickup_features_online,
    serving_endpoint,
)
from taxi_assets.partitions import run_months
from taxi_assets.resources.workspace import Workspace

PARITY = 0.01  # dollars
PARITY_TRIPS = 2_000
LATENCY_REQUESTS = 50
LATENCY_LIMIT = 50.0  # milliseconds, median over loopback
INPUTS_DRIFT = "The trips look up features like those the champion has learned from"
PREDICTION_DRIFT = "The champion predicts fares like those of its holdout"
RESOURCES = {"platform", "workspace"}
Result = dg.AssetCheckResult


def _drift_check(asset: str, name: str, description: str) -> Any:
    """What the newest `drift_report` of the run's month says of an asset."""

    @dg.asset_check(
        asset=asset, name=name, description=description, additional_deps=["drift_report"]
    )
    def told(context: dg.AssetCheckExecutionContext) -> Result:
        report = monitoring.newest_report(context.instance, run_months(dict(context.run.tags)))
        if report is None:
            return Result(passed=True, description="there is no drift report of the month yet")
        return check_result(monitoring.verdict_on(report, asset), asset)

    return told


def _online_checks(asset: dg.AssetsDefinition, table: schemas.Table) -> list[Any]:
    @dg.asset_check(
        asset=asset,
        name="matches_offline",
        description="The online table holds the latest offline row of each location, no other",
        blocking=True,
        required_resource_keys=RESOURCES,
    )
    def matches_offline(context: dg.AssetCheckExecutionContext) -> Result:
        platform: Platform = context.resources.platform
        workspace: Workspace = context.resources.workspace
        compared, wrong = differences(workspace.client, platform, table)
        reason = f"{len(wrong)} differ: {'; '.join(wrong[:3])}" if wrong else "all are the same"
        return Result(
            passed=not wrong,
            description=f"{compared:,} locations compared; {reason}",
            metadata={"locations": compared, "differences": len(wrong)},
        )

    @dg.asset_check(
        asset=asset,
        name="feature_age",
        description="The newest online row is as new as the newest offline row",
        required_resource_keys=RESOURCES,
    )
    def age(context: dg.AssetCheckExecutionContext) -> Result:
        platform: Platform = context.resources.platform
        workspace: Workspace = context.resources.workspace
        online, offline = feature_age(workspace.client, platform, table)
        return Result(
            passed=online == offline,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"newest row online {online}, offline {offline}",
            metadata={"newest_online": str(online), "newest_offline": str(offline)},
        )

    return [matches_offline, age]


def _requests(context: dg.AssetCheckExecutionContext, file: Path) -> Result:
    workspace: Workspace = context.resources.workspace
    payload = json.loads(file.read_text(encoding="utf-8"))
    fares = endpoint.query(workspace.client, workspace.settings, payload)
    asked = len(payload["dataframe_records"])
    return Result(
        passed=len(fares) == asked and all(0 < fare < 1000 for fare in fares),
        description=f"{asked} rows asked, fares {', '.join(f'{fare:.2f}' for fare in fares)}",
        metadata={"predictions": dg.MetadataValue.json(fares)},
    )


@dg.asset_check(
    asset=serving_endpoint,
    description="The endpoint is READY and no update is under way",
    required_resource_keys=RESOURCES,
)
def ready(context: dg.AssetCheckExecutionContext) -> Result:
    workspace: Workspace = context.resources.workspace
    state = workspace.client.serving_endpoints.get(workspace.settings.endpoint).state
    found = state.as_dict() if state else {}
    passed = found == {"ready": "READY", "config_update": "NOT_UPDATING"}
    return Result(passed=passed, description=", ".join(f"{k}: {v}" for k, v in found.items()))


@dg.asset_check(
    asset=serving_endpoint,
    description="The endpoint answers test_single_prediction.json",
    required_resource_keys=RESOURCES,
)
def single_prediction(context: dg.AssetCheckExecutionContext) -> Result:
    return _requests(context, endpoint.SINGLE_FILE)


@dg.asset_check(
    asset=serving_endpoint,
    description="The endpoint answers test_batch_predictions.json",
    required_resource_keys=RESOURCES,
)
def batch_predictions_request(context: dg.AssetCheckExecutionContext) -> Result:
    return _requests(context, endpoint.BATCH_FILE)


@dg.asset_check(
    asset=serving_endpoint,
    description="Holdout trips get the same features and fares from the endpoint as offline",
    blocking=True,
    required_resource_keys=RESOURCES | LAUNCHED,  # it reads the holdout with Spark
)
def train_serve_parity(context: dg.AssetCheckExecutionContext) -> Result:
    platform: Platform = context.resources.platform
    workspace: Workspace = context.resources.workspace
    champion = registry.require(platform.settings, registry.CHAMPION)
    files = registry.folder(platform.settings, champion.number)
    found = parity(workspace.client, platform, files, PARITY_TRIPS)
    told = f"{found.trips:,} holdout trips, largest difference {found.largest:.4f} dollars"
    if not found.compared:
        told += "; the endpoint does not tell its inputs, so that fares alone are compared"
    return Result(
        passed=found.trips > 0 and found.largest <= PARITY and not found.skewed,
        description="; ".join([told, *found.skewed[:3]]),
        metadata={
            "trips": found.trips,
            "largest_difference_dollars": found.largest,
            "skewed_inputs": dg.MetadataValue.json(list(found.skewed)),
        },
    )


@dg.asset_check(
    asset=serving_endpoint,
    description=f"The median answer takes at most {LATENCY_LIMIT:g} ms",
    required_resource_keys=RESOURCES,
)
def latency(context: dg.AssetCheckExecutionContext) -> Result:
    workspace: Workspace = context.resources.workspace
    payload = json.loads(endpoint.SINGLE_FILE.read_text(encoding="utf-8"))
    taken = []
    for _ in range(LATENCY_REQUESTS):
        started = time.perf_counter()
        endpoint.query(workspace.client, workspace.settings, payload)
        taken.append((time.perf_counter() - started) * 1000)
    median = statistics.median(taken)
    return Result(
        passed=median <= LATENCY_LIMIT,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"median {median:.1f} ms over {LATENCY_REQUESTS} requests",
        metadata={"median_ms": median, "slowest_ms": max(taken)},
    )


def checks(platform: str) -> list[Any]:
    """The checks of a platform: rows of an online table can be read in the embedded store alone.

    On Databricks `train_serve_parity` stands for them: an online table that is out of date gives
    other fares.
    """
    everywhere = [
        _drift_check("pickup_features", "drift", INPUTS_DRIFT),
        _drift_check("dropoff_features", "drift", INPUTS_DRIFT),
        _drift_check("batch_predictions", "prediction_drift", PREDICTION_DRIFT),
        ready,
        single_prediction,
        batch_predictions_request,
        train_serve_parity,
        latency,
    ]
    if platform == DATABRICKS:
        return everywhere
    return [
        *_online_checks(pickup_features_online, schemas.PICKUP_FEATURES),
        *_online_checks(dropoff_features_online, schemas.DROPOFF_FEATURES),
        *everywhere,
    ]
