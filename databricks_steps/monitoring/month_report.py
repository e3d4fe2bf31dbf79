"""The step `drift_report`: the champion on whole months, what differs, and what to make of it.

It writes `drift_report` and `live_performance`, and one page of HTML a month. Trips are looked up
once for both; predictions are those that were made, rows of `batch_predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from databricks_steps import (
    atomic_write,
    distributions,
    fingerprint,
    histograms,
    incremental,
    schemas,
)
from databricks_steps.check_cache import CheckCache
from databricks_steps.distributions import Baseline, Counted
from databricks_steps.errors import ModelError
from databricks_steps.features import lookups
from databricks_steps.features.request import TRIP_TYPE, with_request_features
from databricks_steps.inference import scorer
from databricks_steps.interfaces import Commit, Outcome, Platform, Tables, Verdict
from databricks_steps.monitoring import (
    drift,
    error_source,
    fare_range,
    ground_truth,
    monitor_metrics,
    performance,
    plots,
    report,
    thresholds,
    triage,
)
from databricks_steps.monitoring.report import Told
from databricks_steps.monitoring.triage import Checks, Diagnosis
from databricks_steps.plots import SHARED_PLOTS, zone_map
from databricks_steps.training import dataset, expected_error, registry, tariff
from databricks_steps.training.expected_error import ExpectedError
from databricks_steps.training.registry import Version
from databricks_steps.training.tariff import Audit
from databricks_steps.trips import kinds, quality_checks

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

Metered: TypeAlias = "Callable[[str], pd.DataFrame]"  # month → its metered trips
DRIFT, LIVE = schemas.DRIFT_REPORT.name, schemas.LIVE_PERFORMANCE.name
PAYLOADS = schemas.ENDPOINT_PAYLOADS.name
Rows = list[dict[str, Any]]
# What the figures of a month are made by: one that changes has them measured again.
_MEASURE = (
    *(dataset, distributions, drift, expected_error, fare_range, ground_truth, histograms, kinds),
    *(performance, scorer, tariff, thresholds),
)


@dataclass(frozen=True)
class Judged:
    """A champion: its files, what its training rows looked like, and what it should err."""

    version: Version
    model: Path
    baseline: Baseline
    expected: ExpectedError

    @property
    def months(self) -> list[str]:
        """The months it has learned from, the newest first; one empty where that is not known."""
        return sorted(self.version.tags.get("months", "").split(","), reverse=True)


def judged(platform: Platform) -> Judged | None:
    """The champion with its baseline; None without a champion, or where it kept no baseline."""
    settings = platform.settings
    champion = registry.version(settings, registry.CHAMPION)
    if champion is None:
        return None
    try:
        baseline = Baseline.from_json(registry.read_text(settings, champion, distributions.FILE))
    except ModelError:  # registered before they were kept, or by other means
        return None
    expected = ExpectedError()  # as of a version of before it was kept: too few trips to tell
    with suppress(ModelError):
        text = registry.read_text(settings, champion, expected_error.FILE)
        expected = ExpectedError.from_json(text)
    return Judged(champion, registry.folder(settings, champion.number), baseline, expected)


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
        contents.append(tables.contents("trips", champion.months))
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
        # Of how many one is counted hangs on a month, not on which are judged with it.
        largest = max(tables.rows("trips", [month]) for month in stale)
        found = histograms.counted(scored, champion.baseline.bins, stale, largest)
        # A page that is there from here on is of these rows.
        for month in stale:
            page(platform, month).unlink(missing_ok=True)
        for name, rows in measured(platform, champion, scored, found).items():
            values = [[row.get(column) for column in schemas.TABLES[name].names] for row in rows]
            frame = platform.spark.createDataFrame(values, schemas.TABLES[name].spark())
            commits[name] = tables.replace(name, frame, stale, plan.made_from)

    learned = metered_trips(platform)

    def audit(month: str) -> dict[str, Any]:
        trips = _with_fares(platform, tables.read("trips", [month]), version, [month])
        return audited(champion, trips, month, learned).to_json()

    cache = CheckCache(platform.settings, DRIFT, force)
    audits = cache.measured("tariff", plan.digests, lambda months: {m: audit(m) for m in months})
    outcomes, told = _told(
        platform, champion, {m: Audit.from_json(raw) for m, raw in audits.items()}, commits
    )
    if found:
        _write_pages(platform, champion, found, told)
    return outcomes


def _write_pages(
    platform: Platform,
    champion: Judged,
    found: Mapping[str, Mapping[str, Counted]],
    told: Mapping[str, Told],
) -> None:
    """The page of each month of `found`."""
    months = list(found)
    trips = platform.tables.read("trips", months)
    errors = plots.errors_by_zone(_with_fares(platform, trips, champion.version, months))
    zones = platform.settings.zones
    shapes = plots.outlines(Path(zones)) if zones else None
    for month, slices in found.items():
        drawn = zone_map(errors.get(month, {}), "dollars", shapes)
        text = report.render(told[month], champion.baseline, slices, drawn)
        atomic_write.write(page(platform, month), text)


def measured(
    platform: Platform,
    champion: Judged,
    scored: DataFrame,
    found: Mapping[str, Mapping[str, Counted]],
) -> dict[str, Rows]:
    """Rows of both tables for the months of `found` (month → slice → counts).

    `scored` are trips with the model's inputs and `predicted_fare`.
    """
    tables, version = platform.tables, champion.version
    trips = tables.read("trips", list(found))
    payloads = tables.read(PAYLOADS) if tables.exists(PAYLOADS) else None
    seen_until = performance.unseen_from(version)
    live = performance.measured(
        scored, payloads, trips, version, seen_until, expected=champion.expected
    )
    return {
        DRIFT: drift.measured(found, version.number, champion.baseline),
        LIVE: fare_range.with_coverage(platform, version, champion.model, scored, live),
    }


def metered_trips(platform: Platform) -> Metered:
    """The metered trips of a month: many are compared with the same one, which is read once."""
    return cache(lambda month: tariff.metered(platform.tables.read("trips", [month]), month))


def audited(champion: Judged, scored: DataFrame, month: str, learned: Metered) -> Audit:
    """The month's tariff beside that of the newest month that the champion has learned from.

    The newest that holds enough metered trips to tell one, of days that it was taught. A month
    that it was taught itself is judged by the days that it was not.
    """
    unseen = performance.unseen_from(champion.version)
    day = f"{unseen:%Y-%m-%d}" if unseen else ""
    since = champion.version.tags.get(registry.TAUGHT_FROM, "")[:10]
    trips = tariff.metered(scored, month)
    for before in champion.months:
        known = learned(before)
        known = known[known["day"] >= since]
        if before == month:
            known, later = known[known["day"] < day], trips[trips["day"] >= day]
            trips = later if len(later) >= tariff.LEAST else trips
        if len(known) >= tariff.LEAST:
            break
    return tariff.audited(month, before, trips, known, day)


def asked(platform: Platform, months: Sequence[str]) -> DataFrame:
    """Trips of the months with what a ride is asked with, and their kind."""
    trips = platform.tables.read("trips", months).drop(TRIP_TYPE)
    looked_up = platform.features.look_up(
        trips, lookups.delayed(platform.settings.lookup_delay), months
    )
    return with_request_features(looked_up).withColumn("kind", kinds.kind())


def _scored(platform: Platform, version: Version, months: Sequence[str]) -> DataFrame:
    """Trips of the months with inputs, and the fares that were predicted; null where none was."""
    return _with_fares(platform, asked(platform, months), version, months)


def _with_fares(
    platform: Platform, trips: DataFrame, version: Version, months: Sequence[str]
) -> DataFrame:
    predicted = platform.tables.read("batch_predictions", months).where(
        f"model_version = '{version.number}'"
    )
    fares = predicted.select("trip_id", "predicted_fare")
    return trips.join(fares, "trip_id", "left")


def _told(
    platform: Platform,
    champion: Judged,
    audits: Mapping[str, Audit],
    commits: Mapping[str, Commit],
) -> tuple[tuple[Outcome, Outcome], dict[str, Told]]:
    """Both outcomes, and month → what its page tells."""
    tables, version, months = platform.tables, champion.version, list(audits)
    rows = {name: _rows(tables, name, months) for name in (DRIFT, LIVE)}
    error = max((_live_error(rows[LIVE], version, a) for a in audits.values()), key=_badness)
    ranged = fare_range.verdict(rows[LIVE], version)
    told = {month: told_of(platform, champion, rows, audit) for month, audit in audits.items()}
    last = told[max(months)]
    triages = [told[month].diagnosis.to_json() for month in sorted(months)]
    shared = {"months": months, "model_version": version.number}
    figures = {
        **shared,
        "triage": last.diagnosis.to_json(),
        "triages": triages,
        "verdicts": {a: asdict(v) for a, v in drift.verdicts(rows[DRIFT]).items()},
        "pages": [str(page(platform, month)) for month in months],
    }
    if (by_databricks := monitor_metrics.newest(tables)) is not None:
        figures["databricks_monitor"] = by_databricks
    verdicts = (last.verdict, tariff.verdict(list(audits.values())))
    drawn = _drawn(platform, months)
    outcomes = (
        Outcome(DRIFT, len(rows[DRIFT]), figures, commits.get(DRIFT), verdicts, drawn[DRIFT]),
        Outcome(LIVE, len(rows[LIVE]), shared, commits.get(LIVE), (error, ranged), drawn[LIVE]),
    )
    return outcomes, told


def _drawn(platform: Platform, months: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Table → month (or "" for all) → caption → SVG: what moved in all months, and the errors."""
    tables = platform.tables

    def draw() -> dict[str, Any]:
        every = {name: _rows(tables, name, None) for name in (DRIFT, LIVE)}
        by_day = {
            month: {
                "Mean absolute error by day": plots.error_by_day(
                    [row for row in every[LIVE] if row["trip_month"] == month]
                )
            }
            for month in months
        }
        return {
            DRIFT: {"": {"How far features moved": plots.heat_map(every[DRIFT])}},
            LIVE: {"": {"Mean absolute error": plots.error_by_month(every[LIVE])}, **by_day},
        }

    contents = (tables.contents(name) for name in (DRIFT, LIVE))
    drawn_of = fingerprint.digest(fingerprint.code(plots, SHARED_PLOTS), *contents, *months)
    return CheckCache(platform.settings, DRIFT).one("pictures", drawn_of, draw)


