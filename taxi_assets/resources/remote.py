"""The near side of calls to a Databricks target: what its platform alone can tell or do.

There the tables are, and no session of Spark is here: each call is a task on the target's compute.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.errors import TaxiError, reason
from databricks_steps.interfaces import Commit
from taxi_assets.deployment.retries import patiently
from taxi_assets.resources import run_cluster
from taxi_assets.resources.remote_calls import ANSWER, CALL, from_plain, plain
from taxi_assets.resources.targets import Target
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.jobs import Run, RunOutput

    from taxi_assets.resources.clusters import Cluster
    from taxi_assets.resources.staging import Staging

PACKAGE, ENTRY_POINT = "taxi_assets", "taxi-call"
FIRST_LOOK = 0.5  # seconds after a run was submitted
LATE = 0.1  # of the time waited: what an answer may lie there before it is seen


class LaunchError(TaxiError):
    """A task failed, or the workspace did not let it run; the message holds its link."""


def call(target: Target, name: str, **arguments: Any) -> Any:
    """The answer to one of `remote_calls.CALLS`, by a task on the target's compute.

    Raises:
        TaxiError: the platform refused, the task failed, or the workspace did not let it run.
    """
    import requests
    from databricks.sdk.errors.base import DatabricksError
    from databricks.sdk.service.jobs import SubmitTask

    from taxi_assets.resources.staging import Staging

    settings, cluster = target.settings, target.cluster
    assert cluster is not None  # noqa: S101 every Databricks target has one
    client = Workspace(settings).client
    staging = Staging(client, settings)
    folder = f"{staging.calls}/{uuid.uuid4().hex}"
    content = json.dumps(extras(target, name, arguments)).encode()
    try:
        staging.put_file(io.BytesIO(content), f"{folder}/{CALL}", overwrite=True)
        with run_cluster.SHARED.held():
            asked, run = task(cluster, staging, [folder])
            if cluster.is_shared:
                spec = cluster.run_spec(uuid.uuid4().hex, {})
                asked["existing_cluster_id"] = run_cluster.SHARED.made(client, spec)
            run_id = patiently(
                lambda: client.jobs.submit(
                    tasks=[SubmitTask.from_dict(asked)], run_name=f"call {name}", **run
                ).bind()["run_id"]
            )
            try:
                await_success(client, run_id, cluster)
            except BaseException:
                cancel(client, run_id)
                raise
        told = json.loads(staging.read_file(f"{folder}/{ANSWER}") or '{"error": "no answer"}')
    except (DatabricksError, requests.RequestException, TimeoutError) as error:
        raise LaunchError(
            f"Target {target.name} must answer {name}", reason(error), "taxi-assets doctor says why"
        ) from error
    finally:
        with suppress(DatabricksError, requests.RequestException, TimeoutError):
            staging.remove_folder(folder)
    if "error" in told:
        raise RemoteError(told["error"])
    return told["answer"]


class RemoteError(TaxiError):
    """What the far side refused, in its own words."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


