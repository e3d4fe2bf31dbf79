"""Asset checks that need no step of their own: drift, online tables and the endpoint.

Checks that need Spark are evaluated in their asset's step; see `check_specs` in assets/.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from databricks_steps import fingerprint, schemas
from databricks_steps.check_cache import CheckCache, Figures
from databricks_steps.interfaces import Platform, Verdict
from databricks_steps.settings import DATABRICKS, EMBEDDED
from databricks_steps.training import registry
from taxi_assets.assets.materialize import LAUNCHED, check_result, shown
from taxi_assets.assets.serving import (
    dropoff_features_online,
    pickup_features_online,
    serving_endpoint,
)
from taxi_assets.deployment import endpoint, verification
from taxi_assets.deployment.online_store import TABLES, online_table_name
from taxi_assets.deployment.verification import (
    differences,
    newest_offline,
    newest_online,
    parity,
)
from taxi_assets.partitions import run_months
from taxi_assets.resources.targets import target
from taxi_assets.resources.workspace import Workspace

PARITY = 0.01  # dollars
PARITY_TRIPS = 2_000
LATENCY_REQUESTS = 50
# Milliseconds, median. Databricks' own overhead alone is up to 50, the network's is unknown.
LATENCY_LIMITS = {EMBEDDED: 50.0, DATABRICKS: 1_000.0}
INPUTS_DRIFT = "The trips look up features like those the champion has learned from"
PREDICTION_DRIFT = "The champion predicts fares like those of its holdout"
RESOURCES = {"platform", "workspace"}
_CODE = fingerprint.code(verification)
Result = dg.AssetCheckResult


def _drift_check(asset: str, name: str, description: str) -> Any:
    """What the newest `drift_report` of the run's month says of an asset."""

    @dg.asset_check(
        asset=asset, name=name, description=description, additional_deps=["drift_report"]
    )
    def told(context: dg.AssetCheckExecutionContext) -> Result:
        verdicts = _newest_verdicts(
            context.instance, run_months(context.run.tags, context.instance)
        )
        if verdicts is None:
            return Result(passed=True, description="there is no drift report of the month yet")
        return check_result(Verdict(**verdicts[asset]), asset)

    return told


def _newest_verdicts(
    instance: dg.DagsterInstance, months: Sequence[str] | None
) -> dict[str, Any] | None:
    """Asset → verdict, as the newest `drift_report` of the last of the months (or of all) says.

    The materialization's metadata can be read without Spark, on any platform; None where nothing
    was told yet.
    """
    asked = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey("drift_report"), asset_partitions=[max(months)] if months else None
    )
    records = instance.fetch_materializations(asked, limit=1).records
    found = records[0].asset_materialization if records else None
    if found is None or "verdicts" not in found.metadata:
        return None
    verdicts: Any = found.metadata["verdicts"].value
    return dict(verdicts)


def _online(workspace: Workspace, table: schemas.Table) -> dict[int, Any]:
    """Location → row of a feature table's online table."""
    rows = workspace.online_rows(online_table_name(workspace.settings, table))
    return {int(location): row for location, row in rows.items()}


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
        online = _online(workspace, table)
        found = CheckCache(platform.settings, asset.key.to_user_string()).one(
            "matches_offline",
            fingerprint.digest(platform.tables.contents(table.name), online, _CODE),
            lambda: differences(online, platform, table),
            lambda figures: not figures["wrong"],
        )
        compared, wrong = found["locations"], found["wrong"]
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
        found = CheckCache(platform.settings, asset.key.to_user_string()).one(
            "feature_age",
            fingerprint.digest(platform.tables.contents(table.name)),
            lambda: {"offline": newest_offline(platform, table)},
        )
        online = newest_online(_online(workspace, table))
        offline = found["offline"]
        return Result(
            passed=online == offline,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"newest row online {online}, offline {offline}",
            metadata={"newest_online": str(online), "newest_offline": str(offline)},
        )

    return [matches_offline, age]


def _answered(
    workspace: Workspace,
    check: str,
    measure: Callable[[], Figures],
    sound: Callable[[Figures], bool],
    *offline: object,
) -> Figures:
    """What was measured of the endpoint as it is now, and of what it is compared with.

    Where nothing that its answers depend on has changed, it is not asked again. What Databricks'
    online tables hold cannot be read, so there it is, and so it is by a launched step.
    """
    settings = workspace.settings
    served: list[object] = [workspace.endpoint()]
    known = settings.platform != DATABRICKS and not target().launched
    if known:
        from taxi_assets.emulator import process  # not there on a cluster

        served += [_online(workspace, table) for table in TABLES]
        code = fingerprint.package(), fingerprint.code(endpoint, verification)
        served += [process.status(settings).pid, *code]
    cache = CheckCache(settings, "serving_endpoint", force=not known)
    return cache.one(check, fingerprint.digest(*served, *offline), measure, sound)


