"""The platform resource: the steps' ports, on the run's one Spark session and MLflow run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg

from databricks_steps.interfaces import Platform
from databricks_steps.platforms.databricks.platform import cluster_session
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets import dagster_instance, partitions
from taxi_assets.resources.targets import target

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OWN_PROCESS = ".dagster/grpc_info"  # a tag of runs that the UI or a sensor started


def platform(settings: Settings) -> dg.ResourceDefinition:
    """The resource `platform`, with dagster-pyspark's session made when first used.

    On Databricks the cluster brings its own session, and dagster-pyspark is not there.
    """

    @dg.resource(
        description=f"Tables, features and Spark of the {settings.platform} platform",
        required_resource_keys={"pyspark", "mlflow"},
    )
    def chosen(context: dg.InitResourceContext) -> Platform:
        from databricks_steps.platforms import factory

        def start() -> SparkSession:
            running: SparkSession = context.resources.pyspark.spark_session
            return running

        run = context.run
        launched = target().launched
        if run is not None and (launched or OWN_PROCESS in run.tags):
            if not launched:
                dagster_instance.hold(settings, run, context.instance)
            if context.instance is not None:  # that of a cluster knows no months
                months = partitions.run_months(run.tags, context.instance)
                partitions.hold(context.instance, months or ())
        own: Callable[[], SparkSession] | None = cluster_session if launched else start
        if settings.platform == DATABRICKS:
            own = None
        return factory.platform(settings, own, context.resources.mlflow.run)

    return chosen


def pyspark(settings: Settings) -> dg.ResourceDefinition:
    """dagster-pyspark's lazy resource, configured as the steps want their session."""
    if settings.platform == DATABRICKS:
        return dg.ResourceDefinition.none_resource()

    @dg.resource(description=f"dagster-pyspark's session on {settings.engine}, made when asked for")
    def lazily(context: dg.InitResourceContext) -> PySpark:
        return PySpark(settings)

    return lazily


class PySpark:
    """A session of dagster-pyspark; its engine starts when the session is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def spark_session(self) -> SparkSession:
        from databricks_steps.platforms.embedded import session

        return session.start(self._settings, _by_dagster)


def _by_dagster(conf: dict[str, Any]) -> SparkSession:
    from dagster_pyspark import LazyPySparkResource

    made: SparkSession = LazyPySparkResource(spark_config=conf).spark_session
    return made
