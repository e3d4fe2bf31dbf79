"""The estimator that is the default: the line of the meter, and a random forest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.ensemble import RandomForestRegressor

from databricks_steps.inference.feature_spec import TRIM
from databricks_steps.training.metered import Metered

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]


class MeteredForest(Metered):
    """See `Metered`; the members are trees, all else the forests' own parameters."""

    def __init__(
        self,
        distance: int = 0,
        zones: tuple[int, int] = (1, 2),
        trip_type: int = 3,
        n_estimators: int = 100,
        min_samples_leaf: int = 1,
        max_features: float = 1.0,
        max_samples: int | None = None,
        random_state: int | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.distance = distance
        self.zones = zones
        self.trip_type = trip_type
        self.n_estimators = n_estimators
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.max_samples = max_samples
        self.random_state = random_state
        self.n_jobs = n_jobs

    def ensemble(self, rows: int) -> RandomForestRegressor:
        own = {"distance", "zones", "trip_type"}
        given = {name: value for name, value in self.get_params().items() if name not in own}
        if self.max_samples is not None:
            given["max_samples"] = min(self.max_samples, rows)
        return RandomForestRegressor(**given)

    def predict_unseen(self, X: Matrix, rows: Matrix) -> Matrix:  # noqa: N803
        """Fares of `rows` (n,) of the rows it was fitted to, no type told: dollars (n,).

        Each is the trimmed mean of those trees alone that have not drawn the row (out of bag:
        Breiman, 1996); NaN where every tree has.
        """
        import numpy as np

        if not len(rows):
            return np.empty(0)
        trees = self._rests(self.any_, self.with_facts(X[rows]))
        for column, drawn in enumerate(self.any_.estimators_samples_):
            trees[np.isin(rows, drawn), column] = np.nan
        trees.sort(axis=1)  # NaN comes last
        count = np.isfinite(trees).sum(axis=1)
        first = np.minimum((count * TRIM).astype(int), np.maximum(count - 1, 0) // 2)
        place = np.arange(trees.shape[1])
        taken = (place >= first[:, None]) & (place < (count - first)[:, None])
        with np.errstate(invalid="ignore"):
            rests = np.where(taken, trees, 0.0).sum(axis=1) / taken.sum(axis=1)
        fares: Matrix = self.meter_.predict(self._miles(X[rows])) + rests
        return fares