def _requests(workspace: Workspace, check: str, file: Path) -> Result:
    payload = json.loads(file.read_text(encoding="utf-8"))
    asked = len(payload["dataframe_records"])

    def ask() -> Figures:
        own = endpoint.own(payload, check)
        return {"fares": endpoint.query(workspace.client, workspace.settings, own)}

    def sound(figures: Figures) -> bool:
        fares = figures["fares"]
        return len(fares) == asked and all(0 < fare < 1000 for fare in fares)

    found = _answered(workspace, check, ask, sound, payload)
    fares = found["fares"]
    return Result(
        passed=sound(found),
        description=f"{asked} rows asked, fares {', '.join(f'{fare:.2f}' for fare in fares)}",
        metadata={"predictions": shown(fares)},
    )


def _endpoint_check(
    description: str,
) -> Callable[[Callable[[Platform, Workspace], Result]], dg.AssetChecksDefinition]:
    """A check of the endpoint under its function's name."""

    def made(judge: Callable[[Platform, Workspace], Result]) -> dg.AssetChecksDefinition:
        @dg.asset_check(
            name=judge.__name__,
            asset=serving_endpoint,
            description=description,
            required_resource_keys=RESOURCES,
        )
        def check(context: dg.AssetCheckExecutionContext) -> Result:
            return judge(context.resources.platform, context.resources.workspace)

        return check

    return made


@_endpoint_check("The endpoint is READY and no update is under way")
def ready(platform: Platform, workspace: Workspace) -> Result:
    found = (workspace.endpoint() or {}).get("state", {})
    passed = found == {"ready": "READY", "config_update": "NOT_UPDATING"}
    return Result(passed=passed, description=", ".join(f"{k}: {v}" for k, v in found.items()))


@_endpoint_check("The endpoint answers test_single_prediction.json")
def single_prediction(platform: Platform, workspace: Workspace) -> Result:
    return _requests(workspace, "single_prediction", endpoint.SINGLE_FILE)


@_endpoint_check("The endpoint answers test_batch_predictions.json")
def batch_predictions_request(platform: Platform, workspace: Workspace) -> Result:
    return _requests(workspace, "batch_predictions_request", endpoint.BATCH_FILE)


@dg.asset_check(
    asset=serving_endpoint,
    description="Holdout trips get the same features and fares from the endpoint as offline",
    blocking=True,
    required_resource_keys=RESOURCES | LAUNCHED,  # it reads the holdout with Spark
)
def train_serve_parity(context: dg.AssetCheckExecutionContext) -> Result:
    elsewhere = context.resources.step_launcher
    if elsewhere is not None:
        op = context.op_execution_context
        found = elsewhere.call(op, "train_serve_parity", trips=PARITY_TRIPS)
    else:
        found = _compared(context.resources.platform, context.resources.workspace)
    told = f"{found['trips']:,} holdout trips, largest difference {found['largest']:.4f} dollars"
    if not found["compared"]:
        told += "; the endpoint does not tell its inputs, so that fares alone are compared"
    return Result(
        passed=_in_parity(found),
        description="; ".join([told, *found["skewed"][:3]]),
        metadata={
            "trips": found["trips"],
            "largest_difference_dollars": shown(found["largest"]),
            "skewed_inputs": shown(found["skewed"]),
        },
    )


def _compared(platform: Platform, workspace: Workspace) -> Figures:
    """Holdout trips by the endpoint and offline, where this process has Spark."""
    champion = registry.require(platform.settings, registry.CHAMPION)

    def compare() -> Figures:
        files = registry.folder(platform.settings, champion.number)
        return asdict(parity(workspace.client, platform, files, PARITY_TRIPS))

    read = ("training_set", *(table.name for table in TABLES))
    offline = (champion.number, *(platform.tables.contents(name) for name in read))
    return _answered(workspace, "train_serve_parity", compare, _in_parity, *offline)


def _in_parity(found: Figures) -> bool:
    return found["trips"] > 0 and found["largest"] <= PARITY and not found["skewed"]


@_endpoint_check("The median answer is fast enough: 50 ms on loopback, a second on Databricks")
def latency(platform: Platform, workspace: Workspace) -> Result:
    payload = json.loads(endpoint.SINGLE_FILE.read_text(encoding="utf-8"))
    own = endpoint.own(payload, "latency")

    limit = LATENCY_LIMITS[workspace.settings.platform]

    def measure() -> Figures:
        endpoint.query(workspace.client, workspace.settings, own)  # it may have to wake
        taken = []
        for _ in range(LATENCY_REQUESTS):
            started = time.perf_counter()
            endpoint.query(workspace.client, workspace.settings, own)
            taken.append((time.perf_counter() - started) * 1000)
        return {"median_ms": statistics.median(taken), "slowest_ms": max(taken)}

    def sound(figures: Figures) -> bool:
        return bool(figures["median_ms"] <= limit)

    found = _answered(workspace, "latency", measure, sound)
    return Result(
        passed=sound(found),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"median {found['median_ms']:.1f} ms over {LATENCY_REQUESTS} requests",
        metadata={name: shown(value) for name, value in found.items()},
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
