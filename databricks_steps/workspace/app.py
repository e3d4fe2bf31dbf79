"""Assembly of the embedded workspace: routes, guard and query path over one home."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI

from databricks_steps.settings import Settings
from databricks_steps.workspace import (
    auth,
    errors,
    feature_store,
    identity,
    jobs,
    observing,
    online_tables,
    openapi,
    pipeline_routes,
    serving_endpoints,
    state,
    volumes,
)
from databricks_steps.workspace.capture import Capture
from databricks_steps.workspace.endpoints import Endpoints
from databricks_steps.workspace.invocations import Invocations
from databricks_steps.workspace.online_tables import OnlineTables
from databricks_steps.workspace.pipelines import Pipelines
from databricks_steps.workspace.runs import Runs
from databricks_steps.workspace.state import State
from databricks_steps.workspace.warehouse import Warehouse

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def create_app(settings: Settings) -> ASGIApp:
    """The workspace as one ASGI application; its state is opened here and closed at shutdown."""
    secret = auth.token(settings.token_file)
    memory = State(state.database(settings))
    tables = OnlineTables(online_tables.database(settings))
    endpoints = Endpoints(settings, memory, tables)
    warehouse = Warehouse(settings)
    runs = Runs(settings, memory)
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
        await asyncio.to_thread(capture.stop)
        endpoints.close()
        warehouse.close()
        tables.stop()
        memory.close()

    app = FastAPI(
        title="Embedded workspace",
        description="The subset of the Databricks REST API that the project uses.",
        lifespan=lifespan,
        redoc_url=None,
    )
    errors.install(app)
    openapi.install(app)
    app.include_router(_own_routes(secret, capture))
    app.include_router(serving_endpoints.routes(endpoints))
    app.include_router(observing.routes(endpoints, capture.settle))
    app.include_router(observing.own_routes(endpoints, tables, capture.settle))
    app.include_router(feature_store.routes(settings, memory, pipelines, tables.refresh))
    app.include_router(feature_store.catalog_routes(tables))
    app.include_router(feature_store.own_routes(tables))
    app.include_router(pipeline_routes.routes(pipelines))
    app.include_router(identity.routes(settings, memory))
    app.include_router(jobs.routes(settings, runs))
    app.include_router(jobs.permission_routes(memory))
    app.include_router(volumes.routes(settings))
    app.add_middleware(auth.Guard, secret=secret)
    return Invocations(app, secret, endpoints, capture)


def _own_routes(secret: str, capture: Capture) -> APIRouter:
    router = APIRouter(tags=["embedded only"])

    @router.get("/health")
    def health(nonce: str = "") -> dict[str, Any]:
        """Alive; with a nonce, also proof of being the workspace that knows the token."""
        return {"status": "ok", "pid": os.getpid(), "proof": auth.proof(secret, nonce[:200])}

    @router.post("/api/2.0/taxi/payloads/flush")
    def flush() -> dict[str, int]:
        """Write what was captured to its table now."""
        return {"payloads": capture.flush()}

    return router
