"""The estimator: the metered fare by distance, and a forest for what that formula misses.

Where zones lie is said to the forest as facts that do not age (docs/adr/0024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

from databricks_steps.features.request import NOT_TOLD
from databricks_steps.inference.feature_spec import TRIM, middle
from databricks_steps.trips import zones

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

LEAST_TOLD = 1_000  # rows with a trip type; fewer teach nothing of it
SHORTEST = 0.3  # miles: below it, as within one zone, the line says nothing of the detour


class MeteredForest(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A straight line through one column, and a random forest on its residuals.

    Trees answer with means of what they saw: alone they flatten the long trips that every
    small sample has too few of. The meter's own arithmetic is a line, so the line carries the
    distance and the forest the rest (zones, hours, traffic, flat fares).

    The fare is the mean of the trees without the lowest and highest 15 %: a few negotiated
    fares far off the meter would pull every fare of their leaves along (docs/training_cost.md).

    A second forest of as many trees answers where the trip type is told: it learns from such rows
    alone, so that the first one answers rides of any type.

    `distance` and `trip_type` are positions of columns; `zones` those of both ends' location
    ids, in whose place the forests get `zones.FACTS` and the detour. All else are the
    forests' own parameters.
    """

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

    def fit(self, X: Matrix, y: Matrix) -> MeteredForest:  # noqa: N803 scikit-learn's names
        """Fit the line to (rows, columns) and fares in dollars, then the forest to the rest."""
        own = {"distance", "zones", "trip_type"}
        given = {name: value for name, value in self.get_params().items() if name not in own}
        self.meter_ = LinearRegression().fit(self._miles(X), y)
        rest = y - self.meter_.predict(self._miles(X))
        self.forest_ = RandomForestRegressor(**given).fit(self.with_facts(X), rest)
        told = X[:, self.trip_type] > NOT_TOLD
        self.typed_ = None
        if (rows := int(told.sum())) >= LEAST_TOLD:
            most = rows if self.max_samples is None else min(self.max_samples, rows)
            typed = RandomForestRegressor(**{**given, "max_samples": most})
            self.typed_ = typed.fit(self.with_facts(X, typed=True)[told], rest[told])
        return self

    def predict(self, X: Matrix) -> Matrix:  # noqa: N803
        """Fares in dollars, shape (rows,): the trimmed mean of the trees."""
        import numpy as np

        trees = np.sort(self.predict_trees(X), axis=1)
        first, end = middle(trees.shape[1])
        fares: Matrix = trees[:, first:end].mean(axis=1)
        return fares

    def predict_trees(self, X: Matrix) -> Matrix:  # noqa: N803
        """The fare each tree gives, in dollars, shape (rows, trees)."""
        import numpy as np

        rests = self._rests(self.forest_, self.with_facts(X))
        if self.typed_ is not None:
            told = X[:, [self.trip_type]] > NOT_TOLD
            rests = np.where(told, self._rests(self.typed_, self.with_facts(X, typed=True)), rests)
        fares: Matrix = self.meter_.predict(self._miles(X))[:, None] + rests
        return fares

    def predict_unseen(self, X: Matrix, rows: Matrix) -> Matrix:  # noqa: N803
        """Fares of `rows` (n,) of the rows it was fitted to, no type told: dollars (n,).

        Each is the trimmed mean of those trees alone that have not drawn the row (out of bag:
        Breiman, 1996); NaN where every tree has.
        """
        import numpy as np

        if not len(rows):
            return np.empty(0)
        trees = self._rests(self.forest_, self.with_facts(X[rows]))
        for column, drawn in enumerate(self.forest_.estimators_samples_):
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

    def _rests(self, forest: RandomForestRegressor, facts: Matrix) -> Matrix:
        import numpy as np

        one = delayed(lambda tree: tree.predict(facts))
        rests = Parallel(self.n_jobs, prefer="threads")(map(one, forest.estimators_))
        found: Matrix = np.column_stack(rests)
        return found

    def with_facts(self, X: Matrix, typed: bool = False) -> Matrix:  # noqa: N803
        """(rows, columns) → what a forest takes, (rows, facts) float32, as the graph makes it.

        `typed` is for the forest of told trip types: the type comes last.
        """
        import numpy as np

        given = np.asarray(X, dtype="float32")
        facts = zones.facts()[zones.pair(*(given[:, place] for place in self.zones))]
        line = facts[:, zones.FACTS.index("line_miles")]
        miles = given[:, self.distance]
        detour = np.where(line >= 0, miles / np.maximum(line, SHORTEST), np.float32(zones.NO_PLACE))
        taken: Matrix = np.column_stack([given[:, self.taken(given.shape[1])], facts, detour])
        return np.column_stack([taken, given[:, self.trip_type]]) if typed else taken

    def taken(self, columns: int) -> list[int]:
        """The positions of the columns that both forests get as they are."""
        away = {*self.zones, self.trip_type}
        return [place for place in range(columns) if place not in away]

    def _miles(self, X: Matrix) -> Matrix:  # noqa: N803
        return X[:, [self.distance]]
