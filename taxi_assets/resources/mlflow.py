"""MLflow runs for assets: dagster-mlflow's resource, opened only where a model is trained.

dagster-mlflow starts an MLflow run when the resource is made and ends it from a job hook. A run
is wanted for a training that really happens, so its resource is made inside `run()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from databricks_steps.settings import DATABRICKS, Settings
from databricks_steps.training import registry
from taxi_assets.resources.targets import target


class MlflowRuns:
    """Opens the MLflow run of one Dagster run."""

    def __init__(self, context: dg.InitResourceContext, settings: Settings) -> None:
        self._context, self._settings = context, settings

    @contextmanager
    def run(self) -> Iterator[str]:
        """An active MLflow run tagged with the Dagster run; ends finished or failed.

        Where a launched step runs dagster-mlflow is not installed: MLflow's own run does.
        """
        if self._settings.platform == DATABRICKS or target().launched:
            tags = {"dagster_run_id": self._context.run_id}
            with registry.tracked_run(self._settings, tags) as run:
                yield run
            return
        import mlflow
        from dagster_mlflow import mlflow_tracking

        registry.client(self._settings)
        inner = mlflow_tracking.resource_fn(  # type: ignore[call-arg]
            self._context.replace_config(
                {
                    "experiment_name": self._settings.experiment,
                    "mlflow_tracking_uri": self._settings.mlflow_uri,
                    "env": {},
                    "extra_tags": {"mlflow.runName": "fare_model"},
                }
            )
        )
        tracked = next(inner)
        status = "FAILED"
        try:
            active = mlflow.active_run()
            yield str(active.info.run_id if active else tracked.mlflow_run_id)
            status = "FINISHED"
        finally:
            inner.close()
            mlflow.end_run(status)


def mlflow_runs(settings: Settings) -> dg.ResourceDefinition:
    """The resource `mlflow`."""

    @dg.resource(description="MLflow runs by dagster-mlflow, one for each training")
    def runs(context: dg.InitResourceContext) -> MlflowRuns:
        return MlflowRuns(context, settings)

    return runs
