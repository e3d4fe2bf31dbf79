"""Jobs: the whole pipeline, and its two halves: judging a month that landed, learning from it."""

from __future__ import annotations

import dagster as dg

JUDGED = ("batch_predictions", "drift_report", "live_performance")
# Checks of features that only a month's report can tell: they are evaluated after it.
REPORTED = (
    dg.AssetCheckKey(dg.AssetKey("pickup_features"), "drift"),
    dg.AssetCheckKey(dg.AssetKey("dropoff_features"), "drift"),
)

fare_pipeline = dg.define_asset_job(
    "fare_pipeline",
    selection=dg.AssetSelection.all(),
    description="Trips to a served, checked model and batch predictions.",
)
new_month = dg.define_asset_job(
    "new_month",
    selection=dg.AssetSelection.assets(
        *(
            "raw_trips",
            "arrivals",
            "trips",
            "quarantined_trips",
            "pickup_features",
            "dropoff_features",
        ),
        *("endpoint_payloads", *JUDGED),
    ),
    description="A month that landed, judged with the model in production; nothing is trained.",
)
retrain = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets(
        *("training_set", "fare_model", "champion_model"),
        *("pickup_features_online", "dropoff_features_online", "serving_endpoint", *JUDGED),
    )
    | dg.AssetSelection.checks(*REPORTED),
    description="A model of the months at hand: trained, judged, served, and the month with it.",
)
JOBS = [fare_pipeline, new_month, retrain]
