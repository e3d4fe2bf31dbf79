"""The drift metrics of Databricks' monitor, as a Delta table that it might have written."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from databricks_steps.monitoring import monitor_metrics
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


def write(settings: Settings, rows: list[dict[str, Any]]) -> None:
    path = settings.table_path(monitor_metrics.METRICS)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_deltalake(str(path), pa.Table.from_pylist(rows, SCHEMA), mode="overwrite")
