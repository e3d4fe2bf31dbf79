"""What a version is given for captured requests: the features looked up then, or else now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from databricks_steps.errors import ModelError
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.features.request import FIELDS, TRIP_TYPE, with_request_features
from databricks_steps.inference.feature_spec import FeatureSpec, TableLookup
from databricks_steps.inference.request import FareRequest
from databricks_steps.interfaces import Platform

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Request:
    """A captured request that was answered, and what was looked up for it, where that was kept."""

    row: Any
    asked: FareRequest
    fares: NDArray[np.float64]
    looked_up: Mapping[str, Any] | None


def captured_columns(spec: FeatureSpec, request: Request) -> dict[str, NDArray[Any]] | None:
    """Feature → its value for each trip, as it was looked up; None where it was not captured."""
    columns: dict[str, NDArray[Any]] = {}
    for lookup in spec.lookups:
        rows = (request.looked_up or {}).get(lookup.table)
        locations = [str(location) for location in request.asked.keys(lookup.key).tolist()]
        if rows is None or not rows.keys() >= set(locations):
            return None
        found = [
            _features(lookup, rows[location], at)
            for location, at in zip(locations, request.asked.pickup_datetime, strict=True)
        ]
        if any(values is None for values in found):
            return None
        columns |= dict(zip(lookup.features, np.array(found, np.float64).T, strict=True))
    return columns


def _features(
    lookup: TableLookup, row: Mapping[str, Any] | None, at: datetime
) -> list[float] | None:
    """What the lookup answers for a trip, given the captured row; None where that lacks one."""
    defaults = [float(lookup.defaults[name]) for name in lookup.features]
    if row is None or row["features"] is None:
        return defaults
    age = at - datetime.fromisoformat(row["known_at"])
    if age < timedelta(0):  # known after the pickup
        return defaults
    if lookup.lookback_days is not None and age > timedelta(days=lookup.lookback_days):
        return defaults
    if not row["features"].keys() >= set(lookup.features):
        return None
    values = [row["features"][name] for name in lookup.features]
    return [d if value is None else value for value, d in zip(values, defaults, strict=True)]


def looked_up_now(
    platform: Platform, spec: FeatureSpec, requests: Sequence[Request]
) -> Iterator[tuple[Request, NDArray[np.float32]]]:
    """Each request with the model's inputs as the offline tables have them at the pickups."""
    if not requests:
        return
    trips = [
        (place, row, *values)
        for place, request in enumerate(requests)
        for row, values in enumerate(_trips(request.asked))
    ]
    schema = (
        "place long, request_row long, pickup_location_id int, dropoff_location_id int, "
        "trip_distance double, trip_type int, pickup_datetime timestamp"
    )
    months = sorted({f"{at:%Y-%m}" for *_, at in trips})
    frame = platform.spark.createDataFrame(trips, schema)
    found = with_request_features(platform.features.look_up(frame, LOOKUPS, months))
    gone = sorted(set(spec.inputs) - set(found.columns))
    if gone:
        raise ModelError(
            "A version can be replayed while its features exist", ", ".join(gone), "Take a newer"
        )
    rows = found.select("place", *spec.inputs).orderBy("place", "request_row").toPandas()
    for place, part in rows.groupby("place", sort=True):
        inputs = part[list(spec.inputs)].to_numpy(dtype=np.float32)
        yield requests[int(str(place))], inputs


def _trips(asked: FareRequest) -> Iterator[tuple[Any, ...]]:
    columns = [getattr(asked, name) for name in (*FIELDS[:3], TRIP_TYPE)]
    pickups = [at.replace(tzinfo=timezone.utc) for at in asked.pickup_datetime]
    return zip(*(column.tolist() for column in columns), pickups, strict=True)