def told_of(platform: Platform, champion: Judged, rows: Mapping[str, Rows], audit: Audit) -> Told:
    """A month alone: its rows of both tables, and what it suffers from."""
    month, version = audit.month, champion.version
    own, live = (
        [row for row in rows[name] if row["trip_month"] == month] for name in (DRIFT, LIVE)
    )
    cache = CheckCache(platform.settings, schemas.RAW_TRIPS.name)
    checks = Checks(
        trips=(
            quality_checks.quarantine_rate(platform.tables, [month]),
            quality_checks.vendors(platform.tables, [month], cache),
            drift.missing_values(own),
        ),
        schema=quality_checks.source_schema(platform.tables, [month], cache),
        drift=drift.verdicts(own),
        mix=error_source.mix(live, month, champion.expected),
        error=_live_error(live, version, audit),
        carrier=error_source.carrier(live, month),
        tariff=tariff.verdict([audit]),
        metered=error_source.metered(live, audit),
    )
    diagnosis = triage.diagnosed(month, version.number, checks)
    carriers = performance.carriers(live, month)
    alarms = tuple(dict.fromkeys(v.check for v in checks.all if triage.is_error(v)))
    return Told(diagnosis, triage.verdict(diagnosis, checks), own, live, audit, carriers, alarms)


