"""Pictures of a model on its holdout, each as an SVG text drawn without a screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from databricks_steps.plots import BLUE, GREY, PALE, axes_of, bars, svg

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from databricks_steps.training.slices import Slice

    Array = np.ndarray[Any, np.dtype[Any]]

_BINS = 20
_SHUFFLED_ROWS = 3_000  # enough for an order of importance; bounds the cost
_SHUFFLES = 3


def residuals_by_fare(fares: Array, predicted: Array) -> str:
    """Predicted less paid, in bands of the fare that hold equally many trips."""
    import numpy as np

    edges = np.unique(np.quantile(fares, np.linspace(0, 1, _BINS + 1)))
    band = np.clip(np.searchsorted(edges, fares, side="right") - 1, 0, max(len(edges) - 2, 0))
    return _residuals(fares, predicted - fares, band, "fare paid, dollars")


def residuals_by_hour(hours: Array, fares: Array, predicted: Array) -> str:
    """Predicted less paid, hour by hour."""
    return _residuals(hours, predicted - fares, hours, "hour of the pickup")


def calibration(fares: Array, predicted: Array) -> str:
    """Mean fare paid where so much was predicted; on the diagonal when predictions are right."""
    import numpy as np

    parts = np.array_split(np.argsort(predicted, kind="stable"), _BINS)
    points = np.array([[predicted[p].mean(), fares[p].mean()] for p in parts if len(p)])
    figure, axes = axes_of("mean predicted fare, dollars", "mean fare paid, dollars")
    top = float(points.max()) * 1.05
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle="--")
    axes.plot(points[:, 0], points[:, 1], "o-", color=BLUE, markersize=4, linewidth=1)
    return svg(figure)


def importances(
    predict: Callable[[pd.DataFrame], Array], inputs: pd.DataFrame, fares: Array
) -> str:
    """By how much the mean absolute error grows when one input is shuffled among the rows.

    Permutation importance (Breiman 2001, section 10). scikit-learn's own would shuffle inputs that
    hold one value, too: with the publisher's delay that is all features.
    """
    import numpy as np

    chance = np.random.default_rng(0)
    rows = chance.permutation(len(inputs))[:_SHUFFLED_ROWS]
    some, paid = inputs.iloc[rows], fares[rows]

    def error(frame: pd.DataFrame) -> float:
        return float(np.abs(predict(frame) - paid).mean())

    usual = error(some)
    growth = np.zeros((len(some.columns), _SHUFFLES))
    for place, name in enumerate(some.columns):
        if some[name].nunique() > 1:
            shuffled = (some.assign(**{name: chance.permutation(some[name])}) for _ in growth[0])
            growth[place] = [error(frame) - usual for frame in shuffled]
    mean = growth.mean(axis=1)
    ranked = [place for place in np.argsort(-mean) if mean[place] > 0]
    found = {str(inputs.columns[place]): float(mean[place]) for place in ranked}
    return bars(found, "dollars the absolute error grows by", logarithmic=True)


def errors_by_slice(slices: Sequence[Slice]) -> str:
    """RMSE of the candidate by slice, and of the champion on the same trips."""
    ours = {each.name: each.rmse for each in slices}
    theirs = {s.name: s.champion_rmse for s in slices if s.champion_rmse is not None}
    return bars(ours, "RMSE, dollars", marks=theirs, marked="the champion's")


def _residuals(at: Array, error: Array, band: Array, label: str) -> str:
    import numpy as np

    rows = [(at[band == b].mean(), *_quantiles(error[band == b])) for b in np.unique(band)]
    x, low, middle, high = np.array(rows).T
    figure, axes = axes_of(label, "predicted less paid, dollars")
    axes.fill_between(x, low, high, color=PALE, label="8 of 10 trips")
    axes.plot(x, middle, color=BLUE, linewidth=1.5, label="median")
    axes.axhline(0, color=GREY, linewidth=1, linestyle="--")
    axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def _quantiles(error: Array) -> tuple[float, float, float]:
    import numpy as np

    low, middle, high = np.quantile(error, [0.1, 0.5, 0.9])
    return float(low), float(middle), float(high)
