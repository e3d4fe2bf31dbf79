"""The embedded platform as one object: settings, tables, features and a session made when asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING

from databricks_steps.platforms.embedded import session
from databricks_steps.platforms.embedded.feature_store import DeltaFeatureStore
from databricks_steps.platforms.embedded.tables import DeltaTables
from databricks_steps.settings import Settings
from databricks_steps.training import deployment_log, registry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class EmbeddedPlatform:
    """Everything a step may ask for on one machine, or on a Spark cluster that shares its storage.

    `start` makes the session and `tracked_run` the MLflow run; assets pass their resources'
    own, so a Dagster run has just one of each.
    """

    def __init__(
        self,
        settings: Settings,
        start: Callable[[], SparkSession] | None = None,
        tracked_run: Callable[[], AbstractContextManager[str]] | None = None,
    ) -> None:
        self.settings = settings
        self._start = start or (lambda: session.start(settings))
        self.tracked_run = tracked_run or (lambda: registry.tracked_run(settings))
        self.tables = DeltaTables(settings, lambda: self.spark)
        self.features = DeltaFeatureStore(settings, self.tables)

    def user(self) -> str:
        """The user of this machine."""
        return deployment_log.who()

    def at_work(self) -> AbstractContextManager[None]:
        """What the engine runs out of is told in people's words."""
        return session.at_work(self.settings)

    def with_settings(self, settings: Settings) -> EmbeddedPlatform:
        """The same session under other settings."""
        return EmbeddedPlatform(settings, lambda: self.spark, self.tracked_run)

    @cached_property
    def spark(self) -> SparkSession:
        running = self._start()
        session.require_utc(running)
        return running
