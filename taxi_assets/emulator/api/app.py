"""Assembly of the emulator: routes, guard and query path over one home."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI

from databricks_steps.settings import Settings
from taxi_assets.emulator import auth, errors
from taxi_assets.emulator.api import (
    cluster_routes,
    endpoint_routes,
    feature_store_routes,
    jobs_routes,
    metrics_routes,
    openapi,
    page_routes,
    volume_routes,
)
from taxi_assets.emulator.api.invocations import Invocations
from taxi_assets.emulator.runtime import online_tables, state
from taxi_assets.emulator.runtime.capture import Capture
from taxi_assets.emulator.runtime.clusters import Clusters
from taxi_assets.emulator.runtime.drivers import Drivers
from taxi_assets.emulator.runtime.endpoints import Endpoints
from taxi_assets.emulator.runtime.online_tables import OnlineTables
from taxi_assets.emulator.runtime.pipelines import Pipelines
from taxi_assets.emulator.runtime.runs import Runs
from taxi_assets.emulator.runtime.state import State
from taxi_assets.emulator.runtime.warehouse import Warehouse

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def create_app(settings: Settings) -> ASGIApp:
    """The workspace as one ASGI application; its state is opened here and closed at shutdown."""
    secret = auth.token(settings.token_file)
    memory = State(state.database(settings))
    tables = OnlineTables(online_tables.database(settings))
    endpoints = Endpoints(settings, memory, tables)
    warehouse = Warehouse(settings)
    clusters = Clusters(memory)
    drivers = Drivers(settings, clusters)
    runs = Runs(settings, memory, clusters, drivers)
    capture = Capture(memory, warehouse.flush)
    pipelines = Pipelines(memory, warehouse, tables.refresh)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(tables.start)
        await asyncio.to_thread(endpoints.restore)
        runs.restore()
        pipelines.restore()
        capture.start()
        yield
        await asyncio.to_thread(runs.close)
        await asyncio.to_thread(drivers.close)
        await asyncio.to_thread(capture.stop)
        endpoints.close()
        warehouse.close()
        tables.stop()
        memory.close()

    app = FastAPI(
        title="Databricks emulator",
        description="The subset of the Databricks REST API that the project uses.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts of others where people are signed in
        redoc_url=None,
    )
    errors.install(app)
    openapi.install(app)
    app.include_router(openapi.routes())
    app.include_router(_own_routes(settings.port, secret, capture))
    app.include_router(page_routes.routes(settings, secret))
    app.include_router(_identity(memory))
    app.include_router(endpoint_routes.routes(endpoints))
    app.include_router(metrics_routes.routes(endpoints, capture.settle))
    app.include_router(metrics_routes.own_routes(endpoints, tables, capture.settle))
    app.include_router(feature_store_routes.routes(settings, memory, pipelines, tables.refresh))
    app.include_router(feature_store_routes.catalog_routes(tables))
    app.include_router(feature_store_routes.own_routes(tables))
    app.include_router(feature_store_routes.pipeline_routes(pipelines))
    app.include_router(feature_store_routes.database_routes(memory))
    app.include_router(jobs_routes.routes(settings, runs))
    app.include_router(cluster_routes.routes(clusters, drivers.end))
    app.include_router(jobs_routes.permission_routes())
    app.include_router(volume_routes.routes(settings))
    app.add_middleware(auth.Guard, secret=secret, port=settings.port)
    return Invocations(app, secret, endpoints, capture)


def _own_routes(port: int, secret: str, capture: Capture) -> APIRouter:
    router = APIRouter(tags=["embedded only"])

    @router.get("/health")
    def health(nonce: str = "") -> dict[str, Any]:
        """Alive; with a nonce, also proof of being the workspace that knows the token."""
        return {"status": "ok", "pid": os.getpid(), "proof": auth.proof(secret, port, nonce[:200])}

    @router.post("/api/2.0/taxi/payloads/flush")
    def flush() -> dict[str, int]:
        """Write what was captured to its table now."""
        return {"payloads": capture.flush()}

    return router


def _identity(memory: State) -> APIRouter:
    router = APIRouter(prefix="/api/2.0/preview/scim/v2", tags=["identity"])

    @router.get("/Me")
    def caller() -> dict[str, Any]:
        """Who holds the token: this workspace's one service principal, as lasting as its home."""
        name = str(uuid.UUID(memory.identity))
        return {"id": "1", "userName": name, "displayName": "taxi", "active": True}

    return router
