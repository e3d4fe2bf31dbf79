"""The page of a month: its class and evidence, distances by feature and slice, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from databricks_steps.distributions import ALL, Baseline, Counted
from databricks_steps.interfaces import Verdict
from databricks_steps.monitoring import plots
from databricks_steps.monitoring.drift import PSI
from databricks_steps.monitoring.triage import NONE, REMEDIES, Diagnosis
from databricks_steps.training.model_card import STYLE, escaped, figures, table

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
    title = f"{diagnosis.month}, judged by version {diagnosis.model_version}"
    tone = "passed" if diagnosis.kind == NONE else "failed"
    evidence = "".join(f"<li>{escaped(each)}</li>" for each in diagnosis.evidence)
    sections = [
        ("Evidence", f"<ul>{evidence}</ul>"),
        ("What moved", figures(_histograms(told.drift, baseline, found))),
        ("Live error", _live(told.live, usual)),
        ("Features, all trips", _features(told.drift)),
        ("Boroughs and weeks over a limit", _slices(told.drift)),
    ]
    if zone_map:
        sections.insert(3, ("Zones", figures({"Mean absolute error by pickup zone": zone_map})))
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>"
        f'<body><h1>{escaped(title)}</h1><p>Class: <span class="{tone}">'
        f"{escaped(diagnosis.kind)}</span>. {escaped(REMEDIES[diagnosis.kind])}.</p>"
        f"{body}</body></html>"
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


def _live(rows: Rows, usual: float | None) -> str:
    whole = [row for row in rows if row["day"] == ALL]
    if not whole:
        return "<p>No fare is known of a trip that the version has not learned from.</p>"
    drawn = figures({"Mean absolute error by day": plots.error_by_day(rows, usual)})
    names = ("slice", "predictions", "trips", "coverage", "mae", "rmse", "bias", "level")
    return drawn + _table(names, whole)


def _features(rows: Rows) -> str:
    names = ("feature", "wasserstein", PSI, "jensen_shannon", "missing", "level")
    return _table(names, sorted((r for r in rows if r["slice"] == ALL), key=_moved))


def _slices(rows: Rows) -> str:
    names = ("slice", "feature", "trips", "wasserstein", PSI, "missing", "level")
    over = [row for row in rows if row["slice"] != ALL and row["level"] in ("warn", "error")]
    ranked = sorted(over, key=lambda row: (row["slice"], _moved(row)))
    return _table(names, ranked) if ranked else "<p>None.</p>"


def _moved(row: Mapping[str, Any]) -> float:
    return -float(row["wasserstein"] or row["missing"])


def _table(names: Sequence[str], rows: Rows) -> str:
    return table(names, [[_cell(row[name]) for name in names] for row in rows])


def _cell(value: Any) -> Any:
    return "" if value is None else value
