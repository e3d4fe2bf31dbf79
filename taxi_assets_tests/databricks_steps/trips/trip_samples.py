"""Small months of trips as publishers write them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from databricks_steps.trips import normalize
from databricks_steps.trips.files import TripFile, inspected

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

at = datetime.fromisoformat
PICKUP, DROPOFF = at("2022-01-10 09:30:00"), at("2022-01-10 09:42:30")
GREEN_ROW: dict[str, Any] = {
    "VendorID": 2,
    "lpep_pickup_datetime": PICKUP,
    "lpep_dropoff_datetime": DROPOFF,
    "store_and_fwd_flag": "N",
    "RatecodeID": 1.0,
    "PULocationID": 74,
    "DOLocationID": 75,
    "passenger_count": 1.0,
    "trip_distance": 1.95,
    "fare_amount": 10.0,
    "extra": 0.5,
    "mta_tax": 0.5,
    "tip_amount": 2.0,
    "tolls_amount": 0.0,
    "ehail_fee": None,
    "improvement_surcharge": 0.3,
    "total_amount": 13.3,
    "payment_type": 1.0,
    "trip_type": 1.0,
    "congestion_surcharge": 0.0,
}
GREEN_TYPES: dict[str, pa.DataType] = {
    name: pa.float64() if isinstance(value, float) else pa.int64()
    for name, value in GREEN_ROW.items()
} | {
    "lpep_pickup_datetime": pa.timestamp("us"),
    "lpep_dropoff_datetime": pa.timestamp("us"),
    "store_and_fwd_flag": pa.string(),
    "ehail_fee": pa.null(),
}
# What GREEN_ROW is in raw_trips.
NORMAL_ROW: dict[str, Any] = {
    "vendor_id": 2,
    "pickup_datetime": PICKUP,
    "dropoff_datetime": DROPOFF,
    "pickup_location_id": 74,
    "dropoff_location_id": 75,
    "passenger_count": 1,
    "trip_distance": 1.95,
    "rate_code_id": 1,
    "store_and_fwd_flag": "N",
    "payment_type": 1,
    "trip_type": 1,
    "fare_amount": 10.0,
    "extra": 0.5,
    "mta_tax": 0.5,
    "tip_amount": 2.0,
    "tolls_amount": 0.0,
    "ehail_fee": None,
    "improvement_surcharge": 0.3,
    "congestion_surcharge": 0.0,
    "airport_fee": None,
    "cbd_congestion_fee": None,
    "total_amount": 13.3,
}


def green_table(
    rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType] | None = None
) -> pa.Table:
    """Each mapping is what differs from GREEN_ROW; `types` what differs from GREEN_TYPES."""
    kinds = GREEN_TYPES | dict(types or {})
    columns = {
        name: pa.array([(GREEN_ROW | dict(row))[name] for row in rows]).cast(kind)
        if not pa.types.is_null(kind)
        else pa.nulls(len(rows))
        for name, kind in kinds.items()
    }
    return pa.table(columns)


def green_file(
    folder: Path,
    rows: Sequence[Mapping[str, Any]] = ({},),
    name: str = "green_tripdata_2022-01.parquet",
    types: Mapping[str, pa.DataType] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    pq.write_table(green_table(rows, types), path)
    return path


def read(path: Path, *months: str) -> TripFile:
    """The inspected file, which must be readable; `months` where its name does not say."""
    file = inspected(path)
    assert file.problem == ""
    return replace(file, months=months) if months else file


def months_of(file: TripFile) -> tuple[str, ...]:
    """The months of the file's pickups."""
    return normalize.fullest(normalize.surveyed(replace(file, named=False)).pickups, "2026-01")


def collected(frame: DataFrame) -> list[dict[str, Any]]:
    """The rows with times as stored, whatever timezone the machine is in."""
    return without_zones(frame.toArrow().to_pylist())


def without_zones(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Times as the clock on the wall."""
    return [
        {k: v.replace(tzinfo=None) if isinstance(v, datetime) else v for k, v in row.items()}
        for row in rows
    ]
