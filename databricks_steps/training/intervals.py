"""The fare interval: how far the trees' spread must be stretched to cover what it promises."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from databricks_steps.inference.feature_spec import FareInterval
from databricks_steps.inference.scorer import GROUPS, spread, stretched
from databricks_steps.schemas import LABEL
from databricks_steps.settings import Interval

LEAST = 200  # rides of a group; fewer tell no quantile of it

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Numbers = np.ndarray[Any, np.dtype[np.int64]]


def calibrated(
    fares: Array,
    predicted: Array,
    trees: Array,
    wanted: Interval,
    group: Numbers | None = None,
    trips: Numbers | None = None,
) -> FareInterval:
    """The interval that fits one half of the holdout, with its coverage on the other half.

    The trees' quantiles alone are too narrow: they tell how unsure the mean fare is, not how
    fares scatter. Each side is stretched until its tail holds the wanted share, which is
    split-conformal prediction with scaled scores (Lei et al. 2018, section 5.2).

    `fares` (rows,) were paid, `predicted` (rows,) and `trees` (rows, trees) say the model. With
    `group` (rows,), of `scorer.GROUPS`, each group has stretches of its own (Mondrian conformal
    prediction: Vovk et al. 2005, section 4.5); one of few rows takes those of all rides of which
    features are known, or are not. `trips` (rows,) numbers the trips where one may stand in more
    than one row: a trip is in one half alone.
    """
    import numpy as np

    numbers = np.arange(len(fares)) if trips is None else trips
    fits = numbers % 2 == 0  # every other trip: both halves see the same days
    below, above = spread(predicted, trees, wanted.low, wanted.high, wanted.floor)
    shortfall = ((predicted - fares) / below)[fits]
    excess = ((fares - predicted) / above)[fits]
    found = FareInterval(
        wanted.low,
        wanted.high,
        wanted.floor,
        *_stretches(shortfall, excess, wanted),
        0.0,
        int((~fits).sum()),
    )
    if group is not None:
        fitted = group[fits]

        def own(*numbers: int) -> tuple[float, float] | None:
            rows = np.isin(fitted, numbers)
            enough = rows.sum() >= LEAST
            return _stretches(shortfall[rows], excess[rows], wanted) if enough else None

        whole = found.low_stretch, found.high_stretch
        halves = np.arange(GROUPS).reshape(2, -1)  # features are not known, or are
        by_half = [
            [own(number) or own(*half) or whole for number in half]
            for half in halves
            if np.isin(half, fitted).any()
        ] or [[whole] * len(halves[0])]
        # A model that was never asked with features answers the same with them.
        found = replace(found, groups=tuple(by_half[0] + by_half[-1]))
        group = group[~fits]
    seen = stretched(predicted[~fits], trees[~fits], found, group)
    inside = (fares[~fits] >= seen.low) & (fares[~fits] <= seen.high)
    return replace(found, coverage=float(inside.mean()))


def covered(
    holdout: pd.DataFrame,
    predicted: Array,
    trees: Array,
    interval: FareInterval,
    group: Numbers,
) -> dict[str, float]:
    """Kind of trip → share of its fares inside the interval; no request can tell the kind."""
    found = stretched(predicted, trees, interval, group)
    inside = holdout[LABEL].between(found.low, found.high)
    return {
        str(kind): float(share) for kind, share in inside.groupby(holdout["kind"]).mean().items()
    }


def _stretches(shortfall: Array, excess: Array, wanted: Interval) -> tuple[float, float]:
    return _stretch(shortfall, 1 - wanted.low), _stretch(excess, wanted.high)


def _stretch(scores: Array, share: float) -> float:
    """The conformal quantile: the ceil((n + 1) · share)-th smallest score, at least 0."""
    import numpy as np

    rank = min(int(np.ceil((len(scores) + 1) * share)), len(scores))
    return max(float(np.sort(scores)[rank - 1]), 0.0)
