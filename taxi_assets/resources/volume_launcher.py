"""dagster-databricks' step launcher without its three faults on Unity Catalog.

It stages on a volume, not on the DBFS root that new workspaces lack, installs none of the
orchestrator's packages on the cluster, and ships exactly the two packages of this project, as a
wheel that the cluster installs on every node. Imported only where steps are launched.
"""

from __future__ import annotations

import io
import logging
import pickle
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import requests
from dagster._core.execution.plan.external_step import PICKLED_STEP_RUN_REF_FILE_NAME
from dagster_databricks.databricks import DatabricksError as RunError
from dagster_databricks.databricks import DatabricksJobRunner
from dagster_databricks.databricks_pyspark_step_launcher import (
    CODE_ZIP_NAME,
    PICKLED_CONFIG_FILE_NAME,
    DatabricksConfig,
    DatabricksPySparkStepLauncher,
)
from databricks.sdk.errors.base import DatabricksError

from databricks_steps.settings import REPOSITORY
from taxi_assets.deployment.retries import patiently
from taxi_assets.partitions import MONTHS_TAG, run_months
from taxi_assets.resources import run_cluster
from taxi_assets.resources.clusters import Cluster
from taxi_assets.resources.remote import LaunchError, await_end
from taxi_assets.resources.remote_setup import RemoteSetup
from taxi_assets.resources.staging import Staging, empty_zip
from taxi_assets.resources.step_launcher import LISTENERS
from taxi_assets.resources.targets import Target

if TYPE_CHECKING:
    import dagster as dg
    from dagster import DagsterLogManager, EventLogEntry
    from dagster._core.definitions.step_launcher import StepRunRef
    from dagster._core.execution.context.system import StepExecutionContext
    from databricks.sdk import WorkspaceClient

_LOG = logging.getLogger(__name__)


class VolumeRunner(DatabricksJobRunner):
    """Submits runs and watches them."""

    def __init__(self, client: Staging, cluster: Cluster) -> None:
        self.poll_interval_sec = cluster.poll_seconds
        # The workspace ends the run at the limit, and knows more of it: it goes first.
        self.max_wait_time_sec = cluster.timeout_seconds + cluster.grace_seconds
        self._client = client

    def submit_run(self, run_config: Mapping[str, Any], task: Mapping[str, Any]) -> int:
        # The idempotency token makes it safe to ask again when the answer was lost.
        return patiently(lambda: super(VolumeRunner, self).submit_run(run_config, task))


