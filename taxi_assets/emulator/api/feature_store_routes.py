"""Routes of `/api/2.0/feature-store` and `/pipelines`: online stores, publishing, its syncs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import online_tables, pipelines, publish
from taxi_assets.emulator.runtime.online_tables import OnlineTables
from taxi_assets.emulator.runtime.pipelines import Document, Pipelines
from taxi_assets.emulator.runtime.state import State

KIND = "online_store"
ERRORS_ALONE = "level='ERROR'"  # the one filter of events that is understood here
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,62}")


class OnlineStore(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    capacity: Literal["CU_1", "CU_2", "CU_4", "CU_8"]
    read_replica_count: int = Field(0, ge=0, le=100)


class DatabaseInstance(BaseModel):
    model_config = ConfigDict(extra="ignore")

    stopped: bool | None = None


class PublishSpec(BaseModel):
    model_config = ConfigDict(extra="ignore")

    online_store: str
    online_table_name: str
    publish_mode: Literal["TRIGGERED", "CONTINUOUS", "SNAPSHOT"] = "TRIGGERED"


class PublishTable(BaseModel):
    publish_spec: PublishSpec


def routes(
    settings: Settings, state: State, syncs: Pipelines, published: Callable[[], None]
) -> APIRouter:
    """The feature store's routes over this home.

    `published` is called when the online tables have changed.
    """
    router = APIRouter(prefix="/api/2.0/feature-store", tags=["feature store"])

    @router.post("/online-stores")
    def create_store(store: OnlineStore) -> dict[str, Any]:
        if not _NAME.fullmatch(store.name):
            raise errors.invalid(
                "An online store's name has letters, digits, - and _",
                repr(store.name[:80]),
                "Choose another",
            )
        if state.get(KIND, store.name) is not None:
            raise errors.ApiError(
                "RESOURCE_ALREADY_EXISTS",
                "An online store's name is free",
                f"{store.name} exists",
                "Use it",
            )
        now = datetime.now(timezone.utc).isoformat()
        document = store.model_dump() | {
            "state": "AVAILABLE",
            "creator": "token",
            "creation_time": now,
        }
        state.put(KIND, store.name, document)
        return document

    @router.get("/online-stores/{name}")
    def get_store(name: str) -> dict[str, Any]:
        """One that starts is told so once, and has started by the next look."""
        store = _store(state, name)
        if store["state"] == "STARTING":
            state.put(KIND, name, store | {"state": "AVAILABLE"})
        return store

    @router.delete("/online-stores/{name}")
    def delete_store(name: str) -> dict[str, Any]:
        _store(state, name)
        with syncs.syncing:
            publish.unpublish(settings, name)
            syncs.forget(name)
            state.drop(KIND, name)
        published()
        return {}

    @router.post("/tables/{source}/publish")
    def publish_table(source: str, body: PublishTable) -> dict[str, Any]:
        spec = body.publish_spec
        store = _store(state, spec.online_store)
        if store["state"] != "AVAILABLE":
            raise errors.invalid("An online store must run", store["state"], "Start it")
        done = syncs.publish(source, spec.online_table_name, spec.online_store)
        return {"online_table_name": done["online_table"], "pipeline_id": done["pipeline_id"]}

    return router


def database_routes(state: State) -> APIRouter:
    """The database instances that online stores are: each is stopped and started by its name."""
    router = APIRouter(prefix="/api/2.0/database/instances", tags=["database"])

    @router.patch("/{name}")
    def update(name: str, instance: DatabaseInstance) -> dict[str, Any]:
        store = _store(state, name)
        if instance.stopped is not None:
            store["state"] = "STOPPED" if instance.stopped else "STARTING"
            state.put(KIND, name, store)
        return {"name": name, "capacity": store["capacity"], "state": store["state"]}

    return router


def pipeline_routes(syncs: Pipelines) -> APIRouter:
    """Pipelines that sync online tables: look at them, and start one more update."""
    router = APIRouter(prefix="/api/2.0/pipelines", tags=["pipelines"])

    @router.get("/{pipeline_id}")
    def get(pipeline_id: str) -> Document:
        return pipelines.shown(syncs.get(pipeline_id))

    @router.get("/{pipeline_id}/updates")
    def updates(pipeline_id: str, max_results: int = Query(25, ge=1, le=100)) -> dict[str, Any]:
        document = syncs.get(pipeline_id)
        page = document["updates"][:max_results]
        return {"updates": [pipelines.shown_update(document, update) for update in page]}

    @router.post("/{pipeline_id}/updates")
    def start(pipeline_id: str) -> dict[str, str]:
        return {"update_id": syncs.start(pipeline_id)["updates"][0]["update_id"]}

    @router.get("/{pipeline_id}/events")
    def events(
        pipeline_id: str,
        chosen: str = Query(ERRORS_ALONE, alias="filter"),
        max_results: int = Query(25, ge=1, le=250),
    ) -> dict[str, Any]:
        """Why updates failed: no other events are syncs."""
        if chosen.replace(" ", "") != ERRORS_ALONE:
            raise errors.invalid("Events can be asked for errors alone", chosen[:80], ERRORS_ALONE)
        return {"events": pipelines.events(syncs.get(pipeline_id))[:max_results]}

    return router


def catalog_routes(tables: OnlineTables) -> APIRouter:
    """What Unity Catalog tells of a published table: its columns, and no pipeline."""
    router = APIRouter(prefix="/api/2.1/unity-catalog", tags=["unity catalog"])

    @router.get("/tables/{full_name}")
    def get(full_name: str) -> dict[str, Any]:
        table = tables.published().get(full_name)
        if table is None:
            raise errors.missing("Table", full_name[:120], "Publish the feature table")
        catalog, schema, name = table.name.split(".")
        names = ("location_id", "known_at", *table.columns)
        return {
            "full_name": table.name,
            "catalog_name": catalog,
            "schema_name": schema,
            "name": name,
            "columns": [{"name": column, "position": n} for n, column in enumerate(names)],
        }

    return router


def own_routes(tables: OnlineTables) -> APIRouter:
    """What Databricks has no route for: what the last publish of each online table did."""
    router = APIRouter(prefix="/api/2.0/taxi", tags=["embedded only"])

    @router.get("/online-tables")
    def listed() -> dict[str, Any]:
        shown = [online_tables.as_json(table) for table in tables.published().values()]
        return {"online_tables": shown}

    @router.get("/online-tables/{name}")
    def get(name: str) -> dict[str, Any]:
        table = tables.published().get(name)
        if table is None:
            raise errors.missing("Online table", name[:120], "Publish the feature table")
        return dict(online_tables.as_json(table))

    @router.get("/online-tables/{name}/rows")
    def rows(name: str) -> dict[str, Any]:
        return {"rows": tables.rows(name)}

    return router


def _store(state: State, name: str) -> dict[str, Any]:
    document = state.get(KIND, name)
    if document is None:
        raise errors.missing("Online store", name[:120], "Create it first")
    return document
