"""What to do about a check that failed: one line for each, told in its alert."""

from __future__ import annotations

from dataclasses import dataclass

_FEATURES = "Compare the feature code with its tests, then materialize the features with force"
_ONLINE = "Materialize the online table again; if it stays, look at the workspace's log"
_ENDPOINT = "Look at the endpoint's log; taxi-assets rollback goes back to the champion before"
_DRIFT = "Look at the drift report; drift_retrain_sensor retrains by itself where that helps"


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
        ("live_performance", "live_error"),
    }
)
REMEDIES: dict[tuple[str, str], Remedy] = {
    ("drift_report", "triage"): Remedy(
        "Read the page of the month; a retrain is asked for where it helps: docs/monitoring.md"
    ),
    ("raw_trips", "source_schema"): Remedy(
        "Compare the publisher's dictionary; map a column of use in column_mapping.py"
    ),
    ("raw_trips", "arrivals.readable"): Remedy(
        "The table arrivals says what to do about each file; the others are loaded", by_month=False
    ),
    ("trips", "rows_conserved"): Remedy(
        "This is a fault of ours: keep raw_trips as it is and report it with the run's log"
    ),
    ("trips", "schema_contract"): Remedy(
        "Compare the table with schemas.py; materialize trips again from raw_trips"
    ),
    ("trips", "quarantine_rate"): Remedy(
        "Look at the reasons in quarantined_trips and at the source; do not train on this month"
    ),
    ("trips", "volume"): Remedy(
        "Compare the file with the publisher's; bring it again if it is not whole"
    ),
    ("trips", "month_complete"): Remedy(
        "Bring the month that is missing, or the whole file of the one with gaps", by_month=False
    ),
    **{
        (table, check): Remedy(text)
        for table in ("pickup_features", "dropoff_features")
        for check, text in (
            ("key_unique", _FEATURES),
            ("no_future_knowledge", _FEATURES),
            ("drift", _DRIFT),
        )
    },
    ("fare_model", "beats_baseline"): Remedy(
        "The champion stays. Look at the training set's months and at the candidate's report",
        by_month=False,
    ),
    ("fare_model", "no_label_leak"): Remedy(
        "The champion stays. A feature knows the fare: look at what was added last", by_month=False
    ),
    ("fare_model", "champion_not_better"): Remedy(
        "The champion stays, and nothing needs doing; more or newer months may change that",
        by_month=False,
    ),
    ("fare_model", "slices"): Remedy(
        "The champion stays. Look at the slices that became worse in the candidate's report",
        by_month=False,
    ),
    ("fare_model", "onnx_parity"): Remedy(
        "The champion stays. Compare the versions of skl2onnx and onnxruntime with the lock",
        by_month=False,
    ),
    **{
        (f"{table}_online", check): Remedy(_ONLINE, by_month=False)
        for table in ("pickup_features", "dropoff_features")
        for check in ("matches_offline", "feature_age")
    },
    **{
        ("serving_endpoint", check): Remedy(_ENDPOINT, by_month=False)
        for check in ("ready", "single_prediction", "batch_predictions_request")
    },
    ("serving_endpoint", "train_serve_parity"): Remedy(
        "Publish the online tables again; if it stays, taxi-assets rollback", by_month=False
    ),
    ("serving_endpoint", "latency"): Remedy("See what else the machine does", by_month=False),
    ("batch_predictions", "rows_conserved"): Remedy(
        "Materialize batch_predictions of the month again; if it stays, report it"
    ),
    ("batch_predictions", "no_null_predictions"): Remedy(
        "Look at the trips that got no fare: their inputs are outside the request contract"
    ),
    ("batch_predictions", "prediction_drift"): Remedy(_DRIFT),
    ("live_performance", "live_error"): Remedy(
        "Fares differ from what was learned; drift_retrain_sensor retrains by itself"
    ),
    ("endpoint_payloads", "readable"): Remedy(
        "Look at the payloads named; what wrote them does not follow the request contract"
    ),
}
OTHER = Remedy("Look at the check in Dagster, then materialize its asset again")


def remedy(asset: str, check: str) -> Remedy:
    return REMEDIES.get((asset, check), OTHER)
