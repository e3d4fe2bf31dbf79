"""The page of a month: its class and evidence, distances by feature and slice, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from databricks_steps import page
from databricks_steps.distributions import ALL, Baseline, Counted
from databricks_steps.interfaces import Verdict
from databricks_steps.monitoring import plots
from databricks_steps.monitoring.drift import PSI
from databricks_steps.monitoring.performance import Carrier
from databricks_steps.monitoring.triage import NONE, REMEDIES, Diagnosis
from databricks_steps.page import Blocks, Figures, Table, Text
from databricks_steps.training import tariff
from databricks_steps.training.tariff import Audit

_HISTOGRAMS = 6  # of the features that moved most
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Told:
    """What is told of a month: its classes, the verdict, its rows of both tables, and causes."""

    diagnosis: Diagnosis
    verdict: Verdict
    drift: Rows
    live: Rows
    audit: Audit
    carriers: Sequence[Carrier]
    alarms: tuple[str, ...]  # names of the checks in error


def render(
    told: Told,
    baseline: Baseline,
    found: Mapping[str, Counted],
    zone_map: str = "",
) -> str:
    """The page as one HTML text: styles and pictures inside, no script, no link outward.

    `found` is slice → counts of the month, `zone_map` an SVG text or nothing.
    """
    diagnosis = told.diagnosis
    kind = diagnosis.kind
    lead = (
        Text(
            f"Class: {' and '.join(diagnosis.kinds)}", tone="passed" if kind == NONE else "failed"
        ),
        Text(f"{REMEDIES[kind]}."),
    )
    zones = {"Mean absolute error by pickup zone": zone_map} if zone_map else {}
    sections: dict[str, Blocks] = {
        "Evidence": [Text(each) for each in diagnosis.evidence],
        "What moved": [Figures(_histograms(told.drift, baseline, found))],
        "Live error": _live(told.live),
        "Where the error grew": [_carriers(told.carriers)],
        "Tariff": [Text(tariff.sentence(told.audit)), *_tariffs(told.audit)],
        **({"Zones": [Figures(zones)]} if zones else {}),
        "Features, all trips": [_features(told.drift)],
        "Boroughs and weeks over a limit": [_slices(told.drift)],
    }
    return page.render(
        f"{diagnosis.month}, judged by version {diagnosis.model_version}", sections, lead
    )


def _histograms(rows: Rows, baseline: Baseline, found: Mapping[str, Counted]) -> dict[str, str]:
    whole = [row for row in rows if row["slice"] == ALL and row["wasserstein"] is not None]
    moved = sorted(whole, key=lambda row: -row["wasserstein"])[:_HISTOGRAMS]
    return {
        f"{row['feature']}: {row['wasserstein']:.2f} standard deviations": plots.histogram(
            row["feature"], baseline.bins[row["feature"]], baseline.slices[ALL], found[ALL]
        )
        for row in moved
    }


def _carriers(found: Sequence[Carrier]) -> Table | Text:
    if not found:
        return Text("No slice carries more of it than its share of the trips.")
    names = ("slice", "share of trips", "of squared error", "of growth", "times the expected")
    rows = [(e.name, e.trips, e.squared, e.growth, e.ratio) for e in found]
    return Table(names, rows)


def _tariffs(audit: Audit) -> Blocks:
    """The fit of both months, dollars, and the share of fares that are whole ticks."""
    names = ("base", "per_mile", "per_minute", "error", "tick", "tick_share", "trips")
    fits = ((audit.before_month, audit.before), (audit.month, audit.now))
    rows = [[month, *(getattr(fit, name) for name in names)] for month, fit in fits if fit]
    return [Table(("month", *names), rows)] if rows else []


def _live(rows: Rows) -> Blocks:
    whole = [row for row in rows if row["day"] == ALL]
    if not whole:
        return [Text("No fare is known of a trip that the version has not learned from.")]
    names = (
        "slice",
        "predictions",
        "trips",
        "coverage",
        "mae",
        "expected",
        "rmse",
        "bias",
        "level",
    )
    drawn = Figures({"Mean absolute error by day": plots.error_by_day(rows)})
    return [drawn, _table(names, whole)]


def _features(rows: Rows) -> Table:
    names = ("feature", "wasserstein", PSI, "jensen_shannon", "missing", "level")
    return _table(names, sorted((r for r in rows if r["slice"] == ALL), key=_moved))


def _slices(rows: Rows) -> Table | Text:
    names = ("slice", "feature", "trips", "wasserstein", PSI, "missing", "level")
    over = [row for row in rows if row["slice"] != ALL and row["level"] in ("warn", "error")]
    ranked = sorted(over, key=lambda row: (row["slice"], _moved(row)))
    return _table(names, ranked) if ranked else Text("None.")


def _moved(row: Mapping[str, Any]) -> float:
    return -float(row["wasserstein"] or row["missing"])


def _table(names: Sequence[str], rows: Rows) -> Table:
    return Table(names, [["" if row[n] is None else row[n] for n in names] for row in rows])
