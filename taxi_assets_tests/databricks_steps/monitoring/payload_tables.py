"""Payload tables as Databricks delivers them, in both shapes, and requests to fill them with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from databricks_steps.settings import Settings

TEXT, STAMP = pa.string(), pa.timestamp("us", "UTC")
NOVEMBER = datetime(2026, 11, 25, 3, 20, 30, 250_000, tzinfo=timezone.utc)
TRIP = {
    "pickup_location_id": 74,
    "dropoff_location_id": 42,
    "trip_distance": 1.8,
    "pickup_datetime": "2022-02-01 08:30:00",
}
GATEWAY = {
    "request_date": pa.date32(),
    "databricks_request_id": TEXT,
    "request_time": STAMP,
    "status_code": pa.int32(),
    "sampling_fraction": pa.float64(),
    "execution_duration_ms": pa.int64(),
    "request": TEXT,
    "response": TEXT,
    "served_entity_id": TEXT,
    "logging_error_codes": pa.list_(TEXT),
    "requester": TEXT,
    "client_request_id": TEXT,
}
LEGACY = {
    "databricks_request_id": TEXT,
    "client_request_id": TEXT,
    "date": pa.date32(),
    "timestamp_ms": pa.int64(),
    "status_code": pa.int32(),
    "execution_time_ms": pa.int64(),
    "request": TEXT,
    "response": TEXT,
    "sampling_fraction": pa.float64(),
    "request_metadata": pa.map_(TEXT, TEXT),
}


def request(name: str, rows: int = 1, **changes: Any) -> dict[str, Any]:
    """One captured request for some trips, whose fares are 10, 11, … dollars."""
    trips = [{**TRIP, "trip_distance": 1.0 + place} for place in range(rows)]
    return {
        "id": name,
        "client_id": None,
        "at": NOVEMBER,
        "status": 200,
        "request": json.dumps({"dataframe_records": trips}),
        "response": json.dumps({"predictions": [10.0 + place for place in range(rows)]}),
        "entity": "entity-1",
        "codes": [],
        **changes,
    }


def gateway(settings: Settings, requests: Sequence[dict[str, Any]]) -> None:
    """Append to a payload table in the AI gateway's shape."""
    write(
        settings,
        GATEWAY,
        [
            {
                "request_date": each["at"].date(),
                "databricks_request_id": each["id"],
                "request_time": each["at"],
                "status_code": each["status"],
                "sampling_fraction": 1.0,
                "execution_duration_ms": 12,
                "request": each["request"],
                "response": each["response"],
                "served_entity_id": each["entity"],
                "logging_error_codes": each["codes"],
                "requester": "someone",
                "client_request_id": each["client_id"],
            }
            for each in requests
        ],
    )


def legacy(settings: Settings, requests: Sequence[dict[str, Any]]) -> None:
    """Append to a payload table in the shape of the older inference tables."""
    write(
        settings,
        LEGACY,
        [
            {
                "databricks_request_id": each["id"],
                "client_request_id": each["client_id"],
                "date": each["at"].date(),
                "timestamp_ms": int(each["at"].timestamp() * 1000),
                "status_code": each["status"],
                "execution_time_ms": 12,
                "request": each["request"],
                "response": each["response"],
                "sampling_fraction": 1.0,
                "request_metadata": [
                    ("endpoint_name", "taxi"),
                    ("model_name", "fares"),
                    ("model_version", "7"),
                ],
            }
            for each in requests
        ],
    )


def entities(settings: Settings, versions: dict[str, str], model: str | None = None) -> None:
    """Append to the system table of served entities."""
    rows = [
        {"served_entity_id": entity, "entity_name": model, "entity_version": version}
        for entity, version in versions.items()
    ]
    for row in rows:
        row["entity_name"] = model or settings.registered_model
    write(settings, dict.fromkeys(rows[0], TEXT), rows, "system.serving.served_entities")


def write(
    settings: Settings, columns: dict[str, Any], rows: list[dict[str, Any]], table: str = ""
) -> None:
    path = settings.table_path(table or settings.payload_table)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([pa.field(name, kind) for name, kind in columns.items()])
    write_deltalake(str(path), pa.Table.from_pylist(rows, schema=schema), mode="append")
