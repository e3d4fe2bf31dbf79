"""The assets that steps make, but for trips: features, training, predictions, monitoring."""

from taxi_assets.assets.materialize import step_assets

_FEATURE_CHECKS = {
    "key_unique": "Every (location_id, known_at) occurs once and is not null",
    "no_future_knowledge": "A sample of trips looks up what the trips ended by then tell, "
    "recomputed by brute force",
}

pickup_features, dropoff_features = (
    step_assets(step, "features", blocking={step: _FEATURE_CHECKS})
    for step in ("pickup_features", "dropoff_features")
)
training_set = step_assets("training_set", "training")
fare_model = step_assets(
    "fare_model",
    "training",
    {"scikitlearn", "mlflow", "onnx"},
    description="A random forest, logged and registered in MLflow: the candidate version.",
    blocking={
        "fare_model": {
            "beats_baseline": "Holdout RMSE and R² beat the metered-fare formula and the mean",
            "no_label_leak": "With fares shuffled before features are made, the holdout R² is "
            "about zero",
            "champion_not_better": "The champion, on the same holdout rows, is not significantly "
            "better (paired bootstrap)",
            "slices": "No slice of the holdout is significantly worse than the champion by more "
            "than its limit",
            "onnx_parity": "The graph that serves gives the pipeline's fares on the whole holdout",
        }
    },
)
champion_model = step_assets(
    "champion_model",
    "training",
    {"mlflow"},
    description="The alias `champion`: moves to the candidate once its blocking checks passed. "
    "Each move is a row of the table deployments.",
    columns_of="deployments",
)
batch_predictions = step_assets(
    "batch_predictions",
    "predictions",
    {"pyspark", "onnx", "delta"},
    blocking={
        "batch_predictions": {
            "rows_conserved": "Every trip has just one prediction by the champion's version",
            "no_null_predictions": "No prediction is null, NaN or negative",
        }
    },
)
endpoint_payloads = step_assets(
    "endpoint_payloads",
    "monitoring",
    telling={
        "endpoint_payloads": {"readable": "What the endpoint answered with 200 can be read back"}
    },
)
drift_report = step_assets(
    "drift_report",
    "monitoring",
    telling={
        "drift_report": {
            "triage": "The class of the month: none of drift, live error, missing values",
            "tariff": "Metered trips cost what they cost when the champion learned",
        },
        "live_performance": {
            "live_error": "The champion errs as expected on trips it has not learned from",
            "fare_range": "About 80 % of the fares paid lie inside the fare range",
        },
    },
)
