"""Another estimator (`TAXI_ESTIMATOR=boosting`): the line of the meter, and histogram boosting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor

from databricks_steps.training.metered import Metered

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]


class MeteredBoosting(Metered):
    """See `Metered`; the members are boosters of scikit-learn, each of a quantile of the rest.

    So the fare is a mean of quantiles around the median. Every member learns from every row.
    """

    def __init__(
        self,
        distance: int = 0,
        zones: tuple[int, int] = (1, 2),
        trip_type: int = 3,
        quantiles: tuple[float, ...] = (0.5,),
        max_iter: int = 100,
        learning_rate: float = 0.1,
        max_leaf_nodes: int = 31,
        min_samples_leaf: int = 20,
        random_state: int | None = None,
    ) -> None:
        self.distance = distance
        self.zones = zones
        self.trip_type = trip_type
        self.quantiles = quantiles
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.random_state = random_state

    def ensemble(self, rows: int) -> QuantileBoosters:
        own = {"distance", "zones", "trip_type", "quantiles"}
        given = {name: value for name, value in self.get_params().items() if name not in own}
        return QuantileBoosters(self.quantiles, given)


class QuantileBoosters(BaseEstimator):  # type: ignore[misc]
    """A booster for each quantile; `given` are the parameters they share."""

    def __init__(self, quantiles: tuple[float, ...], given: dict[str, Any]) -> None:
        self.quantiles = quantiles
        self.given = given

    def fit(self, X: Matrix, y: Matrix) -> QuantileBoosters:  # noqa: N803 scikit-learn's names
        self.estimators_ = [
            HistGradientBoostingRegressor(loss="quantile", quantile=each, **self.given).fit(X, y)
            for each in self.quantiles
        ]
        return self
