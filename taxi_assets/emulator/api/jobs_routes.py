"""Routes of `/api/2.2/jobs/runs` and of permissions, as the step launcher calls them."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime.runs import Document, Runs

PAGE = 25  # runs that one list answers at most, as Databricks does


class SparkPythonTask(BaseModel):
    python_file: str = Field(max_length=2_000)
    parameters: list[str] = Field([], max_length=100)


class SubmitTask(BaseModel):
    model_config = ConfigDict(extra="ignore")

    task_key: str = Field(max_length=100)
    spark_python_task: SparkPythonTask
    new_cluster: dict[str, Any] | None = None
    existing_cluster_id: str | None = None
    libraries: list[dict[str, Any]] = []


class SubmitRun(BaseModel):
    model_config = ConfigDict(extra="ignore")

    run_name: str | None = None
    tasks: list[SubmitTask] = Field(min_length=1, max_length=1)
    idempotency_token: str | None = Field(None, max_length=64)
    timeout_seconds: int = Field(0, ge=0, le=7 * 86_400)


class CancelRun(BaseModel):
    run_id: int = Field(ge=0, le=1 << 53)


class AccessControl(BaseModel):
    model_config = ConfigDict(extra="ignore")

    permission_level: str
    user_name: str | None = None
    group_name: str | None = None
    service_principal_name: str | None = None


class Permissions(BaseModel):
    access_control_list: list[AccessControl] = Field([], max_length=100)


def routes(settings: Settings, runs: Runs) -> APIRouter:
    """Submit, look, cancel."""
    router = APIRouter(prefix="/api/2.2/jobs/runs", tags=["jobs"])

    @router.post("/submit")
    def submit(run: SubmitRun) -> dict[str, int]:
        task = run.tasks[0]
        if (task.new_cluster is None) == (task.existing_cluster_id is None):
            raise errors.invalid(
                "A task runs on a new cluster or on an existing one", task.task_key, "Name one"
            )
        document = run.model_dump(exclude_none=True)
        try:
            orjson.dumps(document)
        except TypeError as error:  # numbers and texts that JSON can say and nobody can mean
            raise errors.invalid("A run must be plain JSON", error, "Correct it") from error
        return {"run_id": runs.submit(document)}

    @router.get("/get")
    def get(run_id: int) -> Document:
        return _shown(settings, runs.get(run_id))

    @router.get("/list")
    def listed(
        limit: int = Query(20, ge=0, le=PAGE),
        active_only: bool = False,
        expand_tasks: bool = False,
        page_token: int | None = Query(None, ge=0),
    ) -> dict[str, Any]:
        """The newest first; a page's token is the id of the last run before it."""
        found = [
            run
            for run in runs.all()
            if (page_token is None or run["run_id"] < page_token)
            and not (active_only and run["end_time"])
        ]
        page = [_shown(settings, run) for run in found[: limit or PAGE]]
        if not expand_tasks:
            page = [{name: run[name] for name in run if name != "tasks"} for run in page]
        more = len(found) > len(page)
        token = {"next_page_token": str(page[-1]["run_id"])} if more else {}
        return {"runs": page, "has_more": more, **token}

    @router.post("/cancel")
    def cancel(wanted: CancelRun) -> dict[str, Any]:
        runs.cancel(wanted.run_id)
        return {}

    return router


def permission_routes() -> APIRouter:
    """Who may see a run: told back, and nobody is kept out by it here."""
    router = APIRouter(prefix="/api/2.0/permissions", tags=["permissions"])

    @router.patch("/{kind}/{number}")
    def update(kind: str, number: str, wanted: Permissions) -> dict[str, Any]:
        return {
            "object_id": f"/{kind}/{number}"[:200],
            "object_type": kind[:100],
            "access_control_list": [
                each.model_dump(exclude_none=True, exclude={"permission_level"})
                | {"all_permissions": [{"permission_level": each.permission_level}]}
                for each in wanted.access_control_list
            ],
        }

    return router


def _shown(settings: Settings, run: Document) -> Document:
    """A run as the SDK's `Run`."""
    existing = run["tasks"][0].get("existing_cluster_id")
    own = existing or f"embedded-{run['run_id']}"
    cluster = {"cluster_id": own, "spark_context_id": str(run["run_id"])}
    tasks = [
        task | {"run_id": run["run_id"], "state": run["state"], "cluster_instance": cluster}
        for task in run["tasks"]
    ]
    return run | {
        "tasks": tasks,
        "cluster_instance": cluster,
        "run_page_url": f"{settings.host}/#run/{run['run_id']}",
        "run_type": "SUBMIT_RUN",
        "creator_user_name": "token",
    }
