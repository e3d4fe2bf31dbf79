"""Routes of `/api/2.2/jobs/runs` and of permissions, as launched steps call them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.api.plain_json import Json
from taxi_assets.emulator.runtime.runs import Document, Runs

ENVIRONMENTS = ("1", "2", "3", "4")  # versions of serverless compute
PAGE = 25  # runs that one list answers at most, as Databricks does


class SparkPythonTask(BaseModel):
    python_file: str = Field(max_length=2_000)
    parameters: list[str] = Field([], max_length=100)


class PythonWheelTask(BaseModel):
    package_name: str = Field(max_length=200)
    entry_point: str = Field(max_length=200)
    parameters: list[str] = Field([], max_length=100)


class SubmitTask(BaseModel):
    model_config = ConfigDict(extra="ignore")

    task_key: str = Field(max_length=100)
    spark_python_task: SparkPythonTask | None = None
    python_wheel_task: PythonWheelTask | None = None
    new_cluster: dict[str, Json] | None = None
    existing_cluster_id: str | None = None
    environment_key: str | None = Field(None, max_length=100)
    libraries: list[dict[str, Json]] = []


class EnvironmentSpec(BaseModel):
    model_config = ConfigDict(extra="ignore")

    client: str | None = None
    environment_version: str | None = None
    dependencies: list[str] = Field([], max_length=100)


class JobEnvironment(BaseModel):
    environment_key: str = Field(max_length=100)
    spec: EnvironmentSpec


class SubmitRun(BaseModel):
    model_config = ConfigDict(extra="ignore")

    run_name: str | None = None
    tasks: list[SubmitTask] = Field(min_length=1, max_length=1)
    environments: list[JobEnvironment] = Field([], max_length=10)
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
        _require_compute(run.tasks[0], run.environments)
        return {"run_id": runs.submit(run.model_dump(exclude_none=True))}

    @router.get("/get")
    def get(run_id: int) -> Document:
        return _shown(settings, runs.get(run_id))

    @router.get("/get-output")
    def output(run_id: int) -> dict[str, Any]:
        """What a task printed, the last of it, and why it failed."""
        run = _shown(settings, runs.get(run_id))
        failed = run["state"].get("result_state") not in (None, "SUCCESS")
        printed, cut = runs.printed(run_id)
        return {
            "metadata": run,
            "logs": printed,
            "logs_truncated": cut,
            **({"error": run["state"]["state_message"]} if failed else {}),
        }

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


def _require_compute(task: SubmitTask, environments: list[JobEnvironment]) -> None:
    """A task names what it runs, and a cluster or an environment of serverless compute."""
    if (task.spark_python_task is None) == (task.python_wheel_task is None):
        raise errors.invalid("A task is a Python file or a wheel", task.task_key, "Send one")
    clusters = [each for each in (task.new_cluster, task.existing_cluster_id) if each is not None]
    if task.environment_key is None:
        if len(clusters) != 1:
            raise errors.invalid(
                "A task runs on a new cluster, on an existing one or in an environment",
                task.task_key,
                "Name one: a Python task on serverless compute needs an environment_key",
            )
        return
    if clusters:
        raise errors.invalid(
            "A task with an environment_key runs on no cluster", task.task_key, "Name one of them"
        )
    if task.libraries:
        raise errors.invalid(
            "Libraries field is not supported for serverless task",
            task.task_key,
            "Please specify libraries in environment",
        )
    named = {each.environment_key: each.spec for each in environments}
    if len(named) != len(environments) or task.environment_key not in named:
        raise errors.invalid(
            "An environment_key names one environment of the run",
            repr(task.environment_key),
            f"Known: {', '.join(named) or 'none'}",
        )
    spec = named[task.environment_key]
    version = spec.environment_version or spec.client
    if version not in ENVIRONMENTS:
        raise errors.invalid(
            "Invalid environment version", repr(version), f"One of {', '.join(ENVIRONMENTS)}"
        )


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
    """A run as the SDK's `Run`; one on serverless compute has no cluster to tell."""
    first, cluster = run["tasks"][0], {}
    if "environment_key" not in first:
        own = first.get("existing_cluster_id") or f"embedded-{run['run_id']}"
        instance = {"cluster_id": own, "spark_context_id": str(run["run_id"])}
        cluster = {"cluster_instance": instance}
    tasks = [
        task | cluster | {"run_id": run["run_id"], "state": run["state"]} for task in run["tasks"]
    ]
    return run | {
        "tasks": tasks,
        **cluster,
        "run_page_url": f"{settings.host}/#run/{run['run_id']}",
        "run_type": "SUBMIT_RUN",
        "creator_user_name": "token",
    }
