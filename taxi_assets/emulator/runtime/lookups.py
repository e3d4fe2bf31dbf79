"""Looking features up in a snapshot of the online tables, with defaults and a time to live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from databricks_steps.inference.feature_spec import TableLookup
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime.online_tables import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRESH, STALE, UNKNOWN, FUTURE = 0, 1, 2, 3  # states of a looked-up row
STATES = ("fresh", "stale", "unknown", "future")
DAY = 86_400_000_000  # microseconds
NO_LIMIT = 1 << 62
Pick = Callable[[Sequence[Any]], tuple[Any, ...]]


class One(NamedTuple):
    """What a lookup answers for one location: features, `known_at` of the row, and its `state`."""

    features: Sequence[float]
    known_at: int | None
    state: int


class Many(NamedTuple):
    """What a lookup answers for many rows, one place a row; `known_at` is 0 where UNKNOWN.

    `features` has the shape (rows, features).
    """

    features: NDArray[np.float64]
    known_at: NDArray[np.int64]
    state: NDArray[np.int8]


class Lookup:
    """One prepared lookup: locations and pickup times in (microseconds), features out.

    The defaults answer where there is no row (UNKNOWN), where the row was known longer before
    the pickup than the lookback (STALE) or only after it (FUTURE), and for a null in the row.
    """

    def __init__(self, wanted: TableLookup) -> None:
        self._wanted = wanted
        self._defaults = tuple(float(wanted.defaults[name]) for name in wanted.features)
        days = wanted.lookback_days
        self._lookback = NO_LIMIT if days is None else days * DAY
        self._prepared: tuple[tuple[str, ...], Pick] = ((), tuple)

    @property
    def source(self) -> str:
        """Full name of the feature table."""
        return self._wanted.table

    @property
    def features(self) -> tuple[str, ...]:
        return self._wanted.features

    @property
    def key(self) -> str:
        return self._wanted.key

    def one(self, snapshot: Snapshot, location: int, at: int) -> One:
        """The features of one location.

        Raises:
            ApiError: the table is not published, or lacks a feature of the model.
        """
        rows, pick = self._rows(snapshot)
        row = rows.get(location)
        if row is None:
            return One(self._defaults, None, UNKNOWN)
        if at - row[0] > self._lookback:
            return One(self._defaults, row[0], STALE)
        if row[0] > at:
            return One(self._defaults, row[0], FUTURE)
        return One(self._filled(pick(row)), row[0], FRESH)

    def many(self, snapshot: Snapshot, locations: NDArray[np.int64], at: NDArray[np.int64]) -> Many:
        """The features of each row's location; raises as `one` does."""
        rows, pick = self._rows(snapshot)
        keys, places = np.unique(locations, return_inverse=True)
        found = [rows.get(key) for key in keys.tolist()]
        features = np.array(
            [self._defaults if row is None else self._filled(pick(row)) for row in found]
            + [self._defaults]
        )
        known = np.array([0 if row is None else row[0] for row in found], dtype=np.int64)
        state = np.array([UNKNOWN if row is None else FRESH for row in found], dtype=np.int8)
        age, states = at - known[places], state[places]
        there = states == FRESH
        states = np.where(there & (age > self._lookback), np.int8(STALE), states)
        states = np.where(there & (age < 0), np.int8(FUTURE), states)
        answered = np.where(states == FRESH, places, len(keys))
        return Many(features[answered], known[places], states)

    def _filled(self, values: tuple[Any, ...]) -> tuple[float, ...]:
        if None in values:
            pairs = zip(values, self._defaults, strict=True)
            return tuple(default if value is None else value for value, default in pairs)
        return values

    def _rows(self, snapshot: Snapshot) -> tuple[Mapping[int, tuple[Any, ...]], Pick]:
        """The table's rows, and how to take the features out of one."""
        table = snapshot.get(self._wanted.table)
        if table is None:
            raise errors.missing(
                f"The online table of {self._wanted.table}",
                "not published",
                "Publish the feature table",
            )
        prepared = self._prepared
        if prepared[0] is not table.columns:
            # One assignment: another thread may look up in an older snapshot meanwhile.
            prepared = self._prepared = (table.columns, self._picking(table.columns))
        return table.by_location, prepared[1]

    def _picking(self, columns: tuple[str, ...]) -> Pick:
        lacking = sorted(set(self.features) - set(columns))
        if lacking:
            raise errors.ApiError(
                "BAD_REQUEST",
                "The online table must hold every feature of the model",
                f"{self._wanted.table}: {', '.join(lacking)}",
                "Publish the feature table the model was trained with",
            )
        return taking([1 + columns.index(name) for name in self.features])


def taking(places: Sequence[int]) -> Pick:
    """What takes the values at these places out of a row, as a tuple, of one place too."""
    pick = itemgetter(*places)
    return pick if len(places) > 1 else lambda row: (pick(row),)
