"""The tables of monitoring, for `schemas.py`: payloads, drift, live performance."""

from __future__ import annotations

from databricks_steps.table import TRIP_MONTH, Column, Table

ENDPOINT_PAYLOADS = Table(
    "endpoint_payloads",
    "The canonical log of the endpoint: one row for each trip of each captured request, once.",
    (
        Column("request_id", "string", "Databricks' id of the request", nullable=False),
        Column("request_row", "int", "Position in the request, from 0", nullable=False),
        Column("client_request_id", "string", "The client's own id, where it sent one"),
        Column(
            "origin",
            "string",
            "client; check: a request of the project's own, none of which is kept here",
            nullable=False,
        ),
        Column("requested_at", "timestamp", "When it was asked (UTC)", nullable=False),
        Column("status_code", "int", "HTTP status of the answer", nullable=False),
        Column("latency", "double", "Time to the answer", "ms"),
        Column("served_entity", "string", "Served entity that answered"),
        Column("model_version", "string", "Version that answered; null when it is not told"),
        Column("pickup_location_id", "int", "As asked; null where the request could not be read"),
        Column("dropoff_location_id", "int", "As asked"),
        Column("trip_distance", "double", "As asked", "miles"),
        Column("pickup_datetime", "timestamp", "As asked; New York wall clock"),
        Column("predicted_fare", "double", "As answered; null for an error", "dollars"),
        Column("problem", "string", "Why the row could not be read, or what the endpoint answered"),
        Column("request_month", "string", "Month of requested_at, YYYY-MM", nullable=False),
    ),
    primary_key=("request_id", "request_row"),
    month="request_month",
)

_JUDGED = (
    Column("level", "string", "ok, warn, error, or few for too few trips", nullable=False),
    Column("computed_at", "timestamp", "When (UTC)", nullable=False),
)

DRIFT_REPORT = Table(
    "drift_report",
    "How far each model input and the predicted fare are from the champion's training rows.",
    (
        TRIP_MONTH,
        Column("slice", "string", "all, a borough of the pickup, or a week", nullable=False),
        Column("feature", "string", "Model input, or predicted_fare", nullable=False),
        Column("model_version", "string", "Version whose baseline it is", nullable=False),
        Column("trips", "long", "Trips of the slice", nullable=False),
        Column("baseline_trips", "long", "Rows of the baseline's slice", nullable=False),
        Column("missing", "double", "Share of the trips without a value", "share"),
        Column("population_stability_index", "double", "Over the baseline's deciles"),
        Column("jensen_shannon", "double", "Distance, base 2: 0 the same, 1 apart"),
        Column("wasserstein", "double", "Distance", "standard deviations of the baseline"),
        *_JUDGED,
    ),
    primary_key=("trip_month", "slice", "feature"),
    month="trip_month",
    computed=("computed_at",),
)

LIVE_PERFORMANCE = Table(
    "live_performance",
    "The champion's error by day and slice, on trips it has not learned from, once fares are in.",
    (
        TRIP_MONTH,
        Column("day", "string", "Day of the pickup, YYYY-MM-DD, or all", nullable=False),
        Column("slice", "string", "all, or a slice as the gate cuts them", nullable=False),
        Column("predictions", "string", "batch or endpoint: where they are from", nullable=False),
        Column("model_version", "string", "Version that predicted", nullable=False),
        Column("trips", "long", "Predictions whose fare is known", nullable=False),
        Column("coverage", "double", "Share of the predictions whose fare is known", "share"),
        Column("rmse", "double", "Root of the mean squared error", "dollars"),
        Column("mae", "double", "Mean absolute error", "dollars"),
        Column("bias", "double", "Mean of predicted less paid", "dollars"),
        Column("expected", "double", "Mean absolute error expected of such trips", "dollars"),
        Column("in_range", "double", "Share of fares inside the fare range; months alone", "share"),
        *_JUDGED,
    ),
    primary_key=("trip_month", "day", "slice", "predictions"),
    month="trip_month",
    computed=("computed_at",),
)
