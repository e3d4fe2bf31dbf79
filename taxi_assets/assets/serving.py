"""Serving: feature tables published online, and the endpoint on the champion's version."""

import time
from dataclasses import asdict
from typing import Any

import dagster as dg

from databricks_steps import fingerprint, schemas
from databricks_steps.check_cache import CheckCache, Figures
from databricks_steps.errors import ServingError
from databricks_steps.interfaces import Platform
from databricks_steps.settings import DATABRICKS
from databricks_steps.training import registry
from taxi_assets.assets.materialize import OWNERS
from taxi_assets.deployment import quality_monitor
from taxi_assets.deployment.endpoint import endpoint_config, ensure_endpoint, wake
from taxi_assets.deployment.online_store import (
    TABLES,
    ensure_online_store,
    online_table_name,
    publish,
)
from taxi_assets.resources.workspace import Workspace

GROUP = "serving"


def _published(
    context: dg.AssetExecutionContext, table: schemas.Table
) -> dg.MaterializeResult[Any]:
    workspace: Workspace = context.resources.workspace
    platform: Platform = context.resources.platform
    settings = workspace.settings

    def publish_now() -> Figures:
        ensure_online_store(workspace.client, settings)
        done = publish(workspace.client, settings, table)
        return {"online_table": done.online_table, "source": done.source}

    started = time.perf_counter()
    if settings.platform == DATABRICKS:
        found = publish_now()
    else:  # where the rows that are online can be read, they tell whether there is anything to do
        cache = CheckCache(settings, online_table_name(settings, table))

        def now() -> dict[str, int]:
            online = workspace.online_rows(online_table_name(settings, table))
            return {"": fingerprint.digest(platform.tables.contents(table.name), online)}

        known = cache.kept("published", now())
        found = known.get("") or publish_now()
        if not known:
            cache.keep("published", now(), {"": found})
    return dg.MaterializeResult(
        metadata={**found, "seconds": round(time.perf_counter() - started, 3)}
    )


def _online_asset(table: schemas.Table) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"{table.name}_online",
        deps=[table.name],
        group_name=GROUP,
        kinds={"databricks", "sqlite"},
        owners=OWNERS,
        description=f"{table.name} in the online store: the latest row of each location.",
        required_resource_keys={"workspace", "platform"},
    )
    def publish(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        return _published(context, table)

    return publish


pickup_features_online, dropoff_features_online = map(_online_asset, TABLES)


def _deployed(workspace: Workspace, version: str) -> Figures:
    """The state of the endpoint on the version.

    Where neither the endpoint nor what is wanted of it has changed, nothing is asked of it.
    """
    settings = workspace.settings
    cache = CheckCache(settings, "serving_endpoint")
    wanted = endpoint_config(settings, version)

    def now() -> dict[str, int]:
        return {"": fingerprint.digest(wanted, workspace.endpoint())}

    known = cache.kept("deployed", now())
    if known:
        return known[""]
    state = asdict(ensure_endpoint(workspace.client, settings, version))
    cache.keep("deployed", now(), {"": state | {"action": "unchanged"}})
    return state


def _watched(context: dg.AssetExecutionContext, workspace: Workspace) -> dict[str, Any]:
    """Databricks' monitor on what the endpoint answered: kept, and what it last did.

    An endpoint that serves has not failed where the monitor cannot be kept: the log says why.
    """
    if workspace.settings.platform != DATABRICKS:
        return {}
    try:
        if quality_monitor.ensure(workspace.client, workspace.settings) is None:
            return {}
        found = quality_monitor.read(workspace.client, workspace.settings)
    except ServingError as error:
        context.log.warning(str(error))
        return {"monitor": str(error)}
    return {} if found is None else {"monitor": dg.MetadataValue.json(asdict(found))}


@dg.asset(
    deps=["champion_model", pickup_features_online, dropoff_features_online],
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
    state = _deployed(workspace, champion.number)
    awake: dict[str, float] = {}
    if platform.settings.platform == DATABRICKS:  # before checks ask it, and measure how fast
        awake = {"wake_seconds": round(wake(workspace.client, platform.settings), 1)}
    return dg.MaterializeResult(
        metadata={
            "endpoint": state["name"],
            "url": dg.MetadataValue.url(state["url"]),
            "model_version": state["version"],
            "state": state["state"],
            "action": state["action"],
            **awake,
            **_watched(context, workspace),
        }
    )