class VolumeLauncher(DatabricksPySparkStepLauncher):
    """Launches each step on the target's cluster."""

    def __init__(self, target: Target, cluster: Cluster, client: WorkspaceClient) -> None:
        # What the original's methods read; its constructor would make a client of its own.
        self.run_config, self.secrets = {}, []
        self.permissions = {"jobs": cluster.access()} if cluster.permissions else {}
        self._staging = Staging(client, target.settings)
        self.staging_prefix = self._staging.prefix
        self.local_dagster_job_package_path = str(REPOSITORY)
        self.wait_for_logs = self.verbose_logs = False
        self.databricks_runner = self._runner = VolumeRunner(self._staging, cluster)
        self._target, self._cluster = target, cluster
        self._run_url, self._run = "", 0
        self._events: list[EventLogEntry] = []
        self._months: Sequence[str] = ()

    def launch_step(self, step_context: StepExecutionContext) -> Iterator[dg.DagsterEvent]:
        run, step = step_context.dagster_run, step_context.step.key
        self._run_url, self._run, self._events = "its run was not submitted", 0, []
        self._months = run_months(run.tags, step_context.instance) or ()
        succeeded = False
        self._staging.sweep(step_context.instance)
        try:
            self.run_config = self._cluster.run_config(
                step,
                run.run_id,
                run.tags,
                self._target.remote_environment(),
                self._staging.put_wheel(),
                self._shared(run.run_id),
            ) | {"idempotency_token": uuid.uuid4().hex}
            for event in super().launch_step(step_context):
                for listener in LISTENERS:
                    listener(event)
                yield event
            succeeded = True
        except (RunError, DatabricksError, requests.RequestException, TimeoutError) as error:
            limit = f"{self._cluster.timeout_seconds:,} seconds"
            raise LaunchError(
                f"The launched step {step} must succeed within {limit}",
                f"{error} ({self._run_url})",
                "Look at its run, mend the cause or allow more (TAXI_STEP_SECONDS), "
                "then run it again",
            ) from error
        finally:
            if self._run and not succeeded:
                await_end(self._staging.workspace_client, self._run, self._cluster)
            self._staging.clean(run.run_id, self._sanitize_step_key(step))

    def _shared(self, run: str) -> str:
        """The cluster of the run, made when this is its first launched step."""
        if not self._cluster.is_shared:
            return ""
        spec = self._cluster.run_spec(run, self._target.remote_environment())
        return run_cluster.SHARED.made(self._staging.workspace_client, spec)

    def _upload_artifacts(
        self, log: DagsterLogManager, step_run_ref: StepRunRef, run_id: str, step_key: str
    ) -> None:
        """The four files of a step, as the main file expects them."""
        if self._months:
            run = step_run_ref.dagster_run.with_tags(
                {**step_run_ref.dagster_run.tags, MONTHS_TAG: ",".join(self._months)}
            )
            step_run_ref = step_run_ref._replace(dagster_run=run)
        for name, content in (
            (self._main_file_name(), Path(self._main_file_local_path()).read_bytes()),
            (CODE_ZIP_NAME, empty_zip()),
            (PICKLED_STEP_RUN_REF_FILE_NAME, pickle.dumps(step_run_ref)),
            (PICKLED_CONFIG_FILE_NAME, pickle.dumps(self.create_remote_config())),
        ):
            path = self._dbfs_path(run_id, step_key, name)
            self._staging.put_file(io.BytesIO(content), path, overwrite=True)

    def get_step_events(
        self, run_id: str, step_key: str, retry_number: int
    ) -> Sequence[EventLogEntry]:
        """The events so far: never fewer than before, though the step writes the file anew."""
        try:
            found = list(super().get_step_events(run_id, step_key, retry_number))
        except (EOFError, OSError, pickle.UnpicklingError, zlib.error) as error:
            _LOG.warning("the events of %s could not be read now: %s", step_key, error)
            found = []
        if len(found) > len(self._events):
            self._events = found
        return self._events

    def get_databricks_run_dagster_event(
        self, context: StepExecutionContext, databricks_run_id: int
    ) -> dg.DagsterEvent:
        self._run = databricks_run_id
        event = super().get_databricks_run_dagster_event(context, databricks_run_id)
        link = event.engine_event_data.metadata.get("databricks_run_url")
        self._run_url = str(link.value) if link is not None else f"run {databricks_run_id}"
        return event

    def log_compute_logs(self, log: DagsterLogManager, run_id: str, step_key: str) -> None:
        """What the step printed goes to Dagster's log alone: a terminal shows stages."""
        for name in ("stdout", "stderr"):
            try:
                path = self._dbfs_path(run_id, step_key, name)
                text = self.databricks_runner.client.read_file(path).decode(errors="replace")
            except (DatabricksError, requests.RequestException, TimeoutError) as error:
                text = f"could not be read: {error}"
            if text.strip():
                log.info("%s of %s:\n%s", name, step_key, text)

    def create_remote_config(self) -> DatabricksConfig:
        # Duck-typed by the main file; the original would need dagster-databricks on the cluster.
        remote = RemoteSetup(self._target.remote_environment(), self._cluster.secrets)
        return cast("DatabricksConfig", remote)

    def _grant_permissions(
        self, log: DagsterLogManager, databricks_run_id: int, request_retries: int = 6
    ) -> None:
        """Who may see the run; one that people may not see as configured does not go on.

        The original waits for a cluster first, and goes on without where it starts slowly.
        """
        from databricks.sdk.service.iam import AccessControlRequest

        workspace = self._runner.client.workspace_client
        given = [AccessControlRequest.from_dict(each) for each in self._cluster.access()]
        try:
            job = patiently(lambda: workspace.jobs.get_run(databricks_run_id)).job_id
            patiently(
                lambda: workspace.permissions.update("jobs", str(job), access_control_list=given)
            )
        except (DatabricksError, requests.RequestException, TimeoutError):
            self._run = databricks_run_id
            patiently(lambda: workspace.jobs.cancel_run(databricks_run_id))
            raise

    def _dbfs_path(self, run_id: str, step_key: str, filename: str) -> str:
        step = self._sanitize_step_key(step_key)
        return f"{self.staging_prefix}/{run_id}/{step}/{Path(filename).name}"

    def _internal_dbfs_path(self, run_id: str, step_key: str, filename: str) -> str:
        return self._dbfs_path(run_id, step_key, filename)
