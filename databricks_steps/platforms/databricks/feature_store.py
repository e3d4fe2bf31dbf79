"""The FeatureStore port over Unity Catalog: our own point-in-time join, models logged with lookups.

The join is the one of the embedded platform, so what was proven there holds here: it can ask a
table as it was at a version and tells how old an answer is, which the Feature Engineering client
does not. That client does what only it can: it logs a model so that an endpoint of Databricks
looks its features up by itself, and Unity Catalog shows what the model reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.features.lookups import Lookup
from databricks_steps.features.point_in_time import with_lookups
from databricks_steps.features.request import FIELDS
from databricks_steps.interfaces import Tables
from databricks_steps.settings import Settings
from databricks_steps.training import registry

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from sklearn.pipeline import Pipeline


class UnityFeatureStore:
    """Looks features up in feature tables of Unity Catalog."""

    def __init__(self, settings: Settings, tables: Tables) -> None:
        self._settings, self._tables = settings, tables

    def look_up(
        self,
        trips: DataFrame,
        lookups: Sequence[Lookup],
        months: Sequence[str] | None = None,
        versions: Mapping[str, int] | None = None,
    ) -> DataFrame:
        """The trips with the features of every lookup; see `interfaces.FeatureStore`."""
        lookback = timedelta(days=self._settings.lookback_days)
        return with_lookups(self._tables, trips, lookups, lookback, months, versions)

    def log_model(
        self,
        pipeline: Pipeline,
        lookups: Sequence[Lookup],
        training_set: DataFrame,
        arguments: Mapping[str, Any],
    ) -> str:
        """Log by the Feature Engineering client, and register; see `interfaces.FeatureStore`.

        An endpoint then takes a request's own fields, and looks the features up online.
        """
        import mlflow
        from databricks.feature_engineering import FeatureEngineeringClient

        from databricks_steps.training.request_columns import from_requests

        registry.client(self._settings)
        client = FeatureEngineeringClient()
        known = client.create_training_set(
            df=training_set.select(*FIELDS, schemas.LABEL),
            feature_lookups=[self._lookup(lookup) for lookup in lookups],
            label=schemas.LABEL,
        )
        client.log_model(
            model=from_requests(pipeline),
            artifact_path=registry.FARE_MODEL,
            flavor=mlflow.sklearn,
            training_set=known,
            registered_model_name=self._settings.registered_model,
            # No `signature`: the client makes the registered model's own of the training set. One
            # that is given stays on the model inside, whose integers an endpoint has as 64 bits.
            **{name: value for name, value in arguments.items() if name != "input_example"},
        )
        run = mlflow.active_run()
        assert run is not None  # noqa: S101 the port is called inside a run
        return registry.registered_by(self._settings, run.info.run_id)

    def _lookup(self, lookup: Lookup) -> Any:
        from databricks.feature_engineering import FeatureLookup

        return FeatureLookup(
            table_name=self._settings.table(lookup.table.name),
            lookup_key=lookup.key,
            feature_names=list(lookup.features),
            timestamp_lookup_key=lookup.at,
            lookback_window=timedelta(days=self._settings.lookback_days),
            default_values=lookup.defaults,
        )
