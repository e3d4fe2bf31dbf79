"""The step `drift_report`: the champion on whole months, what differs, and what to make of it.

It writes `drift_report` and `live_performance`, and one page of HTML a month. Trips are looked up
once for both; predictions are those that were made, rows of `batch_predictions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps import distributions, fingerprint, histograms, incremental, schemas
from databricks_steps.check_cache import CheckCache
from databricks_steps.distributions import Baseline, Counted
from databricks_steps.errors import ModelError
from databricks_steps.features import lookups
from databricks_steps.features.request import TRIP_TYPE, with_request_features
from databricks_steps.inference import scorer
from databricks_steps.interfaces import Commit, Outcome, Platform, Tables, Verdict
from databricks_steps.monitoring import (
    drift,
    fare_range,
    ground_truth,
    performance,
    plots,
    profiled,
    report,
    thresholds,
    triage,
)
from databricks_steps.monitoring.performance import Reference
from databricks_steps.monitoring.report import Told
from databricks_steps.monitoring.triage import Diagnosis
from databricks_steps.training import dataset, registry
from databricks_steps.training.registry import Version
from databricks_steps.trips import kinds, quality_checks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

DRIFT, LIVE = schemas.DRIFT_REPORT.name, schemas.LIVE_PERFORMANCE.name
PAYLOADS = schemas.ENDPOINT_PAYLOADS.name
Rows = list[dict[str, Any]]
# What the figures of a month are made by: one that changes has them measured again.
_MEASURE = (
    *(dataset, distributions, drift, fare_range, ground_truth, histograms, kinds, performance),
    *(scorer, thresholds),
)


@dataclass(frozen=True)
class Judged:
    """The champion, what its training rows looked like, and how it erred on its holdout."""

    version: Version
    baseline: Baseline
    reference: Reference


def judged(platform: Platform) -> Judged | None:
    """The champion with its baseline; None without a champion, or where it kept no baseline."""
    champion = registry.version(platform.settings, registry.CHAMPION)
    if champion is None:
        return None
    try:
        text = registry.read_text(platform.settings, champion, distributions.FILE)
    except ModelError:  # registered before baselines were kept, or by other means
        return None
    reference = Reference.of(platform.settings, champion)
    return Judged(champion, Baseline.from_json(text), reference)


def drift_report(
    platform: Platform, months: Sequence[str], inputs: Sequence[object], force: bool = False
) -> tuple[Outcome, Outcome]:
    """Both tables of the months, measured again where inputs, champion or code changed.

    `inputs` tells whether what the months' trips look up has changed. Without a champion that has
    a baseline there is nothing to compare with, and nothing is written.
    """
    champion = judged(platform)
    if champion is None:
        return _nothing(months)
    tables, version = platform.tables, champion.version
    code = fingerprint.code(*_MEASURE)

    def digest(month: str) -> int:
        read = ("trips", "batch_predictions")
        contents = [tables.contents(name, [month]) for name in read]
        return fingerprint.digest(
            version.number, code, *inputs, *contents, tables.contents(PAYLOADS)
        )

    # Without its page: a run was killed before it was written.
    forced = [m for m in months if force or not page(platform, m).exists()]
    plan = incremental.plan(tables, (DRIFT, LIVE), {m: digest(m) for m in months}, forced)
    commits: dict[str, Commit] = {}
    found: Mapping[str, Mapping[str, Counted]] = {}
    if stale := plan.stale:
        scored = _scored(platform, version, stale)
        found = histograms.counted(
            scored, champion.baseline.bins, stale, tables.rows("trips", stale)
        )
        for name, rows in _measured(platform, champion, scored, found).items():
            frame = platform.spark.createDataFrame(rows, schemas.TABLES[name].spark())
            commits[name] = tables.replace(name, frame, stale, plan.made_from)
    outcomes, told = _told(platform, champion, months, commits)
    for month, slices in found.items():
        zones = platform.settings.zones
        picture = plots.zone_map(scored, month, Path(zones)) if zones else ""
        usual = version.metrics.get("mae")
        text = report.render(told[month], champion.baseline, slices, picture, usual)
        _write(platform, month, text)
    return outcomes


def _measured(
    platform: Platform,
    champion: Judged,
    scored: DataFrame,
    found: Mapping[str, Mapping[str, Counted]],
) -> dict[str, list[tuple[Any, ...]]]:
    tables, version = platform.tables, champion.version
    trips = tables.read("trips", list(found))
    payloads = tables.read(PAYLOADS) if tables.exists(PAYLOADS) else None
    seen_until = performance.unseen_from(version)
    live = performance.measured(
        scored, payloads, trips, version, seen_until, reference=champion.reference
    )
    rows = {
        DRIFT: drift.measured(found, version.number, champion.baseline),
        LIVE: fare_range.with_coverage(platform, version, scored, live),
    }
    return {
        name: [tuple(row.get(column) for column in schemas.TABLES[name].names) for row in each]
        for name, each in rows.items()
    }


def _scored(platform: Platform, version: Version, months: Sequence[str]) -> DataFrame:
    """Trips of the months with inputs, and the fares that were predicted; null where none was."""
    trips = platform.tables.read("trips", months).drop(TRIP_TYPE)
    predicted = platform.tables.read("batch_predictions", months).where(
        f"model_version = '{version.number}'"
    )
    looked_up = platform.features.look_up(
        trips, lookups.delayed(platform.settings.lookup_delay), months
    )
    fares = predicted.select("trip_id", "predicted_fare")
    asked = with_request_features(looked_up).withColumn("kind", kinds.kind())
    return asked.join(fares, "trip_id", "left")


def _told(
    platform: Platform, champion: Judged, months: Sequence[str], commits: Mapping[str, Commit]
) -> tuple[tuple[Outcome, Outcome], dict[str, Told]]:
    """Both outcomes, and month → what its page tells."""
    tables, version = platform.tables, champion.version
    rows = {name: _rows(tables, name, months) for name in (DRIFT, LIVE)}
    error = performance.verdict(rows[LIVE], version, reference=champion.reference)
    ranged = fare_range.verdict(rows[LIVE], version)
    told = {month: _month(platform, month, champion, rows) for month in months}
    last = told[max(months)]
    shared = {"months": list(months), "model_version": version.number}
    figures = {
        **shared,
        "triage": last.diagnosis.to_json(),
        "verdicts": {a: asdict(v) for a, v in drift.verdicts(rows[DRIFT]).items()},
        "pages": [str(page(platform, month)) for month in months],
    }
    if (by_databricks := profiled.newest(tables)) is not None:
        figures["databricks_monitor"] = by_databricks
    outcomes = (
        Outcome(DRIFT, len(rows[DRIFT]), figures, commits.get(DRIFT), (last.verdict,)),
        Outcome(LIVE, len(rows[LIVE]), shared, commits.get(LIVE), (error, ranged)),
    )
    return outcomes, told


def _month(platform: Platform, month: str, champion: Judged, rows: Mapping[str, Rows]) -> Told:
    """A month alone: its rows, and what it suffers from."""
    version = champion.version
    own, live = (
        [row for row in rows[name] if row["trip_month"] == month] for name in (DRIFT, LIVE)
    )
    missing, by_asset = drift.missing_values(own), drift.verdicts(own)
    error = performance.verdict(live, version, reference=champion.reference)
    diagnosis = triage.diagnosed(
        month,
        version.number,
        (quality_checks.quarantine_rate(platform.tables, [month]), missing),
        quality_checks.source_schema(
            platform.tables, [month], CheckCache(platform.settings, schemas.RAW_TRIPS.name)
        ),
        by_asset,
        error,
    )
    verdict = triage.verdict(diagnosis, (error, *by_asset.values(), missing))
    return Told(diagnosis, verdict, own, live)


def page(platform: Platform, month: str) -> Path:
    """Where the page of a month is."""
    return platform.settings.home / "reports" / f"{DRIFT}_{month}.html"


def _write(platform: Platform, month: str, text: str) -> None:
    """The page of a month, whole or not at all."""
    path = page(platform, month)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _rows(tables: Tables, name: str, months: Sequence[str]) -> Rows:
    """Rows of the months by their key: what is told first does not hang on files."""
    key = schemas.TABLES[name].primary_key
    return sorted(tables.records(name, months), key=lambda row: [str(row[part]) for part in key])


def _nothing(months: Sequence[str]) -> tuple[Outcome, Outcome]:
    reason = "there is no champion with a baseline to compare with: train one"
    diagnosis = Diagnosis(triage.NONE, (reason,), max(months), "")
    passed = {asset: asdict(Verdict(check, True, reason)) for asset, check in drift.CHECKS.items()}
    figures = {"months": list(months), "triage": diagnosis.to_json(), "verdicts": passed}
    return (
        Outcome(DRIFT, 0, figures, verdicts=(Verdict("triage", True, reason),)),
        Outcome(
            LIVE,
            0,
            {"months": list(months)},
            verdicts=tuple(Verdict(name, True, reason) for name in ("live_error", "fare_range")),
        ),
    )
