"""The newest window that Databricks' monitor measured is read, and nothing where there is none."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from databricks_steps.monitoring import profiled
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings

# As the monitor makes the table: the reference of its metric tables, the columns read here.
SCHEMA = pa.schema(
    [
        ("window", pa.struct([(name, pa.timestamp("us", "UTC")) for name in ("start", "end")])),
        ("column_name", pa.string()),
        ("drift_type", pa.string()),
        ("slice_key", pa.string()),
        ("model_version", pa.string()),
        ("population_stability_index", pa.float64()),
        ("js_distance", pa.float64()),
        ("ks_test", pa.struct([("statistic", pa.float64()), ("pvalue", pa.float64())])),
    ]
)


def measured(day: int, psi: float | None, **other: Any) -> dict[str, Any]:
    start = datetime(2022, 3, day, tzinfo=timezone.utc)
    row = {
        "window": {"start": start, "end": start.replace(day=day + 1)},
        "column_name": "predicted_fare",
        "drift_type": "CONSECUTIVE",
        "slice_key": None,
        "model_version": "1",
        "population_stability_index": psi,
        "js_distance": 0.25,
        "ks_test": {"statistic": 0.1, "pvalue": 0.5},
    }
    return row | other


@pytest.fixture
def platform(tmp_path: Path) -> EmbeddedPlatform:
    return EmbeddedPlatform(Settings(home=tmp_path))


def write(platform: EmbeddedPlatform, rows: list[dict[str, Any]]) -> None:
    path = platform.settings.table_path(profiled.METRICS)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_deltalake(str(path), pa.Table.from_pylist(rows, SCHEMA), mode="overwrite")


def test_without_a_monitor_there_is_nothing_to_tell(platform: EmbeddedPlatform) -> None:
    assert profiled.newest(platform.tables) is None
    write(platform, [])
    assert profiled.newest(platform.tables) is None


def test_the_newest_window_of_the_fare_and_no_other_column_or_slice(
    platform: EmbeddedPlatform,
) -> None:
    others = [
        measured(9, 9.0, column_name="trip_distance"),
        measured(9, 9.0, drift_type="BASELINE"),
        measured(9, 9.0, slice_key="pickup_location_id"),
    ]
    write(platform, others)
    assert profiled.newest(platform.tables) is None
    write(platform, [measured(3, 0.3), *others, measured(2, 0.2)])
    newest = {"since": "2022-03-03T00:00:00", "model_version": "1", "js_distance": 0.25}
    found = profiled.newest(platform.tables)
    assert found == {**newest, "population_stability_index": 0.3}
    # The newer of two versions that answered in the same window; no measure where none is.
    write(platform, [measured(3, 0.3, model_version="9"), measured(3, None, model_version="10")])
    found = profiled.newest(platform.tables)
    assert found == {**newest, "model_version": "10", "population_stability_index": None}
