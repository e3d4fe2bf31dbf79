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
from databricks_steps.monitoring.triage import NONE, REMEDIES, Diagnosis
from databricks_steps.page import Blocks, Figures, Table, Text

_HISTOGRAMS = 6  # of the features that moved most
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Told:
    """What the page of a month tells: its class, the verdict, and its rows of both tables."""

    diagnosis: Diagnosis
    verdict: Verdict
    drift: Rows
    live: Rows


def render(
    told: Told,
    baseline: Baseline,
    found: Mapping[str, Counted],
    zone_map: str = "",
    usual: float | None = None,
) -> str:
    """The page as one HTML text: styles and pictures inside, no script, no link outward.

    `found` is slice → counts of the month, `zone_map` an SVG text or nothing, `usual` the mean
    absolute error on the champion's holdout in dollars.
    """
    diagnosis = told.diagnosis
    kind = diagnosis.kind
    lead = (
        Text(f"Class: {kind}", tone="passed" if kind == NONE else "failed"),
        Text(f"{REMEDIES[kind]}."),
    )
    zones = {"Mean absolute error by pickup zone": zone_map} if zone_map else {}
    sections: dict[str, Blocks] = {
        "Evidence": [Text(each) for each in diagnosis.evidence],
        "What moved": [Figures(_histograms(told.drift, baseline, found))],
        "Live error": _live(told.live, usual),
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


def _live(rows: Rows, usual: float | None) -> Blocks:
    whole = [row for row in rows if row["day"] == ALL]
    if not whole:
        return [Text("No fare is known of a trip that the version has not learned from.")]
    names = ("slice", "predictions", "trips", "coverage", "mae", "rmse", "bias", "level")
    drawn = Figures({"Mean absolute error by day": plots.error_by_day(rows, usual)})
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
