"""The platform resource: the steps' ports, on the run's one Spark session and MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from databricks_steps.ports import Platform
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets import instance
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
        from databricks_steps.platforms import chosen

        def start() -> SparkSession:
            from databricks_steps.platforms.embedded import session

            session.prepare(settings)
            running: SparkSession = context.resources.pyspark.spark_session
            return running

        run = context.run
        if run is not None and OWN_PROCESS in run.tags and not target().launched:
            instance.hold(settings, run, context.instance)
        own = None if settings.platform == DATABRICKS else start
        return chosen.platform(settings, own, context.resources.mlflow.run)

    return chosen


def pyspark(settings: Settings) -> object:
    """dagster-pyspark's lazy resource, configured as the steps want their session."""
    if settings.platform == DATABRICKS:
        return dg.ResourceDefinition.none_resource()
    from dagster_pyspark import LazyPySparkResource

    from databricks_steps.platforms.embedded.session import spark_conf

    return LazyPySparkResource(spark_config=spark_conf(settings))
