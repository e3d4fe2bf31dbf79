"""The model passport: everything one must know of a version, on one page that needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from databricks_steps import schemas
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.inference.feature_spec import FareInterval
from databricks_steps.interfaces import Verdict
from databricks_steps.schemas import BETWEEN, HOLDOUT, TRAIN
from databricks_steps.settings import METRICS
from databricks_steps.training import plots as draw
from databricks_steps.training.dataset import INPUTS
from databricks_steps.training.feature_ages import AgeError
from databricks_steps.training.lineage import Recipe
from databricks_steps.training.slices import Slice

FILE = "passport.html"

STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff;
       max-width: 70rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p, figcaption { color: var(--soft); margin: .3rem 0; } code { font-size: .9em; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; }
th { color: var(--soft); font-weight: 600; } .n { text-align: right; white-space: nowrap;
     font-variant-numeric: tabular-nums; }
.passed { color: #1a7f37; font-weight: 600; } .failed { color: #cf222e; font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
figure { margin: 0; } img { width: 100%; } pre { background: #f6f8fa; padding: .8rem; }
"""


class Judged(Protocol):
    """What the pictures are drawn from: a fitted model on its holdout."""

    @property
    def pipeline(self) -> Any: ...
    @property
    def holdout(self) -> Any: ...
    @property
    def fares(self) -> Any: ...
    @property
    def predicted(self) -> Any: ...


@dataclass(frozen=True)
class Evidence:
    """All that a passport tells. `rows` is month → split → rows; `intervals` metric → bounds."""

    model: str
    version: str
    run_id: str
    recipe: Recipe
    rows: Mapping[str, Mapping[str, int]]
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    baselines: Mapping[str, Mapping[str, float]]
    slices: Sequence[Slice]
    verdicts: Sequence[Verdict]
    interval: FareInterval
    covered: Mapping[str, float]
    ages: Sequence[AgeError] = ()
    again: str = ""  # how the version is made again


def plots(model: Judged) -> dict[str, str]:
    """Caption → SVG, of a fitted model on its holdout."""
    fares, predicted = model.fares, model.predicted
    hours = model.holdout["pickup_hour"].to_numpy()
    inputs = model.holdout[list(INPUTS)]
    return {
        "Residuals by fare": draw.residuals_by_fare(fares, predicted),
        "Residuals by hour": draw.residuals_by_hour(hours, fares, predicted),
        "Calibration": draw.calibration(fares, predicted),
        "Importances, by permutation on the holdout": draw.importances(
            model.pipeline, inputs, fares
        ),
    }


def render(told: Evidence, pictures: Mapping[str, str]) -> str:
    """The passport as one HTML text: styles and pictures inside, no script, no link outward."""
    failed = [v.check for v in told.verdicts if not v.passed]
    verdict = "failed: " + ", ".join(failed) if failed else "passed"
    outcome = f'<span class="{"failed" if failed else "passed"}">{escaped(verdict)}</span>'
    sections = (
        ("Metrics on the holdout", _metrics(told)),
        ("Error by the age of the features", _ages(told)),
        ("Checks", _checks(told.verdicts)),
        ("Fare interval", _interval(told.interval, told.covered)),
        ("Pictures", figures(pictures)),
        ("Slices", _slices(told.slices)),
        ("Data", _data(told)),
        ("Features", _features(told.recipe)),
        ("Parameters", table(("parameter", "value"), _shown(told.params))),
        ("Code and packages", _code(told.recipe)),
        ("Make it again", f"<pre>{escaped(told.again)}</pre>"),
    )
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    title = f"{told.model}, version {told.version}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escaped(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{escaped(title)}</h1>"
        f"<p>Checks {outcome}. MLflow run <code>{escaped(told.run_id)}</code>. Trained on "
        f"{escaped(', '.join(told.recipe.months))}.</p>{body}</body></html>\n"
    )


def _metrics(told: Evidence) -> str:
    rows = []
    for metric in METRICS:
        found = told.intervals.get(metric.name)
        spread = f"{found[0]:,.3f} to {found[1]:,.3f}" if found else ""
        others = [m[metric.name] for m in told.baselines.values()]
        ours = told.metrics[metric.name]
        rows.append((metric.name, ours, spread, *others, metric.unit, metric.comment))
    baselines = [name.replace("_", " ") for name in told.baselines]
    return table(("metric", "value", "95 % interval", *baselines, "unit", "meaning"), rows)


