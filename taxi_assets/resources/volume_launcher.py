"""dagster-databricks' step launcher without its three faults on Unity Catalog.

It stages on a volume instead of DBFS, installs none of the orchestrator's packages on the cluster,
and ships exactly the two packages of this project. Imported only where steps are launched.
"""

from __future__ import annotations

import io
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import requests
from dagster_databricks.databricks import DatabricksClient, DatabricksJobRunner
from dagster_databricks.databricks import DatabricksError as RunError
from dagster_databricks.databricks_pyspark_step_launcher import (
    DatabricksConfig,
    DatabricksPySparkStepLauncher,
)
from databricks.sdk.errors import BadRequest
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.retries import retried

from databricks_steps.errors import TaxiError
from databricks_steps.settings import REPOSITORY
from taxi_assets.resources.remote_setup import RemoteSetup
from taxi_assets.resources.step_launcher import LISTENERS
from taxi_assets.resources.targets import Cluster, Target

if TYPE_CHECKING:
    import dagster as dg
    from dagster import DagsterLogManager
    from dagster._core.execution.context.system import StepExecutionContext
    from dagster_databricks.types import DatabricksRunState

Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)
PATIENCE = timedelta(minutes=2)
PACKAGES = ("databricks_steps", "taxi_assets")
STAGING = "dagster_staging"  # the volume
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


class LaunchError(TaxiError):
    """A launched step failed, or the workspace did not let it run; the message holds its link."""


def patiently(call: Callable[[], Result]) -> Result:
    """The call's result; a workspace that is busy, broken or away for a moment is asked again."""
    from databricks.sdk.errors import (
        DeadlineExceeded,
        InternalError,
        TemporarilyUnavailable,
        TooManyRequests,
    )

    passing: list[type[BaseException]] = [
        *(InternalError, TemporarilyUnavailable, TooManyRequests, DeadlineExceeded),
        *(requests.ConnectionError, requests.Timeout),
    ]
    return cast("Result", retried(on=passing, timeout=PATIENCE)(call)())


class VolumeClient(DatabricksClient):
    """Files go to a volume by the Files API; what fails for a moment is tried again."""

    def put_file(
        self, file_obj: IO[Any], dbfs_path: str, overwrite: bool = False, block_size: int = 0
    ) -> None:
        content = file_obj.read()
        files = self.workspace_client.files
        patiently(lambda: files.upload(dbfs_path, io.BytesIO(content), overwrite=overwrite))

    def read_file(self, dbfs_path: str, block_size: int = 0) -> bytes:
        from databricks.sdk.errors import NotFound

        def read() -> bytes:
            contents = self.workspace_client.files.download(dbfs_path).contents
            return b"" if contents is None else bytes(contents.read())

        try:
            return patiently(read)
        except NotFound:  # the step has not written it yet
            return b""

    def get_run_state(self, databricks_run_id: int) -> DatabricksRunState:
        return patiently(lambda: super(VolumeClient, self).get_run_state(databricks_run_id))


class VolumeRunner(DatabricksJobRunner):
    """Submits runs and watches them, with files on a volume."""

    def __init__(self, host: str, token: str, cluster: Cluster) -> None:
        super().__init__(
            host,
            token,
            poll_interval_sec=cluster.poll_seconds,
            max_wait_time_sec=cluster.timeout_seconds,
        )
        self._client = VolumeClient(host, token)

    def submit_run(self, run_config: Mapping[str, Any], task: Mapping[str, Any]) -> int:
        # The idempotency token makes it safe to ask again when the answer was lost.
        return patiently(lambda: super(VolumeRunner, self).submit_run(run_config, task))


class VolumeLauncher(DatabricksPySparkStepLauncher):
    """Launches each step on the target's cluster."""

    def __init__(self, target: Target, cluster: Cluster, host: str, token: str) -> None:
        settings = target.settings
        super().__init__(
            run_config={},
            permissions={},
            databricks_host=host,
            databricks_token=token,
            secrets_to_env_variables=[],
            staging_prefix=f"/Volumes/{settings.catalog}/{settings.schema}/{STAGING}",
            wait_for_logs=False,
            max_completion_wait_time_seconds=cluster.timeout_seconds,
            local_dagster_job_package_path=str(REPOSITORY),
            verbose_logs=False,
            oauth_credentials={},
            azure_credentials={},
        )
        self._target, self._cluster = target, cluster
        self._run_url = "its run was not submitted"
        self.databricks_runner = VolumeRunner(host, token, cluster)

    def launch_step(self, step_context: StepExecutionContext) -> Iterator[dg.DagsterEvent]:
        run, step = step_context.dagster_run, step_context.step.key
        self.run_config = self._cluster.run_config(step, run.run_id, run.tags) | {
            "idempotency_token": uuid.uuid4().hex
        }
        with tempfile.TemporaryDirectory() as folder:
            for package in PACKAGES:
                shutil.copytree(REPOSITORY / package, Path(folder) / package, ignore=_LEFT_OUT)
            self.local_dagster_job_package_path = folder
            try:
                for event in super().launch_step(step_context):
                    for listener in LISTENERS:
                        listener(event)
                    yield event
            except (RunError, DatabricksError, requests.RequestException, TimeoutError) as error:
                raise LaunchError(
                    f"The launched step {step} must succeed",
                    f"{error} ({self._run_url})",
                    "Look at its run, mend the cause, then run it again",
                ) from error
            finally:
                self._clean(run.run_id, step)

    def get_databricks_run_dagster_event(
        self, context: StepExecutionContext, databricks_run_id: int
    ) -> dg.DagsterEvent:
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
        return cast("DatabricksConfig", RemoteSetup(self._target.remote_environment()))

    def _dbfs_path(self, run_id: str, step_key: str, filename: str) -> str:
        step = self._sanitize_step_key(step_key)
        return f"{self.staging_prefix}/{run_id}/{step}/{Path(filename).name}"

    def _internal_dbfs_path(self, run_id: str, step_key: str, filename: str) -> str:
        return self._dbfs_path(run_id, step_key, filename)

    def _clean(self, run_id: str, step_key: str) -> None:
        """Leave nothing of the step behind."""

        files = self.databricks_runner.client.workspace_client.files
        folder = self._dbfs_path(run_id, step_key, "x").removesuffix("/x")
        try:
            for entry in patiently(lambda: list(files.list_directory_contents(folder))):
                patiently(partial(files.delete, str(entry.path)))
            patiently(lambda: files.delete_directory(folder))
            with suppress(BadRequest):  # another step of the run is still there
                files.delete_directory(str(Path(folder).parent))
        except (DatabricksError, requests.RequestException, TimeoutError) as error:
            _LOG.warning("%s could not be removed: %s", folder, error)
