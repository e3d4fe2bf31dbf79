"""Every table: its columns with type, unit and comment, its keys, and the defaults of features."""

from __future__ import annotations

from databricks_steps.monitoring_schemas import DRIFT_REPORT as DRIFT_REPORT
from databricks_steps.monitoring_schemas import ENDPOINT_PAYLOADS as ENDPOINT_PAYLOADS
from databricks_steps.monitoring_schemas import LIVE_PERFORMANCE as LIVE_PERFORMANCE
from databricks_steps.table import TRIP_MONTH as TRIP_MONTH
from databricks_steps.table import Column as Column
from databricks_steps.table import Table as Table
from databricks_steps.table import Type as Type


def _published() -> tuple[Column, ...]:
    """Columns of a trip as the publisher gives them, under one name and type each."""
    return (
        Column("vendor_id", "int", "Provider of the record"),
        Column("pickup_datetime", "timestamp", "Meter on; New York wall clock, as published"),
        Column("dropoff_datetime", "timestamp", "Meter off; New York wall clock, as published"),
        Column("pickup_location_id", "int", "TLC taxi zone of the pickup (or a zip code)"),
        Column("dropoff_location_id", "int", "TLC taxi zone of the dropoff (or a zip code)"),
        Column("passenger_count", "int", "Passengers, as entered by the driver"),
        Column("trip_distance", "double", "Distance by the taximeter", "miles"),
        Column("rate_code_id", "int", "Rate in effect at the end of the trip"),
        Column("store_and_fwd_flag", "string", "Y: held in the vehicle before it was sent"),
        Column("payment_type", "int", "How the passenger paid"),
        Column("trip_type", "int", "1 street hail, 2 dispatch"),
        Column("fare_amount", "double", "Time-and-distance fare by the meter", "dollars"),
        Column("extra", "double", "Miscellaneous extras", "dollars"),
        Column("mta_tax", "double", "MTA tax", "dollars"),
        Column("tip_amount", "double", "Tip by card", "dollars"),
        Column("tolls_amount", "double", "Tolls paid", "dollars"),
        Column("ehail_fee", "double", "E-hail fee", "dollars"),
        Column("improvement_surcharge", "double", "Improvement surcharge", "dollars"),
        Column("congestion_surcharge", "double", "New York State congestion surcharge", "dollars"),
        Column("airport_fee", "double", "Airport access fee", "dollars"),
        Column("cbd_congestion_fee", "double", "MTA congestion relief zone charge", "dollars"),
        Column("total_amount", "double", "Total charged, cash tips not included", "dollars"),
    )


PUBLISHED = _published()

TRIP_ID = Column(
    "trip_id", "string", "Stable id: month, hash of what was published", nullable=False
)
SOURCE = (
    Column("source_file", "string", "Name of the file the row came from", nullable=False),
    Column("source_row", "long", "Position of the row in its file, from 0", nullable=False),
    Column("source_hash", "string", "SHA-256 of the file, first 16 digits", nullable=False),
    Column("unreadable", "array<string>", "Columns whose text could not be read as their type"),
)

RAW_TRIPS = Table(
    "raw_trips",
    "Every row as published, in one normalized schema. Nothing is dropped.",
    (TRIP_ID, *PUBLISHED, *SOURCE, TRIP_MONTH),
    primary_key=("trip_id",),
    month="trip_month",
)

ARRIVALS = Table(
    "arrivals",
    "The ledger of arrivals: what became of each entry of a source or of the landing folder.",
    (
        Column("source", "string", "The source, as ingestion was told it", nullable=False),
        Column("name", "string", "Name of the file, folder or table", nullable=False),
        Column("hash", "string", "SHA-256 of its content, first 16 digits", nullable=False),
        Column("status", "string", "loaded, refused, passed over or replaced", nullable=False),
        Column("cause", "string", "Kind of the reason, in a word; empty if loaded", nullable=False),
        Column("reason", "string", "Why it is not loaded; empty if it is", nullable=False),
        Column("remedy", "string", "What to do about it", nullable=False),
        Column("bytes", "long", "Size as it lies there", "bytes", nullable=False),
        Column("rows", "long", "Trips in it; null if it was not read", "trips"),
        Column("months", "array<string>", "Months it is of, the fullest first", nullable=False),
        Column("seen_at", "timestamp", "Since when it is so (UTC)", nullable=False),
    ),
    primary_key=("source", "name", "hash"),
    computed=("seen_at",),
)