def _ages(told: Evidence) -> str:
    tables = [lookup.table.name for lookup in LOOKUPS]
    rows = [
        (a.age, a.rmse, a.mae, a.bias, *(a.without.get(t, a.rmse) for t in tables))
        for a in told.ages
    ]
    line = told.baselines.get("metered_fare", {}).get("rmse", 0.0)
    names = ("features are", "RMSE", "MAE", "bias", *(f"RMSE without {name}" for name in tables))
    return (
        f"<p>A ride meets features {told.recipe.feature_delay_days} days old; one older than "
        f"{told.recipe.lookback_days} days is not used, as if there were none. The line through "
        f"the distance has an RMSE of {line:.3f}. No trip type is told.</p>{table(names, rows)}"
    )


def _checks(verdicts: Sequence[Verdict]) -> str:
    rows = "".join(
        f'<tr><td>{escaped(v.check)}</td><td class="{"passed" if v.passed else "failed"}">'
        f"{'passed' if v.passed else 'failed'}</td><td>{escaped(v.reason)}</td></tr>"
        for v in verdicts
    )
    return f"<table><tr><th>check</th><th></th><th>reason</th></tr>{rows}</table>"


def _interval(found: FareInterval, covered: Mapping[str, float]) -> str:
    wanted = found.high - found.low
    kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in covered.items())
    return (
        f"<p>Quantiles {found.low:g} and {found.high:g} of the trees, stretched by "
        f"{found.low_stretch:.2f} below and {found.high_stretch:.2f} above (at least "
        f"{found.floor:g} dollars before that): meant to cover {wanted:.0%} of the fares, covers "
        f"{found.coverage:.1%} of {found.rows:,} rides of the holdout it was not calibrated on. "
        f"{len(found.groups)} groups of what a request can tell have stretches of their own. By "
        f"kind of trip, which no request can tell: {kinds}.</p>"
    )


def figures(pictures: Mapping[str, str]) -> str:
    shown = []
    for caption, svg in pictures.items():
        data = base64.b64encode(svg.encode()).decode()
        shown.append(
            f'<figure><img alt="{escaped(caption)}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{escaped(caption)}</figcaption></figure>"
        )
    return f'<div class="plots">{"".join(shown)}</div>'


def _slices(slices: Sequence[Slice]) -> str:
    rows = [
        (
            s.name,
            s.rows,
            s.rmse,
            "" if s.champion_rmse is None else s.champion_rmse,
            s.mae,
            s.bias,
        )
        for s in slices
    ]
    names = ("slice", "trips", "RMSE", "champion's RMSE", "MAE", "bias")
    return table(names, rows)


def _data(told: Evidence) -> str:
    splits = (TRAIN, HOLDOUT, BETWEEN)
    rows = [(month, *(n.get(split, 0) for split in splits)) for month, n in told.rows.items()]
    versions = list(told.recipe.table_versions.items())
    return (
        table(("month", *splits), rows)
        + f"<p>The holdout is the last {told.recipe.holdout_share:.0%} of the trips by pickup "
        "time; trips under way when it begins are in neither part.</p>"
        + table(("table", "Delta version"), versions)
    )


def _features(recipe: Recipe) -> str:
    of = {name: lookup.table.name for lookup in LOOKUPS for name in lookup.features}
    rows = []
    for column in schemas.MODEL_INPUTS:
        source = of.get(column.name)
        version = "" if source is None else str(recipe.table_versions.get(source, "not recorded"))
        rows.append((column.name, source or "the request", version, column.unit, column.comment))
    return table(("input", "from", "Delta version", "unit", "meaning"), rows)


def _code(recipe: Recipe) -> str:
    rows = [("git commit", recipe.commit), ("python", recipe.python), *recipe.packages.items()]
    return table(("what", "version"), rows)


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns whose first value is a number are set as numbers."""
    cells = list(rows)
    numeric = [isinstance(value, (int, float)) for value in cells[0]] if cells else []
    numeric += [False] * (len(names) - len(numeric))
    head = _row("th", names, numeric)
    return f"<table>{head}{''.join(_row('td', row, numeric) for row in cells)}</table>"


def _row(tag: str, values: Sequence[Any], numeric: Sequence[bool]) -> str:
    cells = zip(values, numeric, strict=True)
    return f"<tr>{''.join(_cell(tag, value, number) for value, number in cells)}</tr>"


def _cell(tag: str, value: Any, number: bool) -> str:
    text = f"{value:,.3f}" if isinstance(value, float) else str(value)
    if isinstance(value, int):
        text = f"{value:,}"
    kind = ' class="n"' if number else ""
    return f"<{tag}{kind}>{escaped(text)}</{tag}>"


def _shown(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in sorted(params.items())]


def escaped(value: str) -> str:
    return html.escape(value)
