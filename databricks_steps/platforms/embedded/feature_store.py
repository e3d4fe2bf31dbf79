"""The FeatureStore port over the embedded tables: point-in-time lookups in Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from databricks_steps.features.lookups import Lookup
from databricks_steps.features.point_in_time import with_lookups
from databricks_steps.interfaces import Tables
from databricks_steps.settings import Settings
from databricks_steps.training import registry

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from sklearn.pipeline import Pipeline


class DeltaFeatureStore:
    """Looks features up in the tables of the embedded platform."""

    def __init__(self, settings: Settings, tables: Tables) -> None:
        self._settings = settings
        self._lookback = timedelta(days=settings.lookback_days)
        self._tables = tables

    def look_up(
        self,
        trips: DataFrame,
        lookups: Sequence[Lookup],
        months: Sequence[str] | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> DataFrame:
        """The trips with the features of every lookup; see `interfaces.FeatureStore`."""
        return with_lookups(self._tables, trips, lookups, self._lookback, months, versions)

    def log_model(
        self,
        pipeline: Pipeline,
        lookups: Sequence[Lookup],
        training_set: DataFrame,
        arguments: Mapping[str, Any],
    ) -> str:
        """Log and register by MLflow alone; see `interfaces.FeatureStore`."""
        return registry.log_plain(self._settings, pipeline, arguments)
