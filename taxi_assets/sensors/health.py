"""`endpoint_health_sensor`: whether the endpoint is READY, asked without starting anything.

The emulator that a person stopped stays stopped, and that is no problem: a clean stop
removes its state file. One that died leaves the file behind, and is a problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from databricks_steps.errors import reason
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.resources.alerts import Observation, Where, instant
from taxi_assets.resources.delivery import alert_log
from taxi_assets.resources.targets import Target, Watch
from taxi_assets.resources.workspace import Workspace
from taxi_assets.sensors import cursors, runs

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

NAME = "endpoint_health_sensor"
TOLD = 2  # looks in a row at which it must be down
REMEDY = "taxi-assets serve starts the workspace; its log says why it ended"
REMEDY_DATABRICKS = "Look at the endpoint's events in Databricks; taxi-assets deploy sets it up"


@dataclass(frozen=True)
class Health:
    """What was seen: well, not well, or (None) nothing that could be either."""

    ready: bool | None
    told: str


def endpoint_health_sensor(target: Target, watch: Watch) -> dg.SensorDefinition:
    """The sensor of this target's endpoint."""
    settings = target.settings

    def found(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        deployed = runs.instance_of(context).get_latest_materialization_event(
            dg.AssetKey("serving_endpoint")
        )
        health = endpoint_health(settings, deployed=deployed is not None)
        down = cursors.read(context.cursor).get("down", 0)
        down = min(down + 1, TOLD) if health.ready is False else 0
        if health.ready or down >= TOLD:
            remedy = REMEDY_DATABRICKS if settings.platform == DATABRICKS else REMEDY
            where = Where("serving_endpoint", link=f"{watch.ui}/assets/serving_endpoint")
            seen = Observation(
                *("endpoint", settings.endpoint, bool(health.ready), health.told, instant(), where),
                remedy=remedy,
            )
            alert_log(settings, watch.addresses).record([seen])
        told = f"{health.told} ({down} of {TOLD} looks)" if down else health.told
        return dg.SensorResult(skip_reason=told, cursor=cursors.written({"down": down}))

    return dg.sensor(
        name=NAME,
        minimum_interval_seconds=watch.seconds or runs.SECONDS,
        default_status=runs.default_status(watch),
        description="The endpoint is READY; told when it is not at two looks in a row",
    )(found)


def endpoint_health(settings: Settings, *, deployed: bool) -> Health:
    """Ask the workspace; `deployed`: an endpoint was made, so that its absence is a problem."""
    from databricks.sdk.errors import NotFound
    from databricks.sdk.errors.base import DatabricksError

    name = settings.endpoint
    client = _client(settings)
    if isinstance(client, Health):
        return client
    try:
        state = client.serving_endpoints.get(name).state
    except NotFound:
        return Health(False if deployed else None, f"{name} does not exist")
    except (DatabricksError, OSError, TimeoutError) as error:
        return Health(False, f"{name} does not answer: {reason(error)}")
    words = state.as_dict() if state else {}
    ready, update = words.get("ready", ""), words.get("config_update", "")
    told = f"{name} is {ready or 'in no state'}, {update or 'no update'}"
    if ready == "READY":
        return Health(True, told)
    return Health(None if update == "IN_PROGRESS" else False, told)


def _client(settings: Settings) -> WorkspaceClient | Health:
    """A client of the workspace as it is: the embedded one is not started to be looked at."""
    from taxi_assets.deployment.online_store import workspace_client
    from taxi_assets.emulator import auth, process

    if settings.platform == DATABRICKS:
        return Workspace(settings).client
    running = process.status(settings)
    if running.host is not None and running.port is not None:
        return workspace_client(running.host, auth.token(settings.token_file))
    if running.running:
        return Health(None, "the workspace starts or stops")
    if settings.workspace_file.exists():
        return Health(False, f"{settings.endpoint} is down: the workspace ended without a stop")
    return Health(None, "the workspace is stopped: taxi-assets serve starts it")
