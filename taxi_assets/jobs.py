"""Jobs: the whole pipeline, and its two halves: judging a month that landed, learning from it."""

from __future__ import annotations

import dagster as dg

from taxi_assets.graph import BY_MONTH, JUDGING, PAYLOADS, SERVING, TRAINING

# Checks of features that only a month's report can tell: they are evaluated after it.
REPORTED = tuple(
    dg.AssetCheckKey(dg.AssetKey(name), "drift") for name in ("pickup_features", "dropoff_features")
)

fare_pipeline = dg.define_asset_job(
    "fare_pipeline",
    selection=dg.AssetSelection.all(),
    description="Trips to a served, checked model and batch predictions.",
)
new_month = dg.define_asset_job(
    "new_month",
    selection=dg.AssetSelection.assets(*BY_MONTH, *PAYLOADS, *JUDGING),
    description="A month that landed, judged with the model in production; nothing is trained.",
)
retrain = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets(*TRAINING, *SERVING, *JUDGING)
    | dg.AssetSelection.checks(*REPORTED),
    description="A model of the months at hand: trained, judged, served, and the month with it.",
)
JOBS = [fare_pipeline, new_month, retrain]
