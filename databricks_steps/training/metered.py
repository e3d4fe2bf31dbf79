"""The line of the meter, and what trees add to it: what all estimators share.

Where zones lie is said to the trees as facts that do not age (docs/adr/0024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression

from databricks_steps.features.request import NOT_TOLD
from databricks_steps.inference.feature_spec import middle
from databricks_steps.trips import zones

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

LEAST_TOLD = 1_000  # rows with a trip type; fewer teach nothing of it
SHORTEST = 0.3  # miles: below it, as within one zone, the line says nothing of the detour


class Metered(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A straight line through one column, and an ensemble on its residuals.

    Trees answer with means of what they saw: alone they flatten the long trips that every
    small sample has too few of. The meter's own arithmetic is a line, so the line carries the
    distance and the trees the rest (zones, hours, traffic, flat fares).

    The fare is the mean of the ensemble's members without the lowest and highest 15 %: a few
    negotiated fares far off the meter would pull every fare of their leaves along
    (docs/training_cost.md). The fare range is made of the members, too.

    A second ensemble of as many members answers where the trip type is told: it learns from such
    rows alone, so that the first one answers rides of any type.

    `distance` and `trip_type` are positions of columns; `zones` those of both ends' location
    ids, in whose place the ensembles get `zones.FACTS` and the detour. An estimator says what its
    `ensemble` is; `onnx_graph.tree_node` writes its members.
    """

    distance: int
    zones: tuple[int, int]
    trip_type: int
    n_jobs: int | None = None  # threads that predict, by members

    def ensemble(self, rows: int) -> Any:
        """One that is not fitted yet, for so many rows: `fit`, and `estimators_` once it is."""
        raise NotImplementedError

    def fit(self, X: Matrix, y: Matrix) -> Metered:  # noqa: N803 scikit-learn's names
        """Fit the line to (rows, columns) and fares in dollars, then the ensembles to the rest."""
        self.meter_ = LinearRegression().fit(self._miles(X), y)
        rest = y - self.meter_.predict(self._miles(X))
        self.any_ = self.ensemble(len(X)).fit(self.with_facts(X), rest)
        told = X[:, self.trip_type] > NOT_TOLD
        self.typed_ = None
        if (rows := int(told.sum())) >= LEAST_TOLD:
            self.typed_ = self.ensemble(rows).fit(self.with_facts(X, typed=True)[told], rest[told])
        return self

    def predict(self, X: Matrix) -> Matrix:  # noqa: N803
        """Fares in dollars, shape (rows,): the trimmed mean of the members."""
        import numpy as np

        trees = np.sort(self.predict_trees(X), axis=1)
        first, end = middle(trees.shape[1])
        fares: Matrix = trees[:, first:end].mean(axis=1)
        return fares

    def predict_trees(self, X: Matrix) -> Matrix:  # noqa: N803
        """The fare each member gives, in dollars, shape (rows, members)."""
        import numpy as np

        rests = self._rests(self.any_, self.with_facts(X))
        if self.typed_ is not None:
            told = X[:, [self.trip_type]] > NOT_TOLD
            rests = np.where(told, self._rests(self.typed_, self.with_facts(X, typed=True)), rests)
        fares: Matrix = self.meter_.predict(self._miles(X))[:, None] + rests
        return fares

    def predict_unseen(self, X: Matrix, rows: Matrix) -> Matrix:  # noqa: N803
        """Fares of `rows` (n,) of the rows it was fitted to, by members that have not learned from
        them, no type told: dollars (n,); NaN where every member has."""
        import numpy as np

        return np.full(len(rows), np.nan)

    def _rests(self, ensemble: Any, facts: Matrix) -> Matrix:
        import numpy as np

        one = delayed(lambda tree: tree.predict(facts))
        rests = Parallel(self.n_jobs, prefer="threads")(map(one, ensemble.estimators_))
        found: Matrix = np.column_stack(rests)
        return found

    def with_facts(self, X: Matrix, typed: bool = False) -> Matrix:  # noqa: N803
        """(rows, columns) → what an ensemble takes, (rows, facts) float32, as the graph makes it.

        `typed` is for the ensemble of told trip types: the type comes last.
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
        """The positions of the columns that both ensembles get as they are."""
        away = {*self.zones, self.trip_type}
        return [place for place in range(columns) if place not in away]

    def _miles(self, X: Matrix) -> Matrix:  # noqa: N803
        return X[:, [self.distance]]
