"""The platform resource: the steps' ports, on the run's one Spark session and MLflow run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from databricks_steps.ports import Platform
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def platform(settings: Settings) -> dg.ResourceDefinition:
    """The resource `platform`: embedded, with dagster-pyspark's session made when first used."""

    @dg.resource(
        description="Tables, features and Spark of the embedded platform",
        required_resource_keys={"pyspark", "mlflow"},
    )
    def embedded(context: dg.InitResourceContext) -> Platform:
        from databricks_steps.platforms.embedded import session
        from databricks_steps.platforms.embedded.platform import EmbeddedPlatform

        def start() -> SparkSession:
            session.prepare(settings)
            running: SparkSession = context.resources.pyspark.spark_session
            return running

        return EmbeddedPlatform(settings, start, context.resources.mlflow.run)

    return embedded


def pyspark(settings: Settings) -> object:
    """dagster-pyspark's lazy resource, configured as the steps want their session."""
    from dagster_pyspark import LazyPySparkResource

    from databricks_steps.platforms.embedded.session import spark_conf

    return LazyPySparkResource(spark_config=spark_conf(settings))
