"""What an endpoint has answered: counts, times and lookups, as a document that outlives a restart.

It is brought up to date twenty times a second, away from the way of a query.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

KIND = "figures"
BOUNDS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000)  # upper, of the buckets
REFUSALS_KEPT = 50  # of each endpoint
MESSAGE = 300
Document = dict[str, Any]


Served = tuple[str, str, str]  # name, model and version; all empty when no model was reached


@dataclass
class Tally:
    """What some answered queries add to the figures of an endpoint; all start from none."""

    answered: Counter[tuple[Served, int, int]] = field(default_factory=Counter)  # status, bucket
    rows: Counter[Served] = field(default_factory=Counter)
    micros: Counter[Served] = field(default_factory=Counter)
    looked_up: Counter[tuple[str, str]] = field(default_factory=Counter)  # table, state: rows
    refusals: list[Document] = field(default_factory=list)  # the newest last

    def add(self, served: Served, code: int, rows: int, micros: int) -> None:
        """One more answer; `micros` is how long it took."""
        self.answered[served, code, bucket(micros)] += 1
        self.rows[served] += rows
        self.micros[served] += micros

    def refuse(self, at: int, code: int, message: str) -> None:
        """The reason of a refusal, at microseconds since 1970."""
        self.refusals.append({"at": at, "code": code, "message": message[:MESSAGE]})


def bucket(micros: int) -> int:
    """The place of a duration among the buckets; the last one is for all longer ones."""
    return bisect_left(BOUNDS_MS, micros / 1000)


def count(figures: Document | None, tally: Tally) -> Document:
    """The figures of an endpoint with some more answers.

    `answered` holds one entry for each served model: answers by status, rows, and the times of
    all answers, one bucket for each bound and the last for all longer ones; `refusals` the newest
    first.
    """
    figures = figures or {"answered": [], "looked_up": [], "refusals": []}
    names = ("served", "entity", "version")
    answered = {tuple(each[name] for name in names): each for each in figures["answered"]}
    for (served, code, place), times in tally.answered.items():
        none = {"codes": {}, "rows": 0, "micros": 0, "buckets": [0] * (len(BOUNDS_MS) + 1)}
        model = answered.setdefault(served, dict(zip(names, served, strict=True)) | none)
        model["codes"][str(code)] = model["codes"].get(str(code), 0) + times
        model["buckets"][place] += times
    for served in tally.rows:
        answered[served]["rows"] += tally.rows[served]
        answered[served]["micros"] += tally.micros[served]
    looked_up = Counter({(x["table"], x["state"]): x["rows"] for x in figures["looked_up"]})
    looked_up.update(tally.looked_up)
    return {
        "answered": [answered[served] for served in sorted(answered)],
        "looked_up": [
            {"table": table, "state": state, "rows": rows}
            for (table, state), rows in sorted(looked_up.items())
        ],
        "refusals": [*reversed(tally.refusals), *figures["refusals"]][:REFUSALS_KEPT],
    }


def prometheus(endpoint: str, figures: Document) -> str:
    """The figures in Prometheus' text form, under the names that Databricks exports."""
    from prometheus_client import generate_latest
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    by = ["endpoint_name", "served_model_name", "entity_name", "entity_version"]
    requests = CounterMetricFamily("request_count", "Queries answered", labels=by)
    refused = CounterMetricFamily("request_4xx_count", "Queries refused", labels=by)
    failed = CounterMetricFamily("request_5xx_count", "Queries failed", labels=by)
    rows = CounterMetricFamily("prediction_count", "Rows predicted", labels=by)
    times = HistogramMetricFamily(
        "request_latency_ms", "Time from the request's head to its answer", labels=by
    )
    for each in figures["answered"]:
        labels = [endpoint, each["served"], each["entity"], each["version"]]
        codes = each["codes"]
        requests.add_metric(labels, sum(codes.values()))
        refused.add_metric(labels, sum(n for code, n in codes.items() if code[0] == "4"))
        failed.add_metric(labels, sum(n for code, n in codes.items() if code[0] == "5"))
        rows.add_metric(labels, each["rows"])
        times.add_metric(labels, _cumulative(each["buckets"]), each["micros"] / 1000)
    lookups = CounterMetricFamily(
        "feature_lookup_count",
        "Looked-up rows by state: fresh, or stale or unknown, where the defaults answered",
        labels=["endpoint_name", "table", "state"],
    )
    for each in figures["looked_up"]:
        lookups.add_metric([endpoint, each["table"], each["state"]], each["rows"])
    return generate_latest(_Families([requests, refused, failed, rows, times, lookups])).decode()


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    names = [*(f"{bound:g}" for bound in BOUNDS_MS), "+Inf"]
    return [(name, float(sum(buckets[: place + 1]))) for place, name in enumerate(names)]


@dataclass
class _Families:
    """A registry, as `generate_latest` wants one, of families that are already made."""

    families: list[Any]

    def collect(self) -> list[Any]:
        return self.families
