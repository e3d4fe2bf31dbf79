"""Databricks' own monitor on `endpoint_payloads`: what it is to be, what it is, what it last did.

By REST, for the pinned SDK has no call for it: `/api/data-quality/v1/monitors`. The embedded
workspace has none; there `drift_report` and `live_performance` say what this monitor says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.errors import ServingError, reason
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.deployment.endpoint import differences
from taxi_assets.deployment.retries import patiently

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

MONITORS = "/api/data-quality/v1/monitors"
PROFILING = "data_profiling_config"
KEPT = ("inference_log", "schedule")  # what is corrected of a monitor that is there
DAILY = "0 0 6 * * ?"
TABLE = schemas.ENDPOINT_PAYLOADS


@dataclass(frozen=True)
class Monitor:
    """The monitor as Databricks tells of it.

    `state` is of the monitor, `refreshed` the state of its newest refresh, None before the first;
    `at` the end of that refresh (ISO 8601, UTC).
    """

    state: str
    drift_table: str | None
    profile_table: str | None
    refreshed: str | None
    at: str | None
    message: str | None


def wanted(settings: Settings, table_id: str, schema_id: str) -> dict[str, Any]:
    """The monitor as it is created: one profile a day and model version, of the predicted fare."""
    return {
        "object_type": "table",
        "object_id": table_id,
        PROFILING: {
            "output_schema_id": schema_id,
            "assets_dir": f"/Workspace/Shared/taxi-assets/{settings.endpoint}",
            "schedule": {"quartz_cron_expression": DAILY, "timezone_id": "UTC"},
            "inference_log": {
                "problem_type": "INFERENCE_PROBLEM_TYPE_REGRESSION",
                "timestamp_column": "requested_at",
                "granularities": ["AGGREGATION_GRANULARITY_1_DAY"],
                "prediction_column": "predicted_fare",
                "model_id_column": "model_version",
            },
        },
    }


def found(client: WorkspaceClient, settings: Settings) -> tuple[str | None, dict[str, Any] | None]:
    """Id of the table, None before it is there, and the monitor on it, None when there is none."""
    from databricks.sdk.errors import NotFound

    try:
        table_id = patiently(lambda: client.tables.get(settings.table(TABLE.name))).table_id
    except NotFound:
        return None, None
    try:
        monitor = _call(client, "GET", f"{MONITORS}/table/{table_id}")
    except NotFound:
        return table_id, None
    return table_id, dict(monitor) if isinstance(monitor, dict) else None


def _call(client: WorkspaceClient, method: str, path: str, **more: Any) -> Any:
    return patiently(lambda: client.api_client.do(method, path, **more))


def different(settings: Settings, monitor: dict[str, Any]) -> Iterator[str]:
    """What of a monitor is not as wanted; of what Databricks adds nothing is said."""
    asked, active = wanted(settings, "", "")[PROFILING], monitor.get(PROFILING, {})
    for part in KEPT:
        yield from differences(active.get(part, {}), asked[part], part)


def ensure(client: WorkspaceClient, settings: Settings) -> str | None:
    """Create or correct the monitor: `created`, `updated`, `unchanged`.

    None where there is nothing to watch: no table yet, or a platform without monitors.

    Raises:
        ServingError: Databricks refuses; the message holds its reason.
    """
    from databricks.sdk.errors import ResourceConflict

    if settings.platform != DATABRICKS:
        return None
    try:
        table_id, monitor = found(client, settings)
        if table_id is None:
            return None
        schema = f"{settings.catalog}.{settings.schema}"
        schema_id = patiently(lambda: client.schemas.get(schema)).schema_id
        asked = wanted(settings, table_id, str(schema_id))
        if monitor is None:
            with suppress(ResourceConflict):  # the answer to an earlier try was lost
                _call(client, "POST", MONITORS, body=asked)
            return "created"
        if not any(different(settings, monitor)):
            return "unchanged"
        mask = ",".join(f"{PROFILING}.{part}" for part in KEPT)
        path = f"{MONITORS}/table/{table_id}"
        _call(client, "PATCH", path, query={"update_mask": mask}, body=asked)
        return "updated"
    except OSError as error:  # those of the SDK and of requests all are
        raise _refused(error) from error


def read(client: WorkspaceClient, settings: Settings) -> Monitor | None:
    """What the monitor is and last did; None where there is none.

    Raises:
        ServingError: the workspace does not answer, or does not let these credentials look.
    """
    if settings.platform != DATABRICKS:
        return None
    try:
        table_id, monitor = found(client, settings)
        if monitor is None:
            return None
        told = _call(client, "GET", f"{MONITORS}/table/{table_id}/refreshes")
    except OSError as error:
        raise _refused(error) from error
    refreshes = told.get("refreshes", []) if isinstance(told, dict) else []
    started = sorted(refreshes, key=lambda each: int(each.get("start_time_ms", 0)))
    newest: dict[str, Any] = started[-1] if started else {}
    profile = monitor.get(PROFILING, {})
    return Monitor(
        state=str(profile.get("status", "unknown")),
        drift_table=profile.get("drift_metrics_table_name"),
        profile_table=profile.get("profile_metrics_table_name"),
        refreshed=newest.get("state"),
        at=_instant(newest.get("end_time_ms")),
        message=newest.get("message") or profile.get("latest_monitor_failure_message"),
    )


def _refused(error: OSError) -> ServingError:
    return ServingError(
        f"The monitor of {TABLE.name} must be kept by these credentials",
        reason(error),
        "Grant MANAGE and SELECT on the table: docs/databricks.md",
    )


def _instant(milliseconds: Any) -> str | None:
    from datetime import datetime, timezone

    if milliseconds is None:
        return None
    at = datetime.fromtimestamp(int(milliseconds) / 1000, timezone.utc)
    return at.isoformat(timespec="seconds")