_REQUIRED = {
    "pickup_datetime",
    "dropoff_datetime",
    "pickup_location_id",
    "dropoff_location_id",
    "trip_distance",
    "fare_amount",
}
TRIPS = Table(
    "trips",
    "Trips that broke no rule; what features and models are made from.",
    (
        TRIP_ID,
        *(
            Column(c.name, c.type, c.comment, c.unit, nullable=c.name not in _REQUIRED)
            for c in PUBLISHED
        ),
        TRIP_MONTH,
    ),
    primary_key=("trip_id",),
    month="trip_month",
)

QUARANTINED_TRIPS = Table(
    "quarantined_trips",
    "Trips that broke at least one rule, with every reason.",
    (
        TRIP_ID,
        *PUBLISHED,
        *SOURCE,
        Column("rules", "array<string>", "Names of the rules the row broke", nullable=False),
        Column("reasons", "array<string>", "The same in words, with the value", nullable=False),
        TRIP_MONTH,
    ),
    primary_key=("trip_id",),
    month="trip_month",
)

# Defaults are fixed, documented numbers, not learned from data: nothing can leak through them.
DEFAULT_FARE = 15.0
DEFAULT_FARE_PER_MILE = 6.0
DEFAULT_SPEED = 12.0

_FEATURE_KEYS = (
    Column("location_id", "int", "TLC taxi zone, or a zip code", nullable=False),
    Column("known_at", "timestamp", "Uses only trips that ended before it", nullable=False),
)
_FEATURE_TAIL = (
    Column("computed_at", "timestamp", "When the row was computed (UTC)", nullable=False),
    Column("known_month", "string", "Month of known_at, YYYY-MM", nullable=False),
)


def _feature(name: str, kind: Type, comment: str, unit: str, default: float) -> Column:
    return Column(name, kind, comment, unit, default=default)


PICKUP_FEATURES = Table(
    "pickup_features",
    "What ended trips tell of the location they started from; 15-minute grid, trailing windows.",
    (
        *_FEATURE_KEYS,
        _feature("pickup_trip_count_1h", "long", "Trips from here, last hour", "trips", 0),
        _feature("pickup_trip_count_24h", "long", "Trips from here, last 24 hours", "trips", 0),
        _feature("pickup_mean_fare_1h", "double", "Mean fare, last hour", "dollars", DEFAULT_FARE),
        _feature(
            "pickup_mean_fare_24h", "double", "Mean fare, last 24 hours", "dollars", DEFAULT_FARE
        ),
        _feature(
            "pickup_mean_fare_7d", "double", "Mean fare, last 7 days", "dollars", DEFAULT_FARE
        ),
        _feature(
            "pickup_fare_per_mile_7d",
            "double",
            "Fares over miles, last 7 days",
            "dollars per mile",
            DEFAULT_FARE_PER_MILE,
        ),
        _feature(
            "pickup_mean_speed_1h",
            "double",
            "Miles over hours under way, last hour",
            "miles per hour",
            DEFAULT_SPEED,
        ),
        # No lookup answers it: an airport is one whether trips tell of it or not.
        Column("pickup_is_airport", "int", "1 at JFK, LaGuardia or Newark", "flag"),
        *_FEATURE_TAIL,
    ),
    primary_key=("location_id", "known_at"),
    time_key="known_at",
    month="known_month",
    computed=("computed_at",),
    change_data_feed=True,
)

DROPOFF_FEATURES = Table(
    "dropoff_features",
    "What ended trips tell of the location they went to; 15-minute grid, trailing windows.",
    (
        *_FEATURE_KEYS,
        _feature("dropoff_trip_count_30m", "long", "Trips to here, last 30 minutes", "trips", 0),
        _feature("dropoff_trip_count_24h", "long", "Trips to here, last 24 hours", "trips", 0),
        _feature(
            "dropoff_mean_fare_7d", "double", "Mean fare, last 7 days", "dollars", DEFAULT_FARE
        ),
        _feature(
            "dropoff_fare_per_mile_7d",
            "double",
            "Fares over miles, last 7 days",
            "dollars per mile",
            DEFAULT_FARE_PER_MILE,
        ),
        _feature(
            "dropoff_distinct_pickups_24h",
            "long",
            "Different pickup locations, last 24 hours",
            "locations",
            0,
        ),
        _feature("dropoff_net_flow_1h", "long", "Arrivals less departures, last hour", "trips", 0),
        *_FEATURE_TAIL,
    ),
    primary_key=("location_id", "known_at"),
    time_key="known_at",
    month="known_month",
    computed=("computed_at",),
    change_data_feed=True,
)

