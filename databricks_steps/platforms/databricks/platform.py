"""The Databricks platform as one object: settings, tables, features and the cluster's session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from databricks_steps.platforms.databricks.feature_store import UnityFeatureStore
from databricks_steps.platforms.databricks.tables import UnityTables
from databricks_steps.settings import Settings
from databricks_steps.training import registry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class DatabricksPlatform:
    """Everything a step may ask for on a Databricks cluster or serverless compute."""

    def __init__(
        self,
        settings: Settings,
        start: Callable[[], SparkSession] | None = None,
        tracked_run: Callable[[], AbstractContextManager[str]] | None = None,
    ) -> None:
        self.settings = settings
        self._start = start or cluster_session
        self.tracked_run = tracked_run or (lambda: registry.tracked_run(settings))
        self.tables = UnityTables(settings, lambda: self.spark)
        self.features = UnityFeatureStore(settings, self.tables)

    def user(self) -> str:
        """The identity of the run: the cluster's own user is nobody in particular."""
        return str(self.spark.sql("SELECT current_user()").collect()[0][0])

    def at_work(self) -> AbstractContextManager[None]:
        """A cluster tells by itself."""
        return nullcontext()

    def with_settings(self, settings: Settings) -> DatabricksPlatform:
        """The same session under other settings."""
        return DatabricksPlatform(settings, lambda: self.spark, self.tracked_run)

    @cached_property
    def spark(self) -> SparkSession:
        running = self._start()
        # Times are New York wall clock as published and must never be shifted.
        running.conf.set("spark.sql.session.timeZone", "UTC")
        return running


def cluster_session() -> SparkSession:
    """The session that a task finds."""
    from pyspark.sql import SparkSession

    return SparkSession.builder.getOrCreate()
