"""Demo trips: made up, the same for a month and size every time, realistic in fares and in dirt.

Not TLC data. Shapes (zones by popularity, hours of the week, metered fares, shares of dirt) follow
what was measured in green months of 2022. How a city of made-up zones looks is in demo_city.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import SettingsError
from databricks_steps.months import end, start
from databricks_steps.settings import Settings
from databricks_steps.trips import demo_city, demo_dirt

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MONTHS = ("2022-01", "2022-02", "2022-03")
ROWS = 60_000
SEED = 20220101
VERSION = "1"  # of the generator: raise it when the same month would give other rows
PREFIX = "demo_"
_METADATA = b"taxi_assets.demo"

BASE_FARE, PER_MILE, PER_MINUTE = 2.50, 2.50, 0.50
NEWARK_EXTRA, JFK_FLAT, LEAST_FARE = 17.50, 52.00, 2.50


def demo_files(settings: Settings, months: Sequence[str] | None, rows: int = ROWS) -> list[Path]:
    """The months' files in TAXI_HOME/demo; made when absent or of another generator.

    Raises:
        SettingsError: TAXI_HOME cannot be written to.
    """
    folder = settings.home / "demo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_file(folder, month, rows) for month in months or MONTHS]
    except OSError as error:
        raise SettingsError(
            "Demo trips need a folder to be written to",
            f"{folder}: {error.strerror}",
            "Set TAXI_HOME to a folder you may write to",
        ) from error


def demo_trips(month: str, rows: int = ROWS, seed: int = SEED) -> pa.Table:
    """Made-up trips of a month in TLC's green columns, dirt included."""
    import numpy as np
    import pyarrow as pa

    rng = np.random.default_rng([seed, int(month[:4]), int(month[5:])])
    trips = _with_fares(_rides(month, rows, rng), rng)
    dirty = demo_dirt.with_dirt(trips, rng)
    return pa.table(
        {
            name: pa.array(values, kind, from_pandas=True)
            for name, kind, values in demo_dirt.published(dirty)
        }
    ).replace_schema_metadata({_METADATA: f"{VERSION}/{rows}/{seed}".encode()})


def _file(folder: Path, month: str, rows: int) -> Path:
    """The month's file, written to a name of its own first: a killed run leaves no half file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{PREFIX}tripdata_{month}.parquet"
    wanted = f"{VERSION}/{rows}/{SEED}".encode()
    if path.exists():
        try:
            found = pq.read_schema(path).metadata or {}
        except (pa.ArrowInvalid, OSError):
            found = {}
        if found.get(_METADATA) == wanted:
            return path
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(demo_trips(month, rows), part, compression="zstd")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _rides(month: str, rows: int, rng: np.random.Generator) -> dict[str, Any]:
    """When, from where, to where, how far and how long."""
    import numpy as np

    pickup = _pickups(month, rows, rng)
    city = demo_city.city()
    origin = rng.choice(demo_city.ZONES, rows, p=city.popularity)
    destination = demo_city.destinations(city, origin, rng)
    straight = city.miles[origin, destination]
    distance = np.maximum(straight * rng.lognormal(0.0, 0.12, rows), 0.1).round(2)
    hour = (pickup - pickup.astype("datetime64[D]")) // np.timedelta64(1, "h")
    speed = city.speed[origin] * demo_city.traffic(hour) * rng.lognormal(0.0, 0.28, rows)
    speed = np.clip(speed * (1 + 0.5 * np.minimum(distance, 12) / 12), 3.0, 55.0)
    seconds = np.maximum((distance / speed * 3600).astype(np.int64), 45)
    return {
        "pickup": pickup,
        "seconds": seconds,
        "origin": origin + 1,
        "destination": destination + 1,
        "distance": distance,
        "hour": hour,
    }


def _pickups(month: str, rows: int, rng: np.random.Generator) -> Any:
    """Instants by the demand of the hours of the week, to the second."""
    import numpy as np

    first = np.datetime64(start(month), "s")
    hours = int((np.datetime64(end(month), "s") - first) // np.timedelta64(1, "h"))
    weekday = start(month).weekday()
    demand = demo_city.demand()[(np.arange(hours) + weekday * 24) % 168]
    hour = rng.choice(hours, rows, p=demand / demand.sum())
    return first + np.sort(hour * 3600 + rng.integers(0, 3600, rows)).astype("timedelta64[s]")


def _with_fares(rides: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The meter, flat rates, surcharges, tips and how it was paid."""
    import numpy as np

    rows = len(rides["pickup"])
    origin, destination = rides["origin"], rides["destination"]
    distance, minutes, hour = rides["distance"], rides["seconds"] / 60, rides["hour"]
    waiting = rng.exponential(1.6, rows)
    # The meter counts fifths of a mile while under way and minutes while standing.
    fare = BASE_FARE + PER_MILE * distance + PER_MINUTE * (0.3 * minutes + waiting)
    fare = (np.round(fare * 2) / 2).clip(LEAST_FARE)
    flat = np.isin(origin, demo_city.MANHATTAN) & (destination == demo_city.JFK)
    flat |= np.isin(destination, demo_city.MANHATTAN) & (origin == demo_city.JFK)
    newark = destination == demo_city.NEWARK
    fare = np.where(flat, JFK_FLAT, fare + np.where(newark, NEWARK_EXTRA, 0.0))
    dispatched = rng.random(rows) < 0.037  # agreed before the ride, not metered
    fare = np.where(dispatched, (fare * rng.lognormal(0.15, 0.4, rows)).round(2), fare)
    rate = np.where(flat, 2, np.where(newark, 3, np.where(dispatched, 5, 1)))
    extra = np.where((hour >= 20) | (hour < 6), 0.5, np.where((hour >= 16) & (hour < 20), 1.0, 0.0))
    card = rng.random(rows) < 0.62
    tip = np.where(card, (fare * rng.choice([0, 0.15, 0.2, 0.25], rows)).round(2), 0.0)
    crosses = np.isin(destination, demo_city.MANHATTAN) | np.isin(origin, demo_city.MANHATTAN)
    return rides | {
        "fare": fare.clip(LEAST_FARE, 240.0),
        "rate": rate,
        "dispatched": dispatched,
        "extra": np.where(dispatched, 0.0, extra),
        "tax": np.where(dispatched, 0.0, 0.5),
        "tip": tip,
        "tolls": np.where((rng.random(rows) < 0.03) & (distance > 5), 6.55, 0.0),
        "congestion": np.where(crosses, 2.75, 0.0),
        "payment": np.where(card, 1, 2),
    }
