"""The model: the line of the meter, and what an ensemble adds to it.

Where zones lie is said to the trees as facts that do not age (docs/adr/0024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import LinearRegression

from databricks_steps.features.request import NOT_TOLD
from databricks_steps.inference.feature_spec import TRIM, middle
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

    `ensemble` is not fitted yet: it has `fit`, and `estimators_` once it is, of which
    `onnx_graph` knows how to write each. `distance` and `trip_type` are positions of columns;
    `zones` those of both ends' location ids, in whose place the ensembles get `zones.FACTS` and
    the detour.
    """

    def __init__(
        self,
        ensemble: Any,
        distance: int = 0,
        zones: tuple[int, int] = (1, 2),
        trip_type: int = 3,
    ) -> None:
        self.ensemble = ensemble
        self.distance = distance
        self.zones = zones
        self.trip_type = trip_type

    def fit(self, X: Matrix, y: Matrix) -> Metered:  # noqa: N803 scikit-learn's names
        """Fit the line to (rows, columns) and fares in dollars, then the ensembles to the rest."""
        self.meter_ = LinearRegression().fit(self._miles(X), y)
        rest = y - self.meter_.predict(self._miles(X))
        self.any_ = _of_rows(self.ensemble, len(X)).fit(self.with_facts(X), rest)
        told = X[:, self.trip_type] > NOT_TOLD
        self.typed_ = None
        if (rows := int(told.sum())) >= LEAST_TOLD:
            typed = self.with_facts(X, typed=True)
            self.typed_ = _of_rows(self.ensemble, rows).fit(typed[told], rest[told])
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
        """Fares of `rows` (n,) of the rows it was fitted to, no type told: dollars (n,).

        Each is the trimmed mean of those members alone that have not drawn the row (out of bag:
        Breiman, 1996); NaN where every member has, as of an ensemble that draws none.
        """
        import numpy as np

        drawn = getattr(self.any_, "estimators_samples_", None)
        if drawn is None or not len(rows):
            return np.full(len(rows), np.nan)
        members = self._rests(self.any_, self.with_facts(X[rows]))
        for column, places in enumerate(drawn):
            members[np.isin(rows, places), column] = np.nan
        members.sort(axis=1)  # NaN comes last
        count = np.isfinite(members).sum(axis=1)
        first = np.minimum((count * TRIM).astype(int), np.maximum(count - 1, 0) // 2)
        place = np.arange(members.shape[1])
        taken = (place >= first[:, None]) & (place < (count - first)[:, None])
        with np.errstate(invalid="ignore"):
            rests = np.where(taken, members, 0.0).sum(axis=1) / taken.sum(axis=1)
        fares: Matrix = self.meter_.predict(self._miles(X[rows])) + rests
        return fares

    def _rests(self, ensemble: Any, facts: Matrix) -> Matrix:
        import numpy as np

        one = delayed(lambda tree: tree.predict(facts))
        threads = getattr(ensemble, "n_jobs", None)
        rests = Parallel(threads, prefer="threads")(map(one, ensemble.estimators_))
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


def _of_rows(ensemble: Any, rows: int) -> Any:
    """A copy to be fitted to so many rows: none of its members may draw more."""
    found = clone(ensemble)
    if (most := getattr(found, "max_samples", None)) is not None:
        found.set_params(max_samples=min(most, rows))
    return found
