"""What to do about a check that failed: one line for each, told in its alert."""

from __future__ import annotations

from dataclasses import dataclass

_FEATURES = {
    **dict.fromkeys(
        ("key_unique", "no_future_knowledge"),
        "Compare the feature code with its tests, then materialize the features with force",
    ),
    "drift": "Look at the drift report; drift_retrain_sensor retrains by itself where that helps",
}
_ONLINE = dict.fromkeys(
    ("matches_offline", "feature_age"),
    "Materialize the online table again; if it stays, look at the workspace's log",
)
_ENDPOINT = "Look at the endpoint's log; taxi-assets rollback goes back to the champion before"


@dataclass(frozen=True)
class Remedy:
    """What to do. `by_month`: a failure in one month is another problem than in the next."""

    text: str
    by_month: bool = True


# Checks with one cause: people are told `triage` of the month, not each of these.
TOLD_BY_TRIAGE = frozenset(
    {
        ("pickup_features", "drift"),
        ("dropoff_features", "drift"),
        ("batch_predictions", "prediction_drift"),
        ("drift_report", "tariff"),
        ("live_performance", "live_error"),
    }
)
_BY_MONTH = {
    "raw_trips": {
        "source_schema": "Compare the publisher's dictionary; map a column of use in "
        "column_mapping.py",
    },
    "trips": {
        "rows_conserved": "This is a fault of ours: keep raw_trips as it is and report it with "
        "the run's log",
        "schema_contract": "Compare the table with schemas.py; materialize trips again from "
        "raw_trips",
        "quarantine_rate": "Look at the reasons in quarantined_trips and at the source; do not "
        "train on this month",
        "volume": "Compare the file with the publisher's; bring it again if it is not whole",
    },
    "pickup_features": _FEATURES,
    "dropoff_features": _FEATURES,
    "batch_predictions": {
        "rows_conserved": "Materialize batch_predictions of the month again; if it stays, report "
        "it",
        "no_null_predictions": "Look at the trips that got no fare: their inputs are outside the "
        "request contract",
        "prediction_drift": _FEATURES["drift"],
    },
    "endpoint_payloads": {
        "readable": "Look at the payloads named; what wrote them does not follow the request "
        "contract",
    },
    "drift_report": {
        "triage": "Read the page of the month; a retrain is asked for where it helps: "
        "docs/monitoring.md",
        "tariff": "Metered trips cost another fare: drift_retrain_sensor retrains by itself",
    },
    "live_performance": {
        "live_error": "Fares differ from what was learned; drift_retrain_sensor retrains by itself",
        "fare_range": "Fares scatter otherwise than on the holdout; a retrain calibrates the range "
        "anew",
    },
}
_ALWAYS = {
    "raw_trips": {
        "arrivals.readable": "taxi-assets status says what to do about each file; the others are "
        "loaded",
    },
    "trips": {
        "month_complete": "Bring the month that is missing, or the whole file of the one with gaps",
    },
    "fare_model": {
        "beats_baseline": "The champion stays. Look at the training set's months and at the "
        "candidate's report",
        "no_label_leak": "The champion stays. A feature knows the fare: look at what was added "
        "last",
        "champion_not_better": "The champion stays, and nothing needs doing; more or newer months "
        "may change that",
        "slices": "The champion stays. Look at the slices that became worse in the candidate's "
        "report",
        "onnx_parity": "The champion stays. Compare the versions of onnx and onnxruntime with "
        "the lock",
    },
    "pickup_features_online": _ONLINE,
    "dropoff_features_online": _ONLINE,
    "serving_endpoint": {
        **dict.fromkeys(("ready", "single_prediction", "batch_predictions_request"), _ENDPOINT),
        "train_serve_parity": "Publish the online tables again; if it stays, taxi-assets rollback",
        "latency": "See what else the machine does",
    },
}
REMEDIES = {
    (asset, check): Remedy(text, by_month)
    for by_month, assets in ((True, _BY_MONTH), (False, _ALWAYS))
    for asset, checks in assets.items()
    for check, text in checks.items()
}
OTHER = Remedy("Look at the check in Dagster, then materialize its asset again")


def remedy(asset: str, check: str) -> Remedy:
    return REMEDIES.get((asset, check), OTHER)
