"""Steps on serverless compute by Dagster Pipes, for which there is no step launcher."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import requests
from dagster import DagsterExecutionInterruptedError
from dagster_databricks.pipes import (
    PipesDatabricksServerlessClient,
    PipesUnityCatalogVolumesMessageReader,
)
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service.jobs import SubmitTask

from databricks_steps.errors import reason
from taxi_assets.deployment.retries import patiently
from taxi_assets.partitions import month_range
from taxi_assets.resources import remote
from taxi_assets.resources.clusters import Cluster
from taxi_assets.resources.remote import LaunchError
from taxi_assets.resources.staging import Staging
from taxi_assets.resources.targets import Target

if TYPE_CHECKING:
    import dagster as dg
    from databricks.sdk import WorkspaceClient

READ_SECONDS = 1.0  # between looks for what a step reports


class ServerlessSteps:
    """The resource `step_launcher` where steps are calls: their assets run here and wait."""

    def __init__(self, target: Target, cluster: Cluster, client: WorkspaceClient) -> None:
        self._target, self._cluster, self._client = target, cluster, client
        self._staging = Staging(client, target.settings)

    def call(
        self, context: dg.AssetExecutionContext | dg.OpExecutionContext, name: str, **arguments: Any
    ) -> Any:
        """What the far side answers, see `remote_calls.CALLS`; the task has the step's name.

        Raises:
            LaunchError: the task failed, was cancelled, or answered nothing.
        """
        step, run = context.op_execution_context.op.name, context.run
        self._staging.sweep(context.instance)
        folder = f"{self._staging.prefix}/{run.run_id}"
        reader = PipesUnityCatalogVolumesMessageReader(
            client=self._client,
            volume_path=folder,
            interval=READ_SECONDS,
            include_stdio_in_messages=False,  # six seconds a step; it is asked for at the end
        )
        client = _Client(self._client, self._cluster, folder, reader)
        extras = remote.extras(self._target, name, arguments)
        try:
            task, run_arguments = remote.task(self._cluster, self._staging, [run.run_id])
            run_arguments["run_name"] = f"{step} {month_range(run.tags)}".strip()
            done = client.run(
                context=context.op_execution_context,
                extras=extras,
                task=SubmitTask.from_dict(task),
                submit_args=run_arguments,
            )
        except (DatabricksError, requests.RequestException, TimeoutError) as error:
            raise LaunchError(
                f"Step {step} must run on serverless compute",
                reason(error),
                "taxi-assets doctor says why; correct it, then run again",
            ) from error
        finally:
            with suppress(DatabricksError, requests.RequestException, TimeoutError):
                self._staging.remove_folder(folder)  # Pipes leaves folders, empty
        messages = done.get_custom_messages()
        if client.interrupted:  # Pipes goes on once the run is cancelled
            raise DagsterExecutionInterruptedError
        if not messages:
            raise LaunchError(f"Step {step} must answer", "it ended without", "Run it again")
        return messages[-1]


class _Client(PipesDatabricksServerlessClient):
    """Tells where a run is, and why it failed; nothing stays at work that nobody waits for."""

    interrupted = False

    def __init__(
        self,
        client: WorkspaceClient,
        cluster: Cluster,
        folder: str,
        reader: PipesUnityCatalogVolumesMessageReader | None = None,
    ) -> None:
        super().__init__(client, folder, message_reader=reader)
        self._cluster = cluster

    def _poll_til_success(self, context: Any, run_id: int) -> None:
        try:
            page = patiently(lambda: self.client.jobs.get_run(run_id)).run_page_url
            context.log.info("serverless run %s", page)
            remote.await_success(self.client, run_id, self._cluster, context.log.info)
        except DagsterExecutionInterruptedError:
            self.interrupted = True
            raise  # Pipes cancels the run
        except Exception:
            remote.cancel(self.client, run_id)
            raise

    def _poll_til_terminating(self, run_id: int) -> None:
        remote.await_end(self.client, run_id, self._cluster)
