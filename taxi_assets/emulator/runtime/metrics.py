"""What an endpoint has answered: counts, times and lookups, as a document that outlives a restart.

It is brought up to date four times a second, away from the way of a query.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KIND = "figures"
BOUNDS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000)  # upper, of the buckets
REFUSALS_KEPT = 50  # of each endpoint
MESSAGE = 300
Document = dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """What of an answered query is counted.

    `served` is name, model and version, all empty when no model was reached; `at` in microseconds
    since 1970; `looked_up` is (feature table, state) → rows; `refusal` the message of a refusal.
    """

    served: tuple[str, str, str]
    code: int
    rows: int
    micros: int
    at: int
    looked_up: Mapping[tuple[str, str], int]
    refusal: str | None


def bucket(micros: int) -> int:
    """The place of a duration among the buckets; the last one is for all longer ones."""
    return bisect_left(BOUNDS_MS, micros / 1000)


def count(figures: Document | None, answers: Iterable[Counted]) -> Document:
    """The figures of an endpoint with some more answers.

    `answered` holds one entry for each served model: answers by status, rows, and the times of
    all answers, one bucket for each bound and the last for all longer ones; `refusals` the newest
    first.
    """
    figures = figures or {"answered": [], "looked_up": [], "refusals": []}
    names = ("served", "entity", "version")
    answered = {tuple(each[name] for name in names): each for each in figures["answered"]}
    looked_up = Counter({(x["table"], x["state"]): x["rows"] for x in figures["looked_up"]})
    refusals = figures["refusals"]
    for each in answers:
        none = {"codes": {}, "rows": 0, "micros": 0, "buckets": [0] * (len(BOUNDS_MS) + 1)}
        model = answered.setdefault(each.served, dict(zip(names, each.served, strict=True)) | none)
        model["codes"][str(each.code)] = model["codes"].get(str(each.code), 0) + 1
        model["buckets"][bucket(each.micros)] += 1
        model["rows"] += each.rows
        model["micros"] += each.micros
        looked_up.update(each.looked_up)
        if each.refusal is not None:
            newest = {"at": each.at, "code": each.code, "message": each.refusal[:MESSAGE]}
            refusals = [newest, *refusals[: REFUSALS_KEPT - 1]]
    return {
        "answered": [answered[served] for served in sorted(answered)],
        "looked_up": [
            {"table": table, "state": state, "rows": rows}
            for (table, state), rows in sorted(looked_up.items())
        ],
        "refusals": refusals,
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
