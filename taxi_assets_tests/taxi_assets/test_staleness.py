"""Dagster knows what a corrected month makes stale; a run without a change makes nothing stale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from databricks_steps.settings import Settings
from databricks_steps.trips.demo import demo_trips
from taxi_assets.definitions import build_defs
from taxi_assets.partitions import hold
from taxi_assets.resources.targets import Target

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

JANUARY, FEBRUARY, MARCH = MONTHS = ("2022-01", "2022-02", "2022-03")
TRIPS = ("raw_trips", "arrivals", "trips", "quarantined_trips")


class Runs:
    """Materializes assets month by month, and tells what is stale."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        settings = Settings(home=folder / "home", source=str(self.source))
        self._job = build_defs(Target("local", settings)).resolve_job_def("fare_pipeline")
        self._instance = instance

    def land(self, month: str, seed: int = 1) -> None:
        pq.write_table(demo_trips(month, 1_500, seed), self.source / f"green_{month}.parquet")

    def materialize(self, month: str, *assets: str) -> None:
        keys = [dg.AssetKey(name) for name in assets]
        hold(self._instance, [month])
        done = self._job.execute_in_process(
            partition_key=month, asset_selection=keys, instance=self._instance
        )
        assert done.success

    def stale(self, asset: str) -> dict[str, str]:
        """Month → why the asset is stale there; months that are fresh are not in it."""
        graph = self._job.asset_layer.asset_graph
        resolver = CachingStaleStatusResolver(
            self._instance, graph, LoadingContextForTest(self._instance)
        )
        key, found = dg.AssetKey(asset), {}
        for month in MONTHS:
            if resolver.get_status(key, month) == StaleStatus.STALE:
                (cause,) = resolver.get_stale_causes(key, month)
                found[month] = f"{cause.reason}: {cause.dependency_partition_key}"
        return found


def test_a_corrected_month_makes_itself_stale(spark: SparkSession, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        runs = Runs(tmp_path, instance)
        for month in MONTHS:
            runs.land(month)
            runs.materialize(month, *TRIPS, "pickup_features")
        assert runs.stale("pickup_features") == {}

        runs.materialize(JANUARY, *TRIPS)  # once more, and nothing changed
        assert runs.stale("pickup_features") == {}

        runs.land(JANUARY, seed=2)
        runs.materialize(JANUARY, *TRIPS)
        why = "has a new dependency data version: 2022-01"
        # February's features read January's last trips, too: the next run finds that out by itself.
        assert runs.stale("pickup_features") == {JANUARY: why}

        runs.materialize(JANUARY, "pickup_features")
        assert runs.stale("pickup_features") == {}
