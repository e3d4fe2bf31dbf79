"""Routes of `/api/2.0/serving-endpoints`: bodies in and out as the official SDK has them."""

from __future__ import annotations

import re
import time
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from taxi_assets.emulator import errors
from taxi_assets.emulator.api.plain_json import Json
from taxi_assets.emulator.runtime import online_tables
from taxi_assets.emulator.runtime.endpoints import Endpoint, Endpoints
from taxi_assets.emulator.runtime.served_model import Document

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")


class ServedEntity(BaseModel):
    model_config = ConfigDict(extra="ignore")  # environment variables may hold secrets

    name: str | None = None
    entity_name: str
    entity_version: str
    workload_size: str = "Small"
    scale_to_zero_enabled: bool = False


class Route(BaseModel):
    model_config = ConfigDict(extra="ignore")

    served_model_name: str | None = None
    served_entity_name: str | None = None
    traffic_percentage: int = Field(ge=0, le=100)


class TrafficConfig(BaseModel):
    routes: list[Route] = []


class CoreConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")

    served_entities: list[ServedEntity] = Field(min_length=1, max_length=1)
    traffic_config: TrafficConfig | None = None


class InferenceTable(BaseModel):
    model_config = ConfigDict(extra="ignore")

    catalog_name: str | None = None
    schema_name: str | None = None
    table_name_prefix: str | None = None
    enabled: bool = False


class AiGateway(BaseModel):
    model_config = ConfigDict(extra="allow")  # rate limits, guardrails: kept and told
    __pydantic_extra__: dict[str, Json]

    inference_table_config: InferenceTable | None = None


class Tag(BaseModel):
    key: str
    value: str | None = None


class NewEndpoint(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    config: CoreConfig
    ai_gateway: AiGateway | None = None
    description: str | None = None
    tags: list[Tag] = []


def routes(endpoints: Endpoints) -> APIRouter:
    """The management routes over these endpoints."""
    router = APIRouter(prefix="/api/2.0/serving-endpoints", tags=["serving endpoints"])

    @router.post("")
    def create(new: NewEndpoint) -> Document:
        if not _NAME.fullmatch(new.name):
            raise errors.invalid(
                "An endpoint's name has at most 63 letters, digits, - and _",
                repr(new.name[:80]),
                "Choose another",
            )
        document: Document = {
            "created": int(time.time() * 1000),
            "description": new.description,
            "tags": [tag.model_dump() for tag in new.tags],
            "ai_gateway": _ai_gateway(new.ai_gateway),
        }
        return shown(endpoints.create(new.name, document, _config(new.config)))

    @router.get("")
    def listed() -> Document:
        return {"endpoints": [shown(endpoint) for endpoint in endpoints.all()]}

    @router.get("/{name}")
    def get(name: str) -> Document:
        return shown(endpoints.find(name))

    @router.put("/{name}/config")
    def update(name: str, config: CoreConfig) -> Document:
        return shown(endpoints.update(name, _config(config)))

    @router.put("/{name}/ai-gateway")
    def put_ai_gateway(name: str, gateway: AiGateway) -> Document:
        """Replaces the whole gateway: what is left out of the body is gone."""
        wanted = _ai_gateway(gateway) or {}

        def edit(document: Document) -> None:
            _require_same_table(document.get("ai_gateway") or {}, wanted)
            document.update(ai_gateway=wanted)

        endpoints.change(name, edit)
        return wanted

    @router.delete("/{name}")
    def delete(name: str) -> Document:
        endpoints.delete(name)
        return {}

    return router


def _config(config: CoreConfig) -> Document:
    """The one served entity and its route with every name filled in, as Databricks does."""
    (entity,) = config.served_entities
    online_tables.full_name(entity.entity_name)
    if not re.fullmatch(r"[1-9][0-9]{0,9}", entity.entity_version):
        raise errors.invalid(
            "A model version is a whole number", repr(entity.entity_version[:80]), "Send one"
        )
    name = entity.name or f"{entity.entity_name.rsplit('.', 1)[1]}-{entity.entity_version}"
    if not _NAME.fullmatch(name):
        raise errors.invalid(
            "A served entity's name has at most 63 letters, digits, - and _",
            repr(name[:80]),
            "Send another name",
        )
    routes = config.traffic_config.routes if config.traffic_config else []
    names = [route.served_entity_name or route.served_model_name for route in routes]
    if {*names} - {name}:
        raise errors.invalid("Routes lead to served entities", names, f"Known: {name}")
    total = sum(route.traffic_percentage for route in routes)
    if routes and total != 100:
        raise errors.invalid("Traffic percentages add up to 100", total, "Correct the routes")
    route = {"served_model_name": name, "served_entity_name": name, "traffic_percentage": 100}
    return {
        "served_entities": [entity.model_dump() | {"name": name}],
        "traffic_config": {"routes": [route]},
    }


def _ai_gateway(gateway: AiGateway | None) -> Document | None:
    if gateway is None:
        return None
    table = gateway.inference_table_config
    if table is not None and table.enabled:
        names = (table.catalog_name, table.schema_name, f"{table.table_name_prefix or ''}_payload")
        if not table.table_name_prefix or not all(names[:2]):
            raise errors.invalid(
                "An inference table needs catalog_name, schema_name and table_name_prefix",
                table.model_dump(),
                "Send all three",
            )
        online_tables.full_name(".".join(str(name) for name in names))
    return gateway.model_dump(exclude_none=True)


def _require_same_table(before: Document, after: Document) -> None:
    """An inference table that is enabled stays where it is: it is disabled first, then moved."""
    old, new = (each.get("inference_table_config") or {} for each in (before, after))
    if not (old.get("enabled") and new.get("enabled")):
        return
    for name in ("catalog_name", "schema_name", "table_name_prefix"):
        if old.get(name) != new.get(name):
            raise errors.invalid(
                "An inference table that is enabled is not moved",
                f"{name} {old.get(name)} -> {new.get(name)}",
                "Disable it, then enable it elsewhere",
            )


def shown(endpoint: Endpoint) -> Document:
    """An endpoint as `ServingEndpointDetailed`."""
    document, serving = dict(endpoint.document), endpoint.serving
    config, pending = document["config"], document.get("pending_config")
    failed, failure = document.get("failed_config"), document.get("failure")
    update = "IN_PROGRESS" if pending else "UPDATE_FAILED" if failure else "NOT_UPDATING"
    answer: dict[str, Any] = {
        "name": document["name"],
        "id": document["id"],
        "creator": "token",
        "creation_timestamp": document["created"],
        "last_updated_timestamp": document["updated"],
        "state": {"ready": "READY" if serving else "NOT_READY", "config_update": update},
        "config": config and _with_state(config, "DEPLOYMENT_READY", "Serving"),
        "pending_config": (
            _with_state(pending, "DEPLOYMENT_CREATING", "Loading")
            if pending
            else failed and _with_state(failed, "DEPLOYMENT_FAILED", str(failure))
        ),
        "ai_gateway": document.get("ai_gateway"),
        "tags": document["tags"],
        "description": document.get("description"),
        "permission_level": "CAN_MANAGE",
        "route_optimized": False,
    }
    return {key: value for key, value in answer.items() if value is not None}


def _with_state(config: Document, deployment: str, message: str) -> Document:
    state = {"deployment": deployment, "deployment_state_message": message}
    return config | {
        "served_entities": [entity | {"state": state} for entity in config["served_entities"]]
    }
