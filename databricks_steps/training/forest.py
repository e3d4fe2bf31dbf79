"""The estimator: the metered fare by distance, and a forest for what that formula misses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]


class MeteredForest(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A straight line through one column, and a random forest on its residuals.

    Trees answer with means of what they saw: alone they flatten the long trips that every
    small sample has too few of. The meter's own arithmetic is a line, so the line carries the
    distance and the forest the rest (zones, hours, traffic, flat fares).

    The fare is the median of the trees, not their mean: a few negotiated fares far off the
    meter would pull every fare of their leaves along (docs/training_cost.md has the figures).

    `distance` is the position of the column; all else are the forest's own parameters.
    """

    def __init__(
        self,
        distance: int = 0,
        n_estimators: int = 100,
        min_samples_leaf: int = 1,
        max_features: float = 1.0,
        max_samples: int | None = None,
        random_state: int | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.distance = distance
        self.n_estimators = n_estimators
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.max_samples = max_samples
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Matrix, y: Matrix) -> MeteredForest:  # noqa: N803 scikit-learn's names
        """Fit the line to (rows, columns) and fares in dollars, then the forest to the rest."""
        given = {name: value for name, value in self.get_params().items() if name != "distance"}
        self.meter_ = LinearRegression().fit(self._miles(X), y)
        self.forest_ = RandomForestRegressor(**given).fit(
            X, y - self.meter_.predict(self._miles(X))
        )
        return self

    def predict(self, X: Matrix) -> Matrix:  # noqa: N803
        """Fares in dollars, shape (rows,): the median of the trees."""
        import numpy as np

        fares: Matrix = np.median(self.predict_trees(X), axis=1)
        return fares

    def predict_trees(self, X: Matrix) -> Matrix:  # noqa: N803
        """The fare each tree gives, in dollars, shape (rows, trees)."""
        import numpy as np

        one = delayed(lambda tree: tree.predict(X))
        rests = Parallel(self.n_jobs, prefer="threads")(map(one, self.forest_.estimators_))
        fares: Matrix = self.meter_.predict(self._miles(X))[:, None] + np.column_stack(rests)
        return fares

    def _miles(self, X: Matrix) -> Matrix:  # noqa: N803
        return X[:, [self.distance]]
