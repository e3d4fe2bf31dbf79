"""What is kept of an answered query: its row of the payload table, and what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import orjson

from taxi_assets.emulator.runtime import metrics
from taxi_assets.emulator.runtime.lookups import FRESH, STATES, Many, One
from taxi_assets.emulator.runtime.metrics import Tally
from taxi_assets.emulator.runtime.predict import Answer, LookedUp
from taxi_assets.emulator.runtime.state import Payload

MAX_FEATURES = 1024 * 1024  # bytes of what was looked up for one query
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - `known_at` is New York wall clock


class Taken(NamedTuple):
    """One answered query, as it is queued: the way of a query does no more than make it.

    `table` is the full name of the payload table, None when the endpoint captures nothing; `body`
    is None when it was too large to keep. `at` is in microseconds since 1970.
    """

    endpoint: str
    table: str | None
    answer: Answer
    body: bytes | None
    at: int
    micros: int

    @property
    def size(self) -> int:
        """About the bytes it holds, in bytes."""
        looked_up = sum(
            each.found.features.nbytes
            for each in self.answer.looked_up
            if isinstance(each.found, Many)
        )
        return len(self.answer.body) + len(self.body or b"") + looked_up


def payload(taken: Taken) -> Payload:
    """The row of the payload table, as the buffer keeps it."""
    answer, codes = taken.answer, []
    if taken.body is None:
        codes.append("MAX_REQUEST_SIZE_EXCEEDED")
    features = orjson.dumps(features_of(answer.looked_up), option=orjson.OPT_SERIALIZE_NUMPY)
    if len(features) > MAX_FEATURES:
        codes.append("MAX_FEATURES_SIZE_EXCEEDED")
    kept = answer.looked_up and len(features) <= MAX_FEATURES
    return (
        answer.request_id,
        answer.client_id,
        taken.at,
        answer.status,
        round(taken.micros / 1000),
        None if taken.body is None else taken.body.decode(errors="replace"),
        answer.body.decode(),
        answer.served.entity_id if answer.served else None,
        orjson.dumps(codes).decode(),
        features.decode() if kept else None,
    )


def features_of(looked_up: tuple[LookedUp, ...]) -> dict[str, dict[str, Any]]:
    """What was looked up: feature table → location → `known_at` and features.

    A location without a row is null; one whose row was too old for every row of the query that
    asked for it has null features. In both cases the model was given the defaults.
    """
    return {each.lookup.source: _by_location(each) for each in looked_up}


def _by_location(each: LookedUp) -> dict[str, dict[str, Any] | None]:
    names, found = each.lookup.features, each.found
    if isinstance(found, One):
        shown = _row(names, found.known_at or 0, found.features if found.state == FRESH else None)
        return {str(each.locations): shown}
    freshest = np.argsort(found.state, kind="stable")
    locations, first = np.unique(np.asarray(each.locations)[freshest], return_index=True)
    return {
        str(location): _row(
            names,
            int(found.known_at[place]),
            found.features[place].tolist() if found.state[place] == FRESH else None,
        )
        for location, place in zip(locations, freshest[first], strict=True)
    }


def _row(
    names: tuple[str, ...], known_at: int, features: Sequence[float] | None
) -> dict[str, Any] | None:
    if not known_at:
        return None
    return {
        "known_at": (_EPOCH + timedelta(microseconds=known_at)).isoformat(),
        "features": features and dict(zip(names, features, strict=True)),
    }


def tally(waiting: list[Taken]) -> Tally:
    """What answered queries add to the counters of their endpoints."""
    counted = Tally()
    for taken in waiting:
        answer, served = taken.answer, taken.answer.served
        names = (served.name, served.entity_name, served.entity_version) if served else ("",) * 3
        key = metrics.Key(taken.endpoint, *names, answer.status, metrics.bucket(taken.micros))
        counted.add(key, answer.rows, taken.micros)
        for each in answer.looked_up:
            for name, rows in _states(each.found):
                counted.looked_up[taken.endpoint, each.lookup.source, name] += rows
        if answer.status >= 400:
            message = str(orjson.loads(answer.body)["message"])
            counted.refusals.append(
                metrics.Refusal(taken.endpoint, taken.at, answer.status, message)
            )
    return counted


def _states(found: One | Many) -> list[tuple[str, int]]:
    """Name of a state and how many rows are in it."""
    if isinstance(found, One):
        return [(STATES[found.state], 1)]
    counts = np.bincount(found.state, minlength=len(STATES)).tolist()
    return [(name, rows) for name, rows in zip(STATES, counts, strict=True) if rows]
