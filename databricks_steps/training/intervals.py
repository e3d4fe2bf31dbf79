"""The fare interval: how far the trees' spread must be stretched to cover what it promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps.inference.feature_spec import FareInterval
from databricks_steps.inference.scorer import spread, stretched
from databricks_steps.settings import Interval

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


def calibrated(fares: Array, predicted: Array, trees: Array, wanted: Interval) -> FareInterval:
    """The interval that fits one half of the holdout, with its coverage on the other half.

    The trees' quantiles alone are too narrow: they tell how unsure the mean fare is, not how
    fares scatter. Each side is stretched until its tail holds the wanted share, which is
    split-conformal prediction with scaled scores (Lei et al. 2018, section 5.2).

    `fares` (rows,) were paid, `predicted` (rows,) and `trees` (rows, trees) say the model.
    """
    import numpy as np

    fits = np.arange(len(fares)) % 2 == 0  # every other trip: both halves see the same days
    below, above = spread(predicted, trees, wanted.low, wanted.high, wanted.floor)
    shortfall = ((predicted - fares) / below)[fits]
    excess = ((fares - predicted) / above)[fits]
    found = FareInterval(
        wanted.low,
        wanted.high,
        wanted.floor,
        _stretch(shortfall, 1 - wanted.low),
        _stretch(excess, wanted.high),
        0.0,
        int((~fits).sum()),
    )
    seen = stretched(predicted[~fits], trees[~fits], found)
    inside = (fares[~fits] >= seen.low) & (fares[~fits] <= seen.high)
    return FareInterval(**{**vars(found), "coverage": float(inside.mean())})


def _stretch(scores: Array, share: float) -> float:
    """The conformal quantile: the ceil((n + 1) · share)-th smallest score, at least 0."""
    import numpy as np

    rank = min(int(np.ceil((len(scores) + 1) * share)), len(scores))
    return max(float(np.sort(scores)[rank - 1]), 0.0)
