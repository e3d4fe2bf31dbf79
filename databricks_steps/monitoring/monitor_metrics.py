"""What Databricks' monitor measured of the predicted fare: the newest window of its drift metrics.

The monitor, which `taxi_assets/deployment/quality_monitor.py` keeps, writes the table beside
`endpoint_payloads`; where there is no monitor there is no table, and nothing to tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps import schemas

if TYPE_CHECKING:
    from databricks_steps.interfaces import Tables

METRICS = f"{schemas.ENDPOINT_PAYLOADS.name}_drift_metrics"
PREDICTION, VERSION = "predicted_fare", "model_version"  # as the monitor was asked for
# Those of the metric table that are told, each a comparison with the window before.
MEASURES = ("population_stability_index", "js_distance", "wasserstein_distance", "avg_delta")


def newest(tables: Tables) -> dict[str, Any] | None:
    """Window (its first instant, ISO 8601), model version and measures of the newest window.

    The measures are those of `MEASURES` that the monitor tells; fares in dollars. None without a
    monitor, and before its second window: drift wants one to compare with.
    """
    metrics = tables.foreign(METRICS)
    if metrics is None:
        return None
    from pyspark.sql import functions as F

    told = [name for name in MEASURES if name in metrics.columns]
    found = (
        metrics.where(F.col("column_name") == PREDICTION)
        .where(F.col("drift_type") == "CONSECUTIVE")
        .where(F.col("slice_key").isNull())
        .withColumn("since", F.col("window.start"))
        .orderBy(F.col("since").desc(), F.col(VERSION).cast("int").desc())
        .select("since", VERSION, *told)
        .first()
    )
    if found is None:
        return None
    return found.asDict() | {"since": found["since"].isoformat()}
