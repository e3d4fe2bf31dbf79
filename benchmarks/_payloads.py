"""Days of captured requests, written as the endpoint's own capture writes them."""

from __future__ import annotations

import json
import random
import uuid
from datetime import datetime, timezone
from functools import lru_cache

from databricks_steps import schemas
from databricks_steps.settings import Settings
from taxi_assets.emulator.runtime import capture, state
from taxi_assets.emulator.runtime.state import Payload, State

SECOND = 1_000_000  # microseconds


def day(
    settings: Settings, at: datetime, requests: int, flushes: int, entity: str, seed: int
) -> None:
    """A day of requests of one trip each, in so many flushes; `at` is its midnight in UTC."""
    chosen = random.Random(seed)
    table = settings.table(settings.payload_table)
    start = int(at.timestamp()) * SECOND
    step = 86_400 * SECOND // requests
    memory = State(state.database(settings))
    try:
        for part in range(flushes):
            numbers = range(part * requests // flushes, (part + 1) * requests // flushes)
            rows = [_payload(chosen, start + number * step, entity) for number in numbers]
            memory.buffer({table: rows})
            capture.flush(settings, memory)
    finally:
        memory.close()


def _payload(chosen: random.Random, at: int, entity: str) -> Payload:
    pickup, dropoff = chosen.randint(1, 263), chosen.randint(1, 263)
    asked = datetime.fromtimestamp(at / SECOND, timezone.utc).replace(tzinfo=None)
    request = {
        "dataframe_records": [
            {
                "pickup_location_id": pickup,
                "dropoff_location_id": dropoff,
                "trip_distance": round(chosen.lognormvariate(1, 0.7), 2),
                "pickup_datetime": asked.isoformat(sep=" ", timespec="seconds"),
            }
        ]
    }
    known = asked.replace(minute=asked.minute // 15 * 15, second=0).isoformat()
    looked_up = {
        f"{side}_features": {
            str(place): {"known_at": known, "features": _features(side, place, known)}
        }
        for side, place in (("pickup", pickup), ("dropoff", dropoff))
    }
    return (
        str(uuid.UUID(int=chosen.getrandbits(128))),
        None,
        at,
        200,
        chosen.randint(1, 4),
        json.dumps(request),
        json.dumps({"predictions": [chosen.uniform(5, 60)]}),
        entity,
        "[]",
        json.dumps(looked_up),
    )


@lru_cache(maxsize=20_000)
def _features(side: str, place: int, known: str) -> dict[str, float]:
    """The features of a zone from an instant on: they are the same for all who ask until then."""
    chosen = random.Random(f"{side} {place} {known}")
    table = schemas.TABLES[f"{side}_features"]
    return {column.name: round(chosen.uniform(0, 400), 4) for column in table.features}