def _live_error(rows: Rows, version: Version, audit: Audit) -> Verdict:
    """The live error of the audit's month, told with what traffic explains of it."""
    own = [row for row in rows if row["trip_month"] == audit.month]
    return error_source.in_traffic(performance.verdict(own, version), own, audit)


def _badness(verdict: Verdict) -> tuple[bool, bool, float]:
    """By which of several months the worst is told."""
    ratio = float(verdict.figures.get("ratio") or 0.0)
    return triage.is_error(verdict), not verdict.passed, ratio


def page(platform: Platform, month: str) -> Path:
    """Where the page of a month is."""
    return platform.settings.home / "reports" / f"{DRIFT}_{month}.html"


def _rows(tables: Tables, name: str, months: Sequence[str] | None) -> Rows:
    """Rows of the months by their key: what is told first does not hang on files."""
    key = schemas.TABLES[name].primary_key
    return sorted(tables.records(name, months), key=lambda row: [str(row[part]) for part in key])


def _nothing(months: Sequence[str]) -> tuple[Outcome, Outcome]:
    reason = "there is no champion with a baseline to compare with: train one"
    diagnosis = Diagnosis((triage.NONE,), (reason,), max(months), "")
    passed = {asset: asdict(Verdict(check, True, reason)) for asset, check in drift.CHECKS.items()}
    figures = {"months": list(months), "triage": diagnosis.to_json(), "verdicts": passed}
    return (
        Outcome(
            DRIFT,
            0,
            figures,
            verdicts=tuple(Verdict(n, True, reason) for n in ("triage", "tariff")),
        ),
        Outcome(
            LIVE,
            0,
            {"months": list(months)},
            verdicts=tuple(Verdict(name, True, reason) for name in ("live_error", "fare_range")),
        ),
    )
