"""The newest window that Databricks' monitor measured is read, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from databricks_steps.monitoring import monitor_metrics
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from taxi_assets_tests.databricks_steps.monitoring.monitor_table import measured, write


@pytest.fixture
def platform(tmp_path: Path) -> EmbeddedPlatform:
    return EmbeddedPlatform(Settings(home=tmp_path))


def test_without_a_monitor_there_is_nothing_to_tell(platform: EmbeddedPlatform) -> None:
    assert monitor_metrics.newest(platform.tables) is None
    write(platform.settings, [])
    assert monitor_metrics.newest(platform.tables) is None


def test_the_newest_window_of_the_fare_and_no_other_column_or_slice(
    platform: EmbeddedPlatform,
) -> None:
    others = [
        measured(9, 9.0, column_name="trip_distance"),
        measured(9, 9.0, drift_type="BASELINE"),
        measured(9, 9.0, slice_key="pickup_location_id"),
    ]
    write(platform.settings, others)
    assert monitor_metrics.newest(platform.tables) is None
    write(platform.settings, [measured(3, 0.3), *others, measured(2, 0.2)])
    newest = {"since": "2022-03-03T00:00:00", "model_version": "1", "js_distance": 0.25}
    found = monitor_metrics.newest(platform.tables)
    assert found == {**newest, "population_stability_index": 0.3}
    # The newer of two versions that answered in the same window; no measure where none is.
    write(
        platform.settings,
        [measured(3, 0.3, model_version="9"), measured(3, None, model_version="10")],
    )
    found = monitor_metrics.newest(platform.tables)
    assert found == {**newest, "model_version": "10", "population_stability_index": None}
