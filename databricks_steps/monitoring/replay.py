"""Replay: captured requests scored again by any registered version, against what was answered.

A shadow test of a candidate without mirroring traffic. The features are those that were looked up
for the answer, where the capture kept them: then the same version gives the same fares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from heapq import nlargest
from typing import TYPE_CHECKING, Any

import numpy as np

from databricks_steps.errors import ServingError, SettingsError
from databricks_steps.inference.scorer import Scorer
from databricks_steps.interfaces import Platform
from databricks_steps.monitoring import inference_table
from databricks_steps.monitoring import replay_inputs as inputs
from databricks_steps.monitoring.replay_inputs import Request
from databricks_steps.training import registry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

# Dollars. Fares are answered as 32-bit numbers; on another machine their last bit may differ.
TOLERANCE = 1e-4
WORST = 10
QUANTILES = (0.5, 0.9, 0.99)
REFUSED, UNREADABLE = "answered with an error", "cannot be read"


@dataclass(frozen=True)
class Difference:
    """One trip of a captured request: the fare answered, and by the version asked now."""

    request_id: str
    request_row: int
    client_request_id: str | None
    requested_at: str
    answered: float
    replayed: float

    @property
    def dollars(self) -> float:
        return self.replayed - self.answered


@dataclass(frozen=True)
class Replay:
    """What came of a replay; fares and their differences (replayed less answered) in dollars.

    `answered_by` has the trips by the version that answered, `looked_up_now` those whose features
    were not captured, `skipped` requests by the reason why they are not compared.
    """

    version: str
    since: str
    until: str
    requests: int
    trips: int
    different: int
    largest: float
    mean: float
    quantiles: Mapping[str, float]
    worst: tuple[Difference, ...]
    answered_by: Mapping[str, int]
    looked_up_now: int
    skipped: Mapping[str, int]
    tolerance: float = TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """The replay as plain values."""
        worst = [asdict(each) | {"difference": each.dollars} for each in self.worst]
        return asdict(self) | {"worst": worst}


@dataclass
class _Compared:
    """Differences as they come; only the worst are kept whole."""

    dollars: list[NDArray[np.float64]] = field(default_factory=list)
    worst: list[Difference] = field(default_factory=list)
    answered_by: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def add(self, request: Request, fares: NDArray[np.float64]) -> None:
        self.requests += 1
        self.dollars.append(fares - request.fares)
        self.answered_by[request.row["model_version"] or "unknown"] += len(fares)
        found = [
            Difference(
                request.row["request_id"],
                place,
                request.row["client_request_id"],
                _shown(request.row["requested_at"]),
                float(request.fares[place]),
                float(fares[place]),
            )
            for place in np.flatnonzero(np.abs(self.dollars[-1]) > TOLERANCE).tolist()
        ]
        self.worst = nlargest(WORST, [*self.worst, *found], key=lambda d: abs(d.dollars))


def replay(platform: Platform, number: str, since: datetime, until: datetime) -> Replay:
    """Score what was asked from `since` on and before `until` on the version of that number.

    Raises:
        ModelError: there is no such version, or it needs features that no longer exist.
        ServingError: nothing was captured, or nothing in that time that can be compared.
    """
    version = registry.numbered(platform.settings, number)
    scorer = Scorer.load(registry.folder(platform.settings, version.number))
    compared, later, skipped = _Compared(), list[Request](), Counter[str]()
    for request in _requests(platform, since, until, skipped):
        looked_up = inputs.captured_columns(scorer.spec, request)
        if looked_up is None:
            later.append(request)
            continue
        columns = request.asked.features() | looked_up
        matrix = np.column_stack([columns[name] for name in scorer.spec.inputs])
        # One call a request, as when it was answered: the graph adds up in the same order.
        compared.add(request, scorer.predict(matrix.astype(np.float32)))
    for request, matrix in inputs.looked_up_now(platform, scorer.spec, later):
        compared.add(request, scorer.predict(matrix))
    if not compared.requests:
        raise ServingError(
            "Replay needs requests that were answered and can be read",
            ", ".join(f"{count} {reason}" for reason, count in skipped.items()),
            "Choose another time",
        )
    dollars = np.concatenate(compared.dollars)
    sizes = np.abs(dollars)
    return Replay(
        version.number,
        _shown(since),
        _shown(until),
        compared.requests,
        len(sizes),
        int((sizes > TOLERANCE).sum()),
        float(sizes.max()),
        float(dollars.mean()),
        {f"p{q * 100:g}": float(np.quantile(sizes, q)) for q in QUANTILES},
        tuple(compared.worst),
        dict(compared.answered_by),
        sum(len(request.asked) for request in later),
        dict(skipped),
    )


def between(hours: str, now: datetime) -> tuple[datetime, datetime]:
    """`24:1`, from 24 hours ago until one hour ago; `24`, until now; two instants with `/` between.

    Raises:
        SettingsError: it is neither, or ends before it begins.
    """
    try:
        if "/" in hours:
            since, until = (_instant(text) for text in hours.split("/"))
        else:
            first, _, last = hours.partition(":")
            since, until = (now - timedelta(hours=float(text or 0)) for text in (first, last))
        if since >= until:
            raise ValueError(hours)
    except (ValueError, OverflowError):
        raise SettingsError(
            "The time to replay must be hours ago, A:B with A before B, or two instants A/B",
            repr(hours),
            "For example 24:0, or 2026-11-25T08:00/2026-11-25T09:30 (UTC)",
        ) from None
    return since, until


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _requests(
    platform: Platform, since: datetime, until: datetime, skipped: Counter[str]
) -> Iterator[Request]:
    """Each request of the time once, in the order of asking; others are counted in `skipped`."""
    from pyspark.sql import functions as F

    table = inference_table.requests(platform)
    name = platform.settings.table(platform.settings.payload_table)
    if table is None:
        raise ServingError(
            "Replay needs captured requests",
            f"there is no table {name}",
            "Turn on the endpoint's inference table, as taxi-assets deploy does",
        )
    micros = F.unix_micros("requested_at")
    asked = table.where((micros >= _micros(since)) & (micros < _micros(until)))
    asked = inference_table.with_versions(asked, inference_table.entity_versions(platform))
    seen: set[str] = set()
    for row in asked.orderBy("requested_at", "request_id").toLocalIterator():
        if row["request_id"] in seen:  # delivered twice
            continue
        seen.add(row["request_id"])
        read = inference_table.read(*(row[name] for name in inference_table.PAYLOAD))
        if row["status_code"] != inference_table.ANSWERED:
            skipped[REFUSED] += 1
        elif read.asked is None or read.problem is not None:
            skipped[UNREADABLE] += 1
        else:
            looked_up = json.loads(row["looked_up_features"] or "null")
            yield Request(row, read.asked, np.array(read.fares, np.float64), looked_up)
    if not seen:
        raise ServingError(
            "Replay needs captured requests of the time",
            f"none from {_shown(since)} until {_shown(until)}; {name} holds {_held(table)}",
            "Choose another time; what was just asked is captured within a minute",
        )


def _held(table: DataFrame) -> str:
    from pyspark.sql import functions as F

    at = F.col("requested_at")
    found = table.agg(F.count("*").alias("rows"), F.min(at).alias("a"), F.max(at).alias("b"))
    row = found.collect()[0]
    return f"{row['rows']:,}, from {_shown(row['a'])} to {_shown(row['b'])}" if row["a"] else "none"


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


def _shown(at: datetime) -> str:
    """In UTC; Spark gives times in the zone of the process, without saying so."""
    return at.astimezone(timezone.utc).isoformat(sep=" ", timespec="milliseconds")