def extras(target: Target, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call in plain values."""
    return {"name": name, "arguments": arguments, "variables": target.remote_environment()}


def task(
    cluster: Cluster, staging: Staging, parameters: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A task of the wheel's entry point and the arguments of its run, but for a shared cluster."""
    from databricks.sdk.service.jobs import JobAccessControlRequest, JobEnvironment

    wheel = staging.put_wheel()
    asked: dict[str, Any] = {
        "task_key": ENTRY_POINT,
        "python_wheel_task": {
            "package_name": PACKAGE,
            "entry_point": ENTRY_POINT,
            "parameters": [*parameters],
        },
    }
    run: dict[str, Any] = {
        "timeout_seconds": cluster.timeout_seconds,
        "idempotency_token": uuid.uuid4().hex,
        "access_control_list": [JobAccessControlRequest.from_dict(a) for a in cluster.access()],
    }
    if cluster.is_serverless:
        environment = cluster.environment(wheel)
        asked["environment_key"] = environment["environment_key"]
        run["environments"] = [JobEnvironment.from_dict(environment)]
        return asked, run
    asked["libraries"] = cluster.all_libraries(wheel)
    if cluster.existing:
        asked["existing_cluster_id"] = cluster.existing
    elif not cluster.is_shared:
        asked["new_cluster"] = cluster.job_spec(ENTRY_POINT, {})
    return asked, run


def cancel(client: WorkspaceClient, run_id: int) -> None:
    """End a run that nobody waits for any more; one that has ended already is let be."""
    import requests
    from databricks.sdk.errors.base import DatabricksError

    with suppress(DatabricksError, requests.RequestException, TimeoutError):
        client.jobs.cancel_run(run_id)


def await_end(client: WorkspaceClient, run_id: int, cluster: Cluster) -> None:
    """Wait at most `grace_seconds` for a run that was cancelled: until then it may still write."""
    import requests
    from databricks.sdk.errors import OperationFailed
    from databricks.sdk.errors.base import DatabricksError

    grace = timedelta(seconds=cluster.grace_seconds)
    with suppress(OperationFailed, DatabricksError, requests.RequestException, TimeoutError):
        client.jobs.wait_get_run_job_terminated_or_skipped(run_id, timeout=grace)


def await_success(
    client: WorkspaceClient,
    run_id: int,
    cluster: Cluster,
    log: Callable[[str], None] | None = None,
) -> None:
    """Wait until a run has succeeded; `log` is given what its task printed, however it ended.

    The workspace ends it at the cluster's limit, but may not count the time in which it is queued.
    Most calls are short: looks come soon at first, then every `poll_seconds`.

    Raises:
        LaunchError: it did not, with what Databricks says of its task; or it has not ended
            `grace_seconds` after the limit.
    """
    from databricks.sdk.service.jobs import RunLifeCycleState as Life
    from databricks.sdk.service.jobs import RunResultState

    over = (Life.TERMINATED, Life.SKIPPED, Life.INTERNAL_ERROR)
    started = time.monotonic()
    deadline = started + cluster.timeout_seconds + cluster.grace_seconds
    while True:
        run = patiently(lambda: client.jobs.get_run(run_id))
        life = run.state and run.state.life_cycle_state
        if run.state is not None and life in over:
            break
        if time.monotonic() > deadline:
            raise LaunchError(
                f"Run {run.run_name} must end within {cluster.timeout_seconds:,} seconds",
                f"it is {life.value if life else 'in no state'} ({run.run_page_url})",
                "Look at the run, or allow more (TAXI_STEP_SECONDS), then try again",
            )
        pause = max(FIRST_LOOK, LATE * (time.monotonic() - started))
        time.sleep(min(pause, cluster.poll_seconds))
    succeeded = run.state.result_state is RunResultState.SUCCESS
    told = None if succeeded and log is None else _output(client, run)
    if log is not None and told is not None and (told.logs or "").strip():
        log(f"{run.run_name} printed:\n{told.logs}")
    if not succeeded:
        raise LaunchError(
            f"Run {run.run_name} must succeed",
            f"{(told and told.error) or run.state.state_message} ({run.run_page_url})",
            "Look at the run, mend the cause, then try again",
        )


def _output(client: WorkspaceClient, run: Run) -> RunOutput | None:
    """What its one task printed, and why it failed; None where Databricks does not say."""
    import requests
    from databricks.sdk.errors.base import DatabricksError

    numbers = [each.run_id for each in run.tasks or []]  # an output is a task's
    number = (numbers or [run.run_id])[0] or run.run_id or 0
    with suppress(DatabricksError, requests.RequestException, TimeoutError):
        return patiently(lambda: client.jobs.get_run_output(number))
    return None


class RemoteTables:
    """The tables of a Databricks target for what their logs and small ones' rows tell.

    All of it is asked for at once when something is first wanted, and again after a write.
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    def exists(self, name: str) -> bool:
        return name in self._found

    def rows(self, name: str, months: Sequence[str] | None = None) -> int:
        rows = self._found.get(name, {"rows": {}})["rows"]
        return sum(n for month, n in rows.items() if months is None or month in months)

    def months(self, name: str) -> list[str]:
        return sorted(filter(None, self._found.get(name, {"rows": {}})["rows"]))

    def records(self, name: str, months: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of one of the small tables, of some months or all."""
        rows, month = self._found.get(name, {"records": []})["records"], schemas.TABLES[name].month
        own = (row for row in rows if months is None or not month or row[month] in months)
        return [from_plain(name, row) for row in own]

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Commit:
        done = call(self._target, "append", table=name, rows=plain(list(rows)))
        self.__dict__.pop("_found", None)
        return Commit(**done)

    @cached_property
    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = call(self._target, "snapshot")
        return found
