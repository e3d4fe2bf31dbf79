"""The FeatureStore port over the embedded tables: point-in-time lookups in Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from databricks_steps.features.lookups import Lookup
from databricks_steps.features.point_in_time import with_features
from databricks_steps.months import with_months_before
from databricks_steps.ports import Tables
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class DeltaFeatureStore:
    """Looks features up in the tables of the embedded platform."""

    def __init__(self, settings: Settings, tables: Tables) -> None:
        self._lookback = timedelta(days=settings.lookback_days)
        self._tables = tables

    def look_up(
        self,
        trips: DataFrame,
        lookups: Sequence[Lookup],
        months: Sequence[str] | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> DataFrame:
        """The trips with the features of every lookup; see `ports.FeatureStore`."""
        read = with_months_before(months, self._lookback) if months is not None else None
        for lookup in lookups:
            name = lookup.table.name
            rows = self._tables.read(name, read, (versions or {}).get(name))
            trips = with_features(trips, rows, lookup, self._lookback)
        return trips
