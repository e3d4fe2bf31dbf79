"""Jobs: the whole pipeline as one."""

from __future__ import annotations

import dagster as dg

fare_pipeline = dg.define_asset_job(
    "fare_pipeline",
    selection=dg.AssetSelection.all(),
    description="Trips to a served, checked model and batch predictions.",
)
JOBS = [fare_pipeline]
