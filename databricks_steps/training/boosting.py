"""Another ensemble than a forest (`TAXI_ESTIMATOR=boosting`): histogram boosting of quantiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator, clone

if TYPE_CHECKING:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor

    Matrix = np.ndarray[Any, Any]


class QuantileBoosters(BaseEstimator):  # type: ignore[misc]
    """The booster once for each quantile, so that a mean of its members is one around the median.

    Every member learns from every row.
    """

    def __init__(
        self, booster: HistGradientBoostingRegressor, quantiles: tuple[float, ...] = (0.5,)
    ) -> None:
        self.booster = booster
        self.quantiles = quantiles

    def fit(self, X: Matrix, y: Matrix) -> QuantileBoosters:  # noqa: N803 scikit-learn's names
        self.estimators_ = [
            clone(self.booster).set_params(loss="quantile", quantile=each).fit(X, y)
            for each in self.quantiles
        ]
        return self
