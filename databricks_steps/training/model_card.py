"""The model card: everything one must know of a version, on one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from databricks_steps import page, schemas
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.inference.feature_spec import FareInterval
from databricks_steps.interfaces import Verdict
from databricks_steps.page import Blocks, Figures, Table, Text
from databricks_steps.schemas import BETWEEN, HOLDOUT, TRAIN
from databricks_steps.settings import METRICS
from databricks_steps.training import plots as draw
from databricks_steps.training.dataset import INPUTS
from databricks_steps.training.feature_ages import AgeError
from databricks_steps.training.lineage import Recipe
from databricks_steps.training.onnx_graph import onnx_predict
from databricks_steps.training.slices import Slice

FILE = "passport.html"
# Caption → the file of the model's run that keeps the picture.
PICTURES = {
    "Predicted against paid": "pictures/calibration.svg",
    "RMSE by slice": "pictures/slices.svg",
    "Residuals by fare": "pictures/residuals_by_fare.svg",
    "Residuals by hour": "pictures/residuals_by_hour.svg",
    "Importances, by permutation on the holdout": "pictures/importances.svg",
}


class Judged(Protocol):
    """What the pictures are drawn from: a fitted model on its holdout."""

    @property
    def graph(self) -> bytes: ...
    @property
    def holdout(self) -> Any: ...
    @property
    def fares(self) -> Any: ...
    @property
    def predicted(self) -> Any: ...


@dataclass(frozen=True)
class Evidence:
    """All that a model card tells. `rows` is month → split → rows; `intervals` metric → bounds."""

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


def plots(model: Judged, slices: Sequence[Slice]) -> dict[str, str]:
    """Caption → SVG, of a fitted model on its holdout; the captions are those of `PICTURES`."""
    fares, predicted = model.fares, model.predicted
    hours = model.holdout["pickup_hour"].to_numpy()
    inputs = model.holdout[list(INPUTS)]
    drawn = (
        draw.calibration(fares, predicted),
        draw.errors_by_slice(slices),
        draw.residuals_by_fare(fares, predicted),
        draw.residuals_by_hour(hours, fares, predicted),
        draw.importances(lambda rows: onnx_predict(model.graph, rows)[0], inputs, fares),
    )
    return dict(zip(PICTURES, drawn, strict=True))


def render(told: Evidence, pictures: Mapping[str, str]) -> str:
    """The model card as one HTML text: styles and pictures inside, no script, no link outward."""
    failed = [v.check for v in told.verdicts if not v.passed]
    lead = (
        Text("Checks failed: " + ", ".join(failed), tone="failed")
        if failed
        else Text("Checks passed", tone="passed"),
        Text(f"MLflow run {told.run_id}. Trained on {', '.join(told.recipe.months)}."),
    )
    checks = [(v.check, "passed" if v.passed else "failed", v.reason) for v in told.verdicts]
    params = [(name, str(value)) for name, value in sorted(told.params.items())]
    code = [("git commit", told.recipe.commit), ("python", told.recipe.python)]
    sections: dict[str, Blocks] = {
        "Metrics on the holdout": [_metrics(told)],
        "Error by the age of the features": _ages(told),
        "Checks": [Table(("check", "", "reason"), checks)],
        "Fare interval": [_interval(told.interval, told.covered)],
        "Pictures": [Figures(pictures)],
        "Slices": [_slices(told.slices)],
        "Data": _data(told),
        "Features": [_features(told.recipe)],
        "Parameters": [Table(("parameter", "value"), params)],
        "Code and packages": [Table(("what", "version"), [*code, *told.recipe.packages.items()])],
        "Make it again": [Text(told.again, "pre")],
    }
    return page.render(f"{told.model}, version {told.version}", sections, lead)


def _metrics(told: Evidence) -> Table:
    rows = []
    for metric in METRICS:
        found = told.intervals.get(metric.name)
        spread = f"{found[0]:,.3f} to {found[1]:,.3f}" if found else ""
        others = [m[metric.name] for m in told.baselines.values()]
        ours = told.metrics[metric.name]
        rows.append((metric.name, ours, spread, *others, metric.unit, metric.comment))
    baselines = [name.replace("_", " ") for name in told.baselines]
    return Table(("metric", "value", "95 % interval", *baselines, "unit", "meaning"), rows)


def _ages(told: Evidence) -> Blocks:
    tables = [lookup.table.name for lookup in LOOKUPS]
    rows = [
        (a.age, a.rmse, a.mae, a.bias, *(a.without.get(t, a.rmse) for t in tables))
        for a in told.ages
    ]
    line = told.baselines.get("metered_fare", {}).get("rmse", 0.0)
    names = ("features are", "RMSE", "MAE", "bias", *(f"RMSE without {name}" for name in tables))
    said = (
        f"A ride meets features {told.recipe.feature_delay_days} days old; one older than "
        f"{told.recipe.lookback_days} days is not used, as if there were none. The line through "
        f"the distance has an RMSE of {line:.3f}. No trip type is told."
    )
    return [Text(said), Table(names, rows)]


def _interval(found: FareInterval, covered: Mapping[str, float]) -> Text:
    wanted = found.high - found.low
    kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in covered.items())
    return Text(
        f"Quantiles {found.low:g} and {found.high:g} of the members, stretched by "
        f"{found.low_stretch:.2f} below and {found.high_stretch:.2f} above (at least "
        f"{found.floor:g} dollars before that): meant to cover {wanted:.0%} of the fares, covers "
        f"{found.coverage:.1%} of {found.rows:,} rides of the holdout it was not calibrated on. "
        f"{len(found.groups)} groups, by what a request can tell and whether features are known, "
        f"have stretches of their own. By kind of trip, which no request can tell: {kinds}."
    )


def _slices(slices: Sequence[Slice]) -> Table:
    rows = [
        (s.name, s.rows, s.rmse, "" if s.champion_rmse is None else s.champion_rmse, s.mae, s.bias)
        for s in slices
    ]
    return Table(("slice", "trips", "RMSE", "champion's RMSE", "MAE", "bias"), rows)


def _data(told: Evidence) -> Blocks:
    splits = (TRAIN, HOLDOUT, BETWEEN)
    rows = [(month, *(n.get(split, 0) for split in splits)) for month, n in told.rows.items()]
    said = (
        f"The holdout is the last {told.recipe.holdout_share:.0%} of the trips by pickup time; "
        "trips under way when it begins are in neither part."
    )
    versions = list(told.recipe.table_versions.items())
    return [
        Table(("month", *splits), rows),
        Text(said),
        Table(("table", "Delta version"), versions),
    ]


def _features(recipe: Recipe) -> Table:
    of = {name: lookup.table.name for lookup in LOOKUPS for name in lookup.features}
    rows = []
    for column in schemas.MODEL_INPUTS:
        source = of.get(column.name)
        version = "" if source is None else str(recipe.table_versions.get(source, "not recorded"))
        rows.append((column.name, source or "the request", version, column.unit, column.comment))
    return Table(("input", "from", "Delta version", "unit", "meaning"), rows)
