"""Features and lookups by brute force in plain Python, straight from their definitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from databricks_steps import schemas

HALF_HOUR, HOUR, DAY, WEEK = (timedelta(minutes=m) for m in (30, 60, 1440, 10080))
GRID = timedelta(minutes=15)


@dataclass(frozen=True)
class Trip:
    pickup: datetime
    dropoff: datetime
    origin: int | None
    target: int | None
    fare: float
    miles: float


def pickup_row(trips: Sequence[Trip], location: int, at: datetime) -> dict[str, Any]:
    def ended(window: timedelta) -> list[Trip]:
        return [t for t in trips if t.origin == location and at - window <= t.dropoff < at]

    hour, day, week = ended(HOUR), ended(DAY), ended(WEEK)
    hours = sum((t.dropoff - t.pickup).total_seconds() for t in hour) / 3600
    return {
        "pickup_trip_count_1h": len(hour),
        "pickup_trip_count_24h": len(day),
        "pickup_mean_fare_1h": _mean(hour),
        "pickup_mean_fare_24h": _mean(day),
        "pickup_mean_fare_7d": _mean(week),
        "pickup_fare_per_mile_7d": _per_mile(week),
        "pickup_mean_speed_1h": sum(t.miles for t in hour) / hours if hours else None,
    }


def dropoff_row(trips: Sequence[Trip], location: int, at: datetime) -> dict[str, Any]:
    def ended(window: timedelta) -> list[Trip]:
        return [t for t in trips if t.target == location and at - window <= t.dropoff < at]

    left = [t for t in trips if t.origin == location and at - HOUR <= t.dropoff < at]
    return {
        "dropoff_trip_count_30m": len(ended(HALF_HOUR)),
        "dropoff_trip_count_24h": len(ended(DAY)),
        "dropoff_mean_fare_7d": _mean(ended(WEEK)),
        "dropoff_fare_per_mile_7d": _per_mile(ended(WEEK)),
        "dropoff_distinct_pickups_24h": len({t.origin for t in ended(DAY)} - {None}),
        "dropoff_net_flow_1h": len(ended(HOUR)) - len(left),
    }


ROWS = {"pickup_features": pickup_row, "dropoff_features": dropoff_row}


def instants(trips: Sequence[Trip], table: schemas.Table) -> set[tuple[int, datetime]]:
    """(location, known_at) at which a trip comes into, or leaves, a window of the table."""
    found: set[tuple[int, datetime]] = set()
    for t in trips:
        known = grid(t.dropoff) + GRID
        if table is schemas.PICKUP_FEATURES:
            changes = [(t.origin, (HOUR, DAY, WEEK))]
        else:
            changes = [(t.target, (HALF_HOUR, HOUR, DAY, WEEK)), (t.origin, (HOUR,))]
        for location, windows in changes:
            if location is not None:
                found |= {(location, known), *((location, known + w) for w in windows)}
    return found


def table_rows(
    trips: Sequence[Trip], table: schemas.Table, months: Iterable[str]
) -> dict[tuple[int, datetime], dict[str, Any]]:
    """(location, known_at) → every row that the months must hold, and no other."""
    held = set(months)
    return {
        (location, at): ROWS[table.name](trips, location, at)
        for location, at in instants(trips, table)
        if f"{at:%Y-%m}" in held
    }


def grid(at: datetime) -> datetime:
    """The last instant of the grid at or before it."""
    return at - (at - datetime(1970, 1, 1)) % GRID


def known(
    trips: Sequence[Trip], table: schemas.Table, location: int | None, pickup: datetime
) -> dict[str, Any]:
    """What a trip that starts at `pickup` looks up, with a lookback of a week."""
    defaults = {c.name: c.default for c in table.features}
    past = [at for key, at in instants(trips, table) if key == location and at <= pickup]
    if location is None or not past or pickup - max(past) > WEEK:
        return defaults
    row = ROWS[table.name](trips, location, grid(pickup))
    return {name: defaults[name] if row[name] is None else row[name] for name in defaults}


def _mean(trips: Sequence[Trip]) -> float | None:
    return sum(t.fare for t in trips) / len(trips) if trips else None


def _per_mile(trips: Sequence[Trip]) -> float | None:
    miles = sum(t.miles for t in trips)
    return sum(t.fare for t in trips) / miles if miles else None
