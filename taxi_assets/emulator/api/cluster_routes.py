"""Routes of `/api/2.1/clusters`: what there is to choose from, and clusters that runs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from taxi_assets.emulator.runtime.clusters import NODE_TYPES, RUNTIMES, Clusters

Workers = Annotated[int, Field(ge=0, le=1_000)]


class NewCluster(BaseModel):
    model_config = ConfigDict(extra="ignore")

    cluster_name: str | None = Field(None, max_length=200)
    spark_version: str = Field(max_length=100)
    node_type_id: str | None = Field(None, max_length=100)
    instance_pool_id: str | None = Field(None, max_length=100)
    policy_id: str | None = Field(None, max_length=100)
    num_workers: Workers | None = None
    autoscale: dict[str, Workers] | None = None
    autotermination_minutes: int = Field(0, ge=0, le=10_000)
    data_security_mode: str | None = Field(None, max_length=100)
    custom_tags: dict[str, str] = {}
    spark_conf: dict[str, str] = {}
    spark_env_vars: dict[str, str] = {}


class Named(BaseModel):
    cluster_id: str = Field(max_length=100)


def routes(clusters: Clusters, end: Callable[[str], None]) -> APIRouter:
    """Create, look, and by `end` end a cluster with its driver."""
    router = APIRouter(prefix="/api/2.1/clusters", tags=["clusters"])

    @router.get("/list-node-types")
    def node_types() -> dict[str, Any]:
        known = NODE_TYPES.get(clusters.cloud, ())
        return {"node_types": [{"node_type_id": name, "description": name} for name in known]}

    @router.get("/spark-versions")
    def spark_versions() -> dict[str, Any]:
        return {"versions": [{"key": key, "name": key} for key in RUNTIMES]}

    @router.post("/create")
    def create(wanted: NewCluster) -> dict[str, str]:
        return {"cluster_id": clusters.create(wanted.model_dump(exclude_none=True))}

    @router.get("/get")
    def get(cluster_id: str) -> dict[str, Any]:
        return clusters.get(cluster_id)

    @router.get("/list")
    def listed() -> dict[str, Any]:
        return {"clusters": clusters.all()}

    @router.post("/delete")
    def delete(wanted: Named) -> dict[str, Any]:
        end(wanted.cluster_id)
        return {}

    return router
