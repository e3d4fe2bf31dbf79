"""How far the trips of a month are from those a version has learned from, feature by feature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.distributions import ALL, LOCATIONS, Baseline, Counted
from databricks_steps.interfaces import Severity, Verdict
from databricks_steps.monitoring.thresholds import DriftLimits

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Row = dict[str, Any]
OK, WARN, ERROR, FEW = "ok", "warn", "error", "few"
LIMITS = DriftLimits()
PREDICTED = "predicted_fare"
_DECILES = 10
_FLOOR = 1e-4  # share of an empty decile: its logarithm must be finite
PSI = "population_stability_index"
# What stands around a quantity in a feature's name: `pickup_mean_fare_7d` is a mean fare.
_WINDOW = re.compile(r"^(pickup|dropoff)_|_\d+[mhd]$")

# Asset → the features its check tells of. What a request itself says has no table of its own: it
# stands with the predictions it leads to.
FEATURES: dict[str, tuple[str, ...]] = {
    "pickup_features": tuple(c.name for c in schemas.PICKUP_FEATURES.features),
    "dropoff_features": tuple(c.name for c in schemas.DROPOFF_FEATURES.features),
    "batch_predictions": (
        *(c.name for c in schemas.WATCHED_INPUTS if c in schemas.REQUEST_FEATURES),
        PREDICTED,
    ),
}
CHECKS = {
    "pickup_features": "drift",
    "dropoff_features": "drift",
    "batch_predictions": "prediction_drift",
}


def measured(
    found: Mapping[str, Mapping[str, Counted]],
    version: str,
    baseline: Baseline,
    limits: DriftLimits = LIMITS,
) -> list[Row]:
    """Rows of `schemas.DRIFT_REPORT`, for every month, slice and feature that was counted.

    `found` is month → slice → counts, over the baseline's bins (`histograms.counted`). Boroughs
    are compared with the same borough of the baseline, weeks with all of it.
    """
    now = datetime.now(timezone.utc)
    return [
        {"trip_month": month, "slice": name, "model_version": version, "computed_at": now, **row}
        for month, slices in found.items()
        for name, each in slices.items()
        for row in _compared(name, each, baseline, limits)
    ]


def _compared(name: str, here: Counted, baseline: Baseline, limits: DriftLimits) -> list[Row]:
    learned = baseline.slices.get(ALL if name.startswith("week") else name, Counted(0))
    least = limits.least if name == ALL else limits.least_slice
    few = min(here.trips, learned.trips) < least
    shared = {"trips": here.trips, "baseline_trips": learned.trips}
    rows = []
    for feature, bins in baseline.bins.items():
        before, now = learned.counts.get(feature), here.counts.get(feature)
        missing = 1.0 if now is None else float(now[0]) / here.trips
        row = {"feature": feature, **shared, "missing": missing}
        if few or before is None or now is None or not before[1:].sum() or not now[1:].sum():
            lost = not few and before is not None and missing > limits.missing[1]
            rows.append(row | _measures(None) | {"level": ERROR if lost else FEW})
            continue
        measures = distances(before[1:], now[1:], bins.centres(), bins.std)
        lost_before = float(before[0]) / before.sum()
        level = _level(feature, measures, missing - lost_before, limits)
        rows.append(row | _measures(measures) | {"level": level})
    for location in LOCATIONS:
        share = here.unknown[location] / here.trips
        more = share - learned.unknown.get(location, 0) / max(learned.trips, 1)
        level = FEW if few else _over(more, limits.missing)
        rows.append(
            {"feature": location, **shared, "missing": share} | _measures(None) | {"level": level}
        )
    return rows


def distances(before: Array, now: Array, centres: Array, std: float) -> tuple[float, float, float]:
    """Population stability index, Jensen-Shannon and Wasserstein distance of two histograms.

    `before` and `now` are counts over the same bins (bins,), neither all zero. The index is over
    the deciles of `before`, its shares at least 0.0001; Jensen-Shannon has base 2, so that it lies
    between 0 and 1; Wasserstein is in `std`s, exact to a bin's width.
    """
    import numpy as np
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import wasserstein_distance

    old, new = before / before.sum(), now / now.sum()
    middle = np.cumsum(old) - old / 2
    decile = np.minimum((middle * _DECILES).astype(int), _DECILES - 1)
    shares = [
        np.maximum(np.bincount(decile, weights=each, minlength=_DECILES), _FLOOR)
        for each in (old, new)
    ]
    used = np.bincount(decile, weights=old, minlength=_DECILES) > 0
    index = ((shares[1] - shares[0]) * np.log(shares[1] / shares[0]))[used].sum()
    apart = float(jensenshannon(old, new, base=2))
    moved = wasserstein_distance(centres, centres, old, new) / std
    return float(index), 0.0 if np.isnan(apart) else apart, float(moved)


def _measures(found: tuple[float, float, float] | None) -> Row:
    index, apart, moved = found or (None, None, None)
    return {PSI: index, "jensen_shannon": apart, "wasserstein": moved}


def _level(
    feature: str, found: tuple[float, float, float], missing: float, limits: DriftLimits
) -> str:
    index, _, moved = found
    distance = limits.predicted if feature == PREDICTED else limits.wasserstein
    levels = [_over(missing, limits.missing)]
    for place, level in enumerate((WARN, ERROR)):
        if moved > distance[place] and index > limits.index[place]:
            levels.append(level)
    return max(levels, key=(OK, WARN, ERROR).index)


def _over(value: float, pair: tuple[float, float]) -> str:
    warn, error = pair
    return ERROR if value > error else WARN if value > warn else OK


def verdicts(rows: Sequence[Row], limits: DriftLimits = LIMITS) -> dict[str, Verdict]:
    """Asset → the verdict of its check, from rows of `schemas.DRIFT_REPORT`.

    One in error needs several features that are, of any asset, and not of one quantity alone: of
    so many watched ones single ones move with the season.
    """
    moved = {r["feature"] for r in rows if r["slice"] == ALL and r["level"] == ERROR}
    moved -= {*LOCATIONS}
    quantities = {_WINDOW.sub("", feature) for feature in moved}
    several = len(moved) >= limits.features and len(quantities) >= limits.quantities
    return {asset: _verdict(rows, asset, several) for asset in FEATURES}


def _verdict(rows: Sequence[Row], asset: str, several: bool) -> Verdict:
    own = [row for row in rows if row["feature"] in FEATURES[asset]]
    whole = [row for row in own if row["slice"] == ALL]
    over = [row for row in whole if row["level"] in (WARN, ERROR)]
    worst = max(over or whole, key=_rank, default=None)
    in_error = several and any(row["level"] == ERROR for row in over)
    severity: Severity = "error" if in_error else "warn"
    figures = {"over": [_told(row) for row in over]}
    if worst is None:
        return Verdict(CHECKS[asset], True, "no trip to compare", figures, severity)
    if all(row["level"] == FEW for row in whole):
        reason = f"too few trips to tell: {worst['trips']}, the baseline {worst['baseline_trips']}"
        return Verdict(CHECKS[asset], True, reason, figures, severity)
    told = f"{worst['trip_month']}, version {worst['model_version']}: {_told(worst)}"
    reason = (
        f"{told}; {len(over)} of {len(whole)} features are over a limit"
        if over
        else f"no feature is over a limit; the farthest, {told}"
    )
    return Verdict(CHECKS[asset], not over, reason, figures, severity)


def missing_values(rows: Sequence[Row], limits: DriftLimits = LIMITS) -> Verdict:
    """Trips have the values and zones that those learned from had: else the data are at fault."""
    whole = [row for row in rows if row["slice"] == ALL]
    lost = [
        row
        for row in whole
        if (row["feature"] in LOCATIONS and row["level"] in (WARN, ERROR))
        or (row["feature"] not in LOCATIONS and row["missing"] > limits.missing[0])
    ]
    bad = any(row["level"] == ERROR for row in lost)
    told = [f"{row['feature']} {row['missing']:.1%}" for row in lost]
    reason = "missing or unknown: " + ", ".join(told) if told else "values and zones are there"
    return Verdict("missing_values", not lost, reason, {}, "error" if bad else "warn")


def _rank(row: Mapping[str, Any]) -> tuple[int, float]:
    return (FEW, OK, WARN, ERROR).index(row["level"]), row["wasserstein"] or row["missing"]


def _told(row: Mapping[str, Any]) -> str:
    if row["wasserstein"] is None:
        return f"{row['feature']} missing in {row['missing']:.1%}"
    return (
        f"{row['feature']} moved by {row['wasserstein']:.2f} standard deviations, "
        f"stability index {row[PSI]:.2f}"
    )
