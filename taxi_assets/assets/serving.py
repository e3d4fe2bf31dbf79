"""Serving: feature tables published online, and the endpoint on the champion's version."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import dagster as dg

from databricks_steps import schemas
from databricks_steps.errors import ServingError
from databricks_steps.ports import Platform
from databricks_steps.serving import quality_monitor
from databricks_steps.serving.canary import Climb, climb
from databricks_steps.serving.endpoint import ensure_endpoint
from databricks_steps.serving.online import ensure_online_store, publish
from databricks_steps.serving.verification import holdout_requests
from databricks_steps.training import registry
from taxi_assets.assets.features import dropoff_features, pickup_features
from taxi_assets.assets.materialize import OWNERS
from taxi_assets.assets.training import champion_model
from taxi_assets.resources.workspace import Workspace

GROUP = "serving"


def _published(workspace: Workspace, table: schemas.Table) -> dg.MaterializeResult[Any]:
    ensure_online_store(workspace.client, workspace.settings)
    done = publish(workspace.client, workspace.settings, table)
    return dg.MaterializeResult(
        metadata={
            "online_table": done.online_table,
            "source": done.source,
            "seconds": round(done.seconds, 3),
        }
    )


def _online(
    table: schemas.Table, source: dg.AssetsDefinition
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    return dg.asset(
        name=f"{table.name}_online",
        deps=[source],
        group_name=GROUP,
        kinds={"databricks", "sqlite"},
        owners=OWNERS,
        description=f"{table.name} in the online store: the latest row of each location.",
        required_resource_keys={"workspace"},
    )


@_online(schemas.PICKUP_FEATURES, pickup_features)
def pickup_features_online(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    return _published(context.resources.workspace, schemas.PICKUP_FEATURES)


@_online(schemas.DROPOFF_FEATURES, dropoff_features)
def dropoff_features_online(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    return _published(context.resources.workspace, schemas.DROPOFF_FEATURES)


def _climbed(workspace: Workspace, platform: Platform, version: str) -> Climb:
    settings = workspace.settings
    if not settings.canary.enabled:
        return Climb(ensure_endpoint(workspace.client, settings, version), ())
    return climb(
        workspace.client,
        settings,
        version,
        lambda: holdout_requests(platform, settings.canary.requests),
    )


def _watched(context: dg.AssetExecutionContext, workspace: Workspace) -> dict[str, Any]:
    """Databricks' monitor on what the endpoint answered: kept, and what it last did.

    An endpoint that serves has not failed where the monitor cannot be kept: the log says why.
    """
    try:
        if quality_monitor.ensure(workspace.client, workspace.settings) is None:
            return {}
        found = quality_monitor.read(workspace.client, workspace.settings)
    except ServingError as error:
        context.log.warning(str(error))
        return {"monitor": str(error)}
    return {} if found is None else {"monitor": dg.MetadataValue.json(asdict(found))}


@dg.asset(
    deps=[champion_model, pickup_features_online, dropoff_features_online],
    group_name=GROUP,
    kinds={"databricks", "onnx"},
    owners=OWNERS,
    description="The endpoint that answers fares, looking features up by location.",
    required_resource_keys={"workspace", "platform"},
)
def serving_endpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    workspace: Workspace = context.resources.workspace
    platform: Platform = context.resources.platform
    champion = registry.require(platform.settings, registry.CHAMPION)
    climbed = _climbed(workspace, platform, champion.number)
    state = climbed.state
    return dg.MaterializeResult(
        metadata={
            "canary": dg.MetadataValue.json([asdict(rung) for rung in climbed.rungs]),
            "endpoint": state.name,
            "url": dg.MetadataValue.url(state.url),
            "model_version": state.version,
            "state": state.state,
            "action": state.action,
            **_watched(context, workspace),
        }
    )