REQUEST_FEATURES = (
    Column("trip_distance", "double", "Distance of the trip", "miles", nullable=False),
    Column("pickup_hour", "int", "Hour of the pickup, 0 to 23", "hour", nullable=False),
    Column("pickup_weekday", "int", "Day of the pickup, 0 Monday to 6 Sunday", "day", False),
    Column("pickup_is_weekend", "int", "1 on Saturday and Sunday", "flag", nullable=False),
    Column("pickup_is_airport", "int", "1 at JFK, LaGuardia or Newark", "flag", nullable=False),
    Column("dropoff_is_airport", "int", "1 at JFK, LaGuardia or Newark", "flag", nullable=False),
    Column("pickup_location_id", "int", "TLC taxi zone, or a zip code", nullable=False),
    Column("dropoff_location_id", "int", "TLC taxi zone, or a zip code", nullable=False),
    Column("trip_type", "int", "1 street hail, 2 dispatch, 0 not told", nullable=False),
)

LABEL = "fare_amount"
TRAIN, HOLDOUT, BETWEEN = "train", "holdout", "between"  # values of training_set.split
MODEL_INPUTS = (*REQUEST_FEATURES, *PICKUP_FEATURES.features, *DROPOFF_FEATURES.features)
# Inputs whose values lie in an order: a distribution of ids or codes has no distance.
WATCHED_INPUTS = tuple(
    c for c in MODEL_INPUTS if not c.name.endswith("_location_id") and c.name != "trip_type"
)

TRAINING_SET = Table(
    "training_set",
    "Trips of the trailing months with their features as known at the pickup.",
    (
        TRIP_ID,
        Column("pickup_datetime", "timestamp", "Meter on", nullable=False),
        Column("dropoff_datetime", "timestamp", "Meter off", nullable=False),
        *(Column(c.name, c.type, c.comment, c.unit, nullable=False) for c in MODEL_INPUTS),
        Column(
            "pickup_feature_age", "long", "Age of the pickup features; null: default", "seconds"
        ),
        Column(
            "dropoff_feature_age", "long", "Age of the dropoff features; null: default", "seconds"
        ),
        Column("kind", "string", "metered, negotiated, flat or block; no input", nullable=False),
        Column(LABEL, "double", "The label", "dollars", nullable=False),
        Column("split", "string", "train, holdout, or between", nullable=False),
        TRIP_MONTH,
    ),
    primary_key=("trip_id",),
)

BATCH_PREDICTIONS = Table(
    "batch_predictions",
    "Fares predicted for the trips of a month; one row for each trip and model version.",
    (
        TRIP_ID,
        Column("predicted_fare", "double", "Predicted fare", "dollars", nullable=False),
        Column("model_version", "string", "Version of the registered model", nullable=False),
        Column("scored_at", "timestamp", "When it was scored (UTC)", nullable=False),
        TRIP_MONTH,
    ),
    primary_key=("trip_id", "model_version"),
    month="trip_month",
    computed=("scored_at",),
)

DEPLOYMENTS = Table(
    "deployments",
    "The ledger of deployments: each move of the alias `champion`, appended, never changed.",
    (
        Column("number", "long", "Position in the ledger, from 1", nullable=False),
        Column("action", "string", "promoted or rolled back", nullable=False),
        Column("moved_at", "timestamp", "When (UTC)", nullable=False),
        Column("moved_by", "string", "Who: the user the process ran as", nullable=False),
        Column("model", "string", "Registered model", nullable=False),
        Column("from_version", "string", "Champion before; null for the first"),
        Column("to_version", "string", "Champion since", nullable=False),
        Column("run_id", "string", "MLflow run that trained the new champion", nullable=False),
        Column("metrics", "string", "Its metrics on its holdout, as JSON", nullable=False),
        Column("why", "string", "Why it moved, in one sentence", nullable=False),
    ),
    primary_key=("number",),
    computed=("moved_at",),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        RAW_TRIPS,
        TRIPS,
        QUARANTINED_TRIPS,
        ARRIVALS,
        PICKUP_FEATURES,
        DROPOFF_FEATURES,
        TRAINING_SET,
        BATCH_PREDICTIONS,
        DEPLOYMENTS,
        ENDPOINT_PAYLOADS,
        DRIFT_REPORT,
        LIVE_PERFORMANCE,
    )
}
